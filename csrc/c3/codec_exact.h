// The layout of `exact` tiles (FORMAT.md section 5), shared by its encoder, its decoder and its kernels.
#pragma once

#include <cstdint>

#include "c3/tile.h"

namespace vx {

constexpr int64_t kPrefixBlockBytes = 320;  // 256 of nibbles (sign, exponent code), 64 of top mantissa bits
constexpr int kWindow = 7;                  // exponents base+1 … base+7 have codes 1 … 7
constexpr int kMaxNearDistance = 127;       // a near escape stores base - exponent in 7 bits
constexpr int kMaxNearPerBlock = 255;

struct PanelHeader {
  uint32_t base, n_far, n_near, zero;
};
static_assert(sizeof(PanelHeader) == 16);

constexpr uint64_t panel_table_bytes(int64_t n_panels) { return (n_panels * 16 + 63) / 64 * 64; }

struct ExactPanel {
  // By nibble: the two high bytes of the fp32 pattern of a weight with mantissa 0.
  alignas(16) uint8_t high_bytes[16], low_bytes[16];
  uint32_t base;
  const uint8_t* prefix;       // next block
  const uint8_t* residual;     // next block
  const uint8_t* near_counts;  // of the next block
  const uint8_t* near;         // u16 entries not yet consumed
  const uint8_t* far;          // u32 entries not yet consumed
  uint32_t n_far;
  uint32_t block;  // next block
};

// In the second highest byte of an fp32 pattern: the top mantissa bit, and the one below it, which stands for the
// middle of what the residual may add.
constexpr uint32_t kPrefixTopBit = 0x40, kPrefixMidpoint = 0x20;

// The same panel read without its residual: the low-precision copy of FORMAT.md.
struct ExactPrefixPanel {
  // By nibble: the two high bytes of the fp32 pattern of a weight whose top mantissa bit is 1; zero for code 0.
  alignas(16) uint8_t high_bytes[16], low_bytes[16];
  Dtype dtype;
  const uint8_t* prefix;  // next block
  const uint8_t* far;     // u32 entries not yet consumed
  uint32_t n_far;
  uint32_t block;  // next block
};

// tile: of codec `exact`, checked; its residual may be null.
void open_exact_prefix(const TileView& tile, int64_t panel, ExactPrefixPanel* out);

}  // namespace vx
