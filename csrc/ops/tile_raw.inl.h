// Widening `raw` tiles to fp32. Kernel text: compiled once per SIMD level.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec.h"
#include "ops/tile_bytes.inl.h"
#include "ops/tile_exact.inl.h"

namespace vx::VX_SIMD_NS {

VX_INLINE float half_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x8000u) << 16 | static_cast<uint32_t>(half & 0x3ffu) << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  patch<Dtype::f16>(&value, 0, (half >> 10) & 31u);
  return value;
}

VX_INLINE void decode_raw(RawPanel& reader, Dtype dtype, int64_t n_cols, float* out) {
  const int64_t n = n_cols * kPanelRows;
  if (dtype == Dtype::f32) {
    std::memcpy(out, reader.next, n * 4);
    reader.next += n * 4;
    return;
  }
  if (dtype == Dtype::bf16) {
    for (int64_t i = 0; i < n; i += kLanes) {
      __builtin_prefetch(reader.next + 2 * i + kPrefetchBlocks * 1024);
      widen_bf16(reader.next + 2 * i, out + i);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t half;
      std::memcpy(&half, reader.next + 2 * i, 2);
      out[i] = half_to_float(half);
    }
  }
  reader.next += n * 2;
}

}  // namespace vx::VX_SIMD_NS
