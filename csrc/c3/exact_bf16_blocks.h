// Blocks of `exact` in bf16, sixteen weights at once.
#pragma once

#include <array>
#include <cstdint>

#include "c3/block_bytes.h"
#include "c3/codec_exact.h"

namespace vx {

// As ExactItemBlocks<uint16_t> of bf16 weights.
struct ExactBf16Blocks {
  Weights weights;
  BlockBytes bytes;  // of the block written last

  std::array<uint32_t, 256> histogram(int64_t row0) const { return count_exponents(weights, row0); }

  void write(int64_t row0, int64_t col0, uint32_t base, uint8_t* prefix, uint8_t* residual,
             uint8_t (&escaped)[kBlockCols][kPanelRows]) {
    read_block(weights, row0, col0, bytes);
    for (int at = 0; at < kPanelRows; at += 16) write_rows(at, static_cast<uint8_t>(base), prefix, residual, escaped);
  }

  uint32_t exponent(int col, int at) const { return (bytes.high[col][at] << 1 & 254) | bytes.low[col][at] >> 7; }

 private:
  // Vector bytes `at` to at + 15 of all columns.
  void write_rows(int at, uint8_t base, uint8_t* prefix, uint8_t* residual,
                  uint8_t (&escaped)[kBlockCols][kPanelRows]) const {
    U8x16 nibbles[kBlockCols], low[kBlockCols], top_bits{};
#pragma GCC unroll 8
    for (int col = 0; col < kBlockCols; ++col) {
      const U8x16 high = load_bytes(bytes.high[col] + at);
      low[col] = load_bytes(bytes.low[col] + at);
      const U8x16 e = high + high + shift_right<7>(low[col]), code = e - all(base);
      const auto inside = reinterpret_cast<U8x16>(code - all(1) < all(kWindow)),
                 zero = reinterpret_cast<U8x16>(e == all(0));
      store_bytes(escaped[col] + at, ~(inside | zero) & all(1));
      nibbles[col] = (shift_right<4>(high) & all(8)) | (code & inside);
      const U8x16 top = reinterpret_cast<U8x16>((low[col] & all(64)) != all(0));
      top_bits |= top & all(static_cast<uint8_t>(1 << col));
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < kBlockCols / 2; ++pair)
      store_bytes(prefix + pair * 64 + at, nibbles[2 * pair] | shift_left<4>(nibbles[2 * pair + 1]));
    store_bytes(prefix + 256 + at, top_bits);
#pragma GCC unroll 2
    for (int group = 0; group < 2; ++group) {
      const U8x16* columns = low + 4 * group;
      const U8x16 fourth = columns[3];
      uint8_t* out = residual + group * 192 + at;
      store_bytes(out, (columns[0] & all(63)) | shift_left<6>(fourth));
      store_bytes(out + 64, (columns[1] & all(63)) | (shift_left<4>(fourth) & all(192)));
      store_bytes(out + 128, (columns[2] & all(63)) | (shift_left<2>(fourth) & all(192)));
    }
  }
};

}  // namespace vx
