// What the codecs that decode whole panels share: a panel is decoded to the bytes that `raw` stores for it.
#pragma once

#include <cstdint>

#include "c3/codec.h"
#include "c3/tile.h"

namespace vx {

// Writes [n_cols][64] weights, decoded_panel_bytes of them, of a checked tile's panel. Resizes scratch to at least
// that.
using DecodePanel = void (*)(const TileView& tile, int64_t panel, PanelScratch& scratch);

uint64_t panel_weights(const TileEntry& entry);
uint64_t decoded_panel_bytes(const TileEntry& entry);

// TileCodec::decode and TileCodec::open of such a codec.
void decode_panels(const TileView& tile, DecodePanel decode, void* out);
void open_decoded(const TileView& tile, int64_t panel, DecodePanel decode, PanelReader* reader, PanelScratch& scratch);

// What `raw` stores for the weights; a multiple of the panel's bytes.
std::vector<uint8_t> raw_panels(const Weights& weights);

}  // namespace vx
