// Codecs turn the weights of a tile into bytes and back. FORMAT.md beside this file specifies every byte.
#pragma once

#include <cstdint>
#include <vector>

#include "c3/codec_exact.h"
#include "c3/codec_exact12.h"
#include "c3/codec_int.h"
#include "c3/tile.h"

namespace vx {

// Weights to encode: n_rows x n_cols little-endian patterns of `dtype`, rows `row_stride` items apart.
struct Weights {
  const uint8_t* data;
  int64_t row_stride, n_rows, n_cols;
  Dtype dtype;
};

struct EncodedTile {
  std::vector<uint8_t> prefix, residual;
  Codec codec;
  Dtype dtype;
};

// A lossless codec stores a tile raw that it would not make smaller; f32 that is upcast bf16 becomes bf16. int8 and
// int4 store a tile raw that holds a weight that is not finite.
EncodedTile encode_tile(const Weights& weights, Codec codec);

// The same into the memory of an earlier tile, whatever it holds.
void encode_tile(const Weights& weights, Codec codec, EncodedTile* tile);

// Writes the n_rows x n_cols bit patterns of a checked tile, row-major: uint16_t (bf16, f16) or uint32_t (f32;
// int8 and int4 decode to f32).
void decode_tile(const TileView& tile, void* out);

struct RawPanel {
  const uint8_t* next;  // column
};

// One panel of a checked tile, read in chunks of columns from left to right.
struct PanelReader {
  Codec codec;  // names the member of the union; a codec that decodes whole panels shows them as raw
  Dtype dtype;
  bool is_prefix;  // of codec exact: the member is exact_prefix
  union {
    RawPanel raw;
    ExactPanel exact;
    ExactPrefixPanel exact_prefix;
    Exact12Panel exact12;
    IntPanel integer;  // int8 and int4
  };
};

// Decoded bytes of a codec that decodes whole panels; must outlive the reader.
using PanelScratch = std::vector<uint8_t>;

PanelReader open_panel(const TileView& tile, int64_t panel, PanelScratch& scratch);

// Of a tile whose residual may be missing: `exact` decodes from its prefix alone, every other codec as always.
PanelReader open_prefix_panel(const TileView& tile, int64_t panel, PanelScratch& scratch);

}  // namespace vx
