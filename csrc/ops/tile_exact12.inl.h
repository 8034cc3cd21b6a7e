// Decoding `exact12` tiles to fp32, and multiplying them by one row on the way. Kernel text: compiled once per SIMD
// level.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec_exact12.h"
#include "ops/tile_bytes.inl.h"

namespace vx::VX_SIMD_NS {

// Calls fn(column, four vectors of its 64 weights in row order) for the 8 columns of a block; escaped weights lack
// their upper exponent.
template <class F>
VX_INLINE void for_each_column12(const uint8_t* block, Lut high_bytes, F&& fn) {
  for (int pair = 0; pair < kBlockCols / 2; ++pair) {
    const u8x64 nibbles = load_bytes(block + pair * 64);
    const uint8_t* low = block + 256 + pair * 128;
    f32x16 w[4];
    widen(lookup(high_bytes, band(nibbles, 0x0f)), load_bytes(low), w);
    fn(2 * pair, w);
    widen(lookup(high_bytes, shr<4>(nibbles, 0x0f)), load_bytes(low + 64), w);
    fn(2 * pair + 1, w);
  }
}

VX_INLINE void decode_block12(Exact12Panel& reader, Lut high_bytes, float* out) {
  for_each_column12(reader.block, high_bytes, [&](int col, const f32x16(&w)[4]) {
    for (int v = 0; v < 4; ++v) store(out + col * kPanelRows + v * kLanes, w[v]);
  });
  for (int i = 0; i < *reader.n_escapes; ++i, reader.escapes += 2) {
    uint16_t escape;
    std::memcpy(&escape, reader.escapes, sizeof escape);
    float* weight = out + (escape & 511);
    uint32_t bits;
    std::memcpy(&bits, weight, 4);
    bits |= static_cast<uint32_t>(escape >> 9) << 24;
    std::memcpy(weight, &bits, 4);
  }
  reader.block += Exact12::kBlockBytes;
  ++reader.n_escapes;
}

VX_INLINE void decode_exact12(Exact12Panel& reader, int64_t n_cols, float* out) {
  const Lut high_bytes = load_lut(reader.high_bytes);
  for (int64_t col = 0; col < n_cols; col += kBlockCols) {
    for (int64_t line = 0; line < Exact12::kBlockBytes; line += 64)
      __builtin_prefetch(reader.block + kPrefetchBlocks * Exact12::kBlockBytes + line);
    decode_block12(reader, high_bytes, out + col * kPanelRows);
  }
}

// One row: weights go from their bytes through registers into the sums. Only blocks with escapes pass through memory.
static void multiply_row12(Exact12Panel& reader, int64_t n_cols, const float* x, float* acc, float* scratch) {
  const Lut high_bytes = load_lut(reader.high_bytes);
  f32x16 sum[4];
  load_rows(acc, sum);
  for (int64_t col = 0; col < n_cols; col += kBlockCols) {
    for (int64_t line = 0; line < Exact12::kBlockBytes; line += 64)
      __builtin_prefetch(reader.block + kPrefetchBlocks * Exact12::kBlockBytes + line);
    const int64_t width = n_cols - col < kBlockCols ? n_cols - col : kBlockCols;
    if (*reader.n_escapes == 0 && width == kBlockCols) {
      for_each_column12(reader.block, high_bytes, [&](int c, const f32x16(&w)[4]) {
        const f32x16 value = set1(x[col + c]);
        for (int v = 0; v < 4; ++v) sum[v] = fma(w[v], value, sum[v]);
      });
      reader.block += Exact12::kBlockBytes;
      ++reader.n_escapes;
      continue;
    }
    decode_block12(reader, high_bytes, scratch);
    for (int64_t c = 0; c < width; ++c) {
      const f32x16 value = set1(x[col + c]);
      for (int v = 0; v < 4; ++v) sum[v] = fma(load(scratch + c * kPanelRows + v * kLanes), value, sum[v]);
    }
  }
  store_rows(acc, sum);
}

}  // namespace vx::VX_SIMD_NS
