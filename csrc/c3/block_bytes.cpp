#include "c3/block_bytes.h"

#include <algorithm>

#include "c3/float_layout.h"

#if defined(__clang__)
#define VX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, U8x16{__VA_ARGS__})
#endif

namespace vx {
namespace {

// Interleaving vector k with k + 8 rotates the eight bits of (vector, byte) by one; four times transpose.
void transpose(U8x16 (&v)[16]) {
  for (int turn = 0; turn < 4; ++turn) {
    U8x16 out[16];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      out[2 * k] = VX_SHUFFLE(v[k], v[k + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      out[2 * k + 1] = VX_SHUFFLE(v[k], v[k + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(v, out, sizeof out);
  }
}

}  // namespace

void read_block(const Weights& weights, int64_t row0, int64_t col0, BlockBytes& out) {
  const int64_t rows = std::min(kPanelRows, weights.n_rows - row0), cols = std::min(kBlockCols, weights.n_cols - col0);
  const auto* from = reinterpret_cast<const uint16_t*>(weights.data) + row0 * weights.row_stride + col0;
  int64_t stride = weights.row_stride;
  uint16_t padded[kPanelRows][kBlockCols];
  if (rows < kPanelRows || cols < kBlockCols) {
    std::memset(padded, 0, sizeof padded);
    for (int64_t row = 0; row < rows; ++row) std::memcpy(padded[row], from + row * stride, cols * sizeof *from);
    from = &padded[0][0];
    stride = kBlockCols;
  }
  for (int at = 0; at < kPanelRows; at += 16) {
    U8x16 v[16];  // rows of 8 weights, then bytes of a column in 16 rows
    for (int i = 0; i < 16; ++i) v[i] = load_bytes(from + row_of_byte(at + i) * stride);
    transpose(v);
    for (int col = 0; col < kBlockCols; ++col) {
      store_bytes(out.low[col] + at, v[2 * col]);
      store_bytes(out.high[col] + at, v[2 * col + 1]);
    }
  }
}

std::array<uint32_t, 256> count_exponents(const Weights& weights, int64_t row0) {
  // Neighbours often have the same exponent: in tables of their own they need not wait for each other.
  uint32_t counts[8][256] = {};
  for (int64_t row = row0; row < std::min(row0 + kPanelRows, weights.n_rows); ++row) {
    const auto* items = reinterpret_cast<const uint16_t*>(weights.data) + row * weights.row_stride;
    int64_t col = 0;
    for (; col + 8 <= weights.n_cols; col += 8) {
      uint64_t words[2];
      std::memcpy(words, items + col, sizeof words);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) ++counts[i][words[i / 4] >> (16 * (i % 4) + 7) & 255];
    }
    for (; col < weights.n_cols; ++col) ++counts[0][items[col] >> 7 & 255];
  }
  std::array<uint32_t, 256> sums{};
  for (const auto& table : counts)
    for (size_t e = 0; e < sums.size(); ++e) sums[e] += table[e];
  return sums;
}

}  // namespace vx
