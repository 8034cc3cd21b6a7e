// How the bits of a dtype are split, and where a row of a panel lies in a vector of bytes.
#pragma once

#include <cstdint>

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

// The byte of a 64-byte vector that holds `row`: unpacking bytes to words to lanes then gives rows in natural order.
constexpr int byte_of_row(int row) { return 16 * ((row >> 2) & 3) + 8 * (row >> 5) + 2 * (row & 3) + ((row >> 4) & 1); }
constexpr int row_of_byte(int at) { return 32 * ((at >> 3) & 1) + 16 * (at & 1) + 4 * (at >> 4) + ((at >> 1) & 3); }

}  // namespace vx
