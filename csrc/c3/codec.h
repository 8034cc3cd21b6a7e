// Codecs turn the weights of a tile into bytes and back. FORMAT.md beside this file specifies every byte.
#pragma once

#include <cstdint>
#include <vector>

#include "c3/tile.h"

namespace vx {

// How a dtype's bits are split: a sign, an exponent and a mantissa whose top bit belongs to the prefix.
struct FloatLayout {
  int exponent_bits, mantissa_bits;
  int item_bytes() const { return (1 + exponent_bits + mantissa_bits) / 8; }
  int residual_bits() const { return mantissa_bits - 1; }
  int byte_planes() const { return residual_bits() / 8; }
  int rest_bits() const { return residual_bits() % 8; }  // 6 (bf16, f32) or 1 (f16)
  int64_t residual_block_bytes() const { return residual_bits() * 64; }
};

FloatLayout float_layout(Dtype dtype);

constexpr int64_t kPrefixBlockBytes = 320;  // 256 of nibbles (sign, exponent code), 64 of top mantissa bits
constexpr int kWindow = 7;                  // exponents base+1 … base+7 have codes 1 … 7
constexpr int kMaxNearDistance = 127;       // a near escape stores base - exponent in 7 bits
constexpr int kMaxNearPerBlock = 255;

// The byte of a 64-byte vector that holds `row`: unpacking bytes to words to lanes then gives rows in natural order.
constexpr int byte_of_row(int row) { return 16 * ((row >> 2) & 3) + 8 * (row >> 5) + 2 * (row & 3) + ((row >> 4) & 1); }

struct PanelHeader {
  uint32_t base, n_far, n_near, zero;
};
static_assert(sizeof(PanelHeader) == 16);

constexpr uint64_t panel_table_bytes(int64_t n_panels) { return (n_panels * 16 + 63) / 64 * 64; }

struct EncodedTile {
  std::vector<uint8_t> prefix, residual;
  Codec codec;
  Dtype dtype;
};

// Encodes n_rows x n_cols weights (little-endian patterns of `dtype`, rows `row_stride` items apart). A tile that
// `exact` would not make smaller is stored raw; f32 that is upcast bf16 becomes bf16.
EncodedTile encode_tile(const uint8_t* weights, int64_t row_stride, int64_t n_rows, int64_t n_cols, Dtype dtype,
                        Codec codec);

// Writes the n_rows x n_cols bit patterns of a checked tile, row-major: uint16_t (bf16, f16) or uint32_t (f32).
void decode_tile(const TileView& tile, void* out);

// One panel of a checked tile, read in chunks of columns from left to right.
struct PanelReader {
  // By nibble: the two high bytes of the fp32 pattern of a weight with mantissa 0.
  alignas(16) uint8_t high_bytes[16], low_bytes[16];
  Codec codec;
  Dtype dtype;
  uint32_t base;
  const uint8_t* prefix;       // next block (exact) or column (raw)
  const uint8_t* residual;     // next block
  const uint8_t* near_counts;  // of the next block
  const uint8_t* near;         // u16 entries not yet consumed
  const uint8_t* far;          // u32 entries not yet consumed
  uint32_t n_far;
  uint32_t block;  // next block
};

PanelReader open_panel(const TileView& tile, int64_t panel);

}  // namespace vx
