#include "c3/decoded_panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "c3/codec_table.h"
#include "c3/float_layout.h"

namespace vx {
namespace {

template <class Item>
void scatter(const TileEntry& e, int64_t panel, const uint8_t* bytes, Item* out) {
  const int64_t row0 = panel * kPanelRows, n_rows = std::min<int64_t>(kPanelRows, e.n_rows - row0);
  for (int64_t row = 0; row < n_rows; ++row)
    for (int64_t col = 0; col < e.n_cols; ++col)
      std::memcpy(&out[(row0 + row) * e.n_cols + col], bytes + (col * kPanelRows + row) * sizeof(Item), sizeof(Item));
}

}  // namespace

uint64_t panel_weights(const TileEntry& e) { return static_cast<uint64_t>(e.n_cols) * kPanelRows; }

uint64_t decoded_panel_bytes(const TileEntry& e) { return panel_weights(e) * float_layout(e.dtype).item_bytes(); }

void decode_panels(const TileView& tile, DecodePanel decode, void* out) {
  PanelScratch scratch;
  for (int64_t panel = 0; panel < tile.entry->n_panels(); ++panel) {
    decode(tile, panel, scratch);
    if (tile.entry->dtype == Dtype::f32)
      scatter(*tile.entry, panel, scratch.data(), static_cast<uint32_t*>(out));
    else
      scatter(*tile.entry, panel, scratch.data(), static_cast<uint16_t*>(out));
  }
}

void open_decoded(const TileView& tile, int64_t panel, DecodePanel decode, PanelReader* reader, PanelScratch& scratch) {
  decode(tile, panel, scratch);
  reader->codec = Codec::raw;
  reader->raw.next = scratch.data();
}

std::vector<uint8_t> raw_panels(const Weights& weights) {
  EncodedTile raw{};
  raw_codec().encode(weights, &raw);
  return std::move(raw.prefix);
}

}  // namespace vx
