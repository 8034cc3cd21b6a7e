// Decoding `exact` tiles from their prefixes alone, and multiplying them by one row on the way. Every dtype's weights
// then lie in the upper halves of fp32 patterns. Kernel text: compiled once per SIMD level.
//
// The order of a product: acc = fma(weight, x, acc) by rising column with far escapes as zeros, then the far escapes of
// the panel in their order. They are few, but in most blocks: so no block waits for one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "c3/codec_exact.h"
#include "ops/tile_accumulate.inl.h"
#include "ops/tile_kernels.h"
#include "ops/tile_parts.inl.h"

namespace vx::VX_SIMD_NS {

constexpr int64_t kTopBitsOffset = 256;  // in a block

struct PrefixLuts {
  Lut high, low;
};

// Calls fn(column, its weights) for the 8 columns of a part of a block; far escapes are zeros there.
template <int Col, class F>
VX_INLINE void decode_prefix_columns(const uint8_t* part, Part top_bits, PrefixLuts luts, F&& fn) {
  const Part pair = load_part(part + (Col / 2) * 64);
  const Part nibbles = Col % 2 == 0 ? low_nibbles(pair) : high_nibbles(pair);
  fn(Col, widen(lookup(luts.high, nibbles), and_bit6<Col>(lookup(luts.low, nibbles), top_bits)));
  if constexpr (Col + 1 < kBlockCols) decode_prefix_columns<Col + 1>(part, top_bits, luts, fn);
}
template <class F>
VX_INLINE void decode_prefix_part(const uint8_t* block, int part, PrefixLuts luts, F&& fn) {
  block += part * kPartBytes;
  decode_prefix_columns<0>(block, load_part(block + kTopBitsOffset), luts, fn);
}

VX_INLINE void prefetch_prefix(const uint8_t* block) {
  for (int64_t line = 0; line < kPrefixBlockBytes; line += 64)
    __builtin_prefetch(block + kPrefetchBlocks * kPrefixBlockBytes + line);
}

// A subnormal f16 is mantissa * 2^-24, which fp32 holds as a normal number.
VX_INLINE uint32_t far_pattern(Dtype dtype, uint32_t exponent, uint32_t top_bit) {
  const uint32_t mantissa = top_bit << 22 | 1u << 21;
  if (dtype != Dtype::f16) return (exponent & 255) << 23 | mantissa;
  exponent &= 31;
  if (exponent > 0) return (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa;
  const float value = static_cast<float>(mantissa >> 13) * 0x1p-24f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Calls fn(column, row, weight) for the far escapes in the next n_blocks blocks, columns counted from the first of
// them, and moves the reader behind those.
template <class F>
VX_INLINE void take_prefix_blocks(ExactPrefixPanel& reader, int64_t n_blocks, F&& fn) {
  for (; reader.n_far; --reader.n_far, reader.far += 4) {
    uint32_t entry;
    std::memcpy(&entry, reader.far, 4);
    const uint32_t position = (entry & 0xffffff) - reader.block * 512;
    if ((position >> 9) >= n_blocks) break;
    const uint32_t col = position >> 6, row = position & 63;
    const uint8_t* block = reader.prefix + (position >> 9) * kPrefixBlockBytes;
    const int at = byte_of_row(static_cast<int>(row));
    const uint32_t top_bit = block[kTopBitsOffset + at] >> (col & 7) & 1u;
    const uint32_t sign = block[(col & 7) / 2 * 64 + at] >> (col % 2 * 4 + 3) & 1u;
    const uint32_t bits = sign << 31 | far_pattern(reader.dtype, entry >> 24, top_bit);
    float weight;
    std::memcpy(&weight, &bits, 4);
    fn(col, row, weight);
  }
  reader.prefix += n_blocks * kPrefixBlockBytes;
  reader.block += static_cast<uint32_t>(n_blocks);
}

VX_INLINE PrefixLuts load_luts(const ExactPrefixPanel& reader) {
  return {load_lut(reader.high_bytes), load_lut(reader.low_bytes)};
}

// Without far escapes.
VX_INLINE void decode_prefix_blocks(const uint8_t* block, int64_t n_blocks, PrefixLuts luts, float* out) {
  for (int64_t b = 0; b < n_blocks; ++b, block += kPrefixBlockBytes, out += kBlockCols * kPanelRows) {
    prefetch_prefix(block);
    for (int part = 0; part < kParts; ++part)
      decode_prefix_part(block, part, luts, [&](int col, const PartRows& w) __attribute__((always_inline)) {
        store_part_rows(out + col * kPanelRows, part, w);
      });
  }
}

VX_INLINE void decode_prefix(ExactPrefixPanel& reader, int64_t n_cols, float* out) {
  const int64_t n_blocks = (n_cols + kBlockCols - 1) / kBlockCols;
  decode_prefix_blocks(reader.prefix, n_blocks, load_luts(reader), out);
  take_prefix_blocks(reader, n_blocks,
                     [&](uint32_t col, uint32_t row, float weight) { out[col * kPanelRows + row] = weight; });
}

// One row and whole blocks: weights go from their bits through registers into the sums. A function of its own, whose
// registers nobody else needs.
static __attribute__((noinline)) void add_prefix_blocks(const uint8_t* block, int64_t n_blocks, PrefixLuts luts,
                                                        const float* x, float* acc) {
  PartRows sum[kParts];
  auto add = [&](int part) __attribute__((always_inline)) {
    decode_prefix_part(block, part, luts, [&](int col, const PartRows& w) __attribute__((always_inline)) {
      fma_part_rows(w, x[col], sum[part]);
    });
  };
  auto for_parts = [&](auto&& fn) __attribute__((always_inline)) {
    fn(0);
    if constexpr (kParts > 1) fn(1);
    if constexpr (kParts > 2) fn(2), fn(3);
  };
  for_parts([&](int part) __attribute__((always_inline)) { sum[part] = load_part_rows(acc, part); });
  for (int64_t b = 0; b < n_blocks; ++b, block += kPrefixBlockBytes, x += kBlockCols) {
    prefetch_prefix(block);
    for_parts(add);
  }
  for_parts([&](int part) __attribute__((always_inline)) { store_part_rows(acc, part, sum[part]); });
}

static void multiply_prefix(ExactPrefixPanel& reader, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows,
                            float* acc, float* scratch) {
  const PrefixLuts luts = load_luts(reader);
  int64_t col = 0;
  if (n_rows == 1) {
    col = n_cols / kBlockCols * kBlockCols;
    add_prefix_blocks(reader.prefix, n_cols / kBlockCols, luts, x, acc);
  }
  for (; col < n_cols; col += kChunkCols) {
    const int64_t width = std::min(n_cols - col, kChunkCols);
    const uint8_t* block = reader.prefix + col / kBlockCols * kPrefixBlockBytes;
    decode_prefix_blocks(block, (width + kBlockCols - 1) / kBlockCols, luts, scratch);
    accumulate(scratch, width, x + col, x_stride, n_rows, acc);
  }
  take_prefix_blocks(reader, (n_cols + kBlockCols - 1) / kBlockCols, [&](uint32_t c, uint32_t row, float weight) {
    if (c >= n_cols) return;
    for (int64_t m = 0; m < n_rows; ++m)
      acc[m * kPanelRows + row] = __builtin_fmaf(weight, x[m * x_stride + c], acc[m * kPanelRows + row]);
  });
}

}  // namespace vx::VX_SIMD_NS
