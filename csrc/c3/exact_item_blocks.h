// Blocks of `exact` in every dtype, one weight after the other.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "c3/codec_exact.h"
#include "c3/float_layout.h"

namespace vx {

// 8 columns x 64 rows of bit patterns, each column in vector byte order; missing rows and columns are zero weights.
template <class Item>
using Block = Item[kBlockCols][kPanelRows];

template <class Item>
struct Source {
  const Item* weights;
  int64_t row_stride, n_rows, n_cols;

  void block(int64_t row0, int64_t col0, Block<Item>& out) const {
    const int64_t rows = n_rows - row0 < kPanelRows ? n_rows - row0 : kPanelRows;
    const int64_t cols = n_cols - col0 < kBlockCols ? n_cols - col0 : kBlockCols;
    if (rows < kPanelRows || cols < kBlockCols) std::memset(out, 0, sizeof out);
    for (int64_t row = 0; row < rows; ++row) {
      const Item* source = weights + (row0 + row) * row_stride + col0;
      const int at = byte_of_row(static_cast<int>(row));
      for (int64_t col = 0; col < cols; ++col) out[col][at] = source[col];
    }
  }
};

// Codes of a column, and 1 for each weight that needs an escape.
template <class Item>
void classify(const Item (&column)[kPanelRows], const FloatLayout& layout, uint32_t base, uint8_t (&codes)[kPanelRows],
              uint8_t (&escaped)[kPanelRows]) {
  const int m_bits = layout.mantissa_bits;
  const Item e_mask = static_cast<Item>((1u << layout.exponent_bits) - 1);
  // What makes a weight with exponent 0 an escape: the mantissa of a subnormal f16, nothing otherwise.
  const Item m_mask = static_cast<Item>(layout.exponent_bits == 5 ? (1u << m_bits) - 1 : 0);
  const Item window = static_cast<Item>(base);
  for (int at = 0; at < kPanelRows; ++at) {
    const Item e = static_cast<Item>(static_cast<Item>(column[at] >> m_bits) & e_mask);
    const Item code = static_cast<Item>(e - window);
    const bool inside = static_cast<Item>(code - 1) < kWindow;
    const bool zero = static_cast<Item>(e | static_cast<Item>(column[at] & m_mask)) == 0;
    codes[at] = static_cast<uint8_t>(inside ? code : 0);
    escaped[at] = static_cast<uint8_t>(!inside & !zero);
  }
}

template <class Item>
void write_planes(const FloatLayout& layout, const Block<Item>& weights, const uint8_t (&codes)[kBlockCols][kPanelRows],
                  uint8_t* prefix, uint8_t* residual) {
  const int sign_shift = layout.exponent_bits + layout.mantissa_bits, r_bits = layout.residual_bits();
  const int planes = layout.byte_planes();
  uint8_t high[kBlockCols][kPanelRows];  // residual bits above the byte planes
  std::memset(prefix + 256, 0, 64);
  for (int col = 0; col < kBlockCols; ++col) {
    uint8_t* nibbles = prefix + (col / 2) * 64;
    uint8_t* top_bits = prefix + 256;
    for (int at = 0; at < kPanelRows; ++at) {
      const Item w = weights[col][at];
      const uint8_t nibble = static_cast<uint8_t>((w >> sign_shift) << 3 | codes[col][at]);
      nibbles[at] = col % 2 == 0 ? nibble : static_cast<uint8_t>(nibbles[at] | nibble << 4);
      top_bits[at] = static_cast<uint8_t>(top_bits[at] | ((w >> r_bits) & 1u) << col);
      high[col][at] = static_cast<uint8_t>((w & ((1u << r_bits) - 1)) >> (8 * planes));
    }
    for (int b = 0; b < planes; ++b)
      for (int at = 0; at < kPanelRows; ++at)
        residual[(col * planes + b) * 64 + at] = static_cast<uint8_t>(weights[col][at] >> (8 * b));
  }
  uint8_t* rest = residual + kBlockCols * planes * 64;
  if (layout.rest_bits() == 1) {
    for (int at = 0; at < kPanelRows; ++at) {
      uint8_t bits = 0;
      for (int col = 0; col < kBlockCols; ++col) bits = static_cast<uint8_t>(bits | high[col][at] << col);
      rest[at] = bits;
    }
    return;
  }
  for (int group = 0; group < 2; ++group)
    for (int j = 0; j < 3; ++j)
      for (int at = 0; at < kPanelRows; ++at)
        rest[(group * 3 + j) * 64 + at] =
            static_cast<uint8_t>(high[4 * group + j][at] | ((high[4 * group + 3][at] >> (2 * j)) & 3) << 6);
}

// What the encoder of `exact` asks of a dtype's blocks.
template <class Item>
struct ExactItemBlocks {
  Source<Item> source;
  FloatLayout layout;
  Block<Item> weights;  // of the block written last

  uint32_t exponent_of(Item weight) const {
    return (weight >> layout.mantissa_bits) & ((1u << layout.exponent_bits) - 1);
  }

  std::array<uint32_t, 256> histogram(int64_t row0) const {
    std::array<uint32_t, 256> counts{};
    for (int64_t row = row0; row < row0 + kPanelRows && row < source.n_rows; ++row)
      for (int64_t col = 0; col < source.n_cols; ++col)
        ++counts[exponent_of(source.weights[row * source.row_stride + col])];
    return counts;
  }

  // Writes the block's planes, and 1 for each weight that needs an escape, 0 for the others.
  void write(int64_t row0, int64_t col0, uint32_t base, uint8_t* prefix, uint8_t* residual,
             uint8_t (&escaped)[kBlockCols][kPanelRows]) {
    source.block(row0, col0, weights);
    uint8_t codes[kBlockCols][kPanelRows];
    for (int col = 0; col < kBlockCols; ++col) classify(weights[col], layout, base, codes[col], escaped[col]);
    write_planes(layout, weights, codes, prefix, residual);
  }

  uint32_t exponent(int col, int at) const { return exponent_of(weights[col][at]); }
};

}  // namespace vx
