// Rounding activations to 8 bits, as activation_rows.h says. Kernel text: compiled once per SIMD level.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec_int.h"
#include "common/simd.h"

namespace vx::VX_SIMD_NS {

// Bytes 0, 2, 4 and 6 of a word.
VX_INLINE uint32_t even_bytes(uint64_t word) {
  word &= 0x00ff00ff00ff00ffu;
  word = (word | word >> 8) & 0x0000ffff0000ffffu;
  return static_cast<uint32_t>(word | word >> 16);
}

template <int kBits>
VX_INLINE void round_group(const float* x, int8_t* values, float* scale, float* offset) {
  constexpr float kLeast = 0x1p-100f;    // below it 127 / a could overflow
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
  int32_t rounded[kGroupCols], largest = 0, sum = 0;
  std::memcpy(rounded, x, sizeof rounded);
  for (int i = 0; i < kGroupCols; ++i) {
    const int32_t size = rounded[i] & 0x7fffffff;  // orders NaN above infinity
    largest = largest > size ? largest : size;
  }
  float a;
  std::memcpy(&a, &largest, 4);
  const bool is_finite = largest < 0x7f800000;
  if (!is_finite || a < kLeast) {
    std::memset(values, 0, kGroupCols);
    *scale = is_finite ? 0.0f : __builtin_nanf("");
    *offset = 0.0f;
    return;
  }
  *scale = a / 127.0f;
  const float inverse = 127.0f / a;
  for (int i = 0; i < kGroupCols; ++i) {
    const float shifted = x[i] * inverse + kMagic;
    std::memcpy(&rounded[i], &shifted, 4);
  }
  for (int i = 0; i < kGroupCols; ++i) {
    values[i] = static_cast<int8_t>(rounded[i]);
    sum += static_cast<int8_t>(rounded[i]);
  }
  *offset = static_cast<float>(-sum) * (kBits == 4 ? kInt4ZeroStep : kInt8Zero);
  if constexpr (kBits == 4)
    for (int eight = 0; eight < kGroupCols; eight += 8) {
      uint64_t word;
      std::memcpy(&word, values + eight, 8);
      const uint64_t even_first = even_bytes(word) | static_cast<uint64_t>(even_bytes(word >> 8)) << 32;
      std::memcpy(values + eight, &even_first, 8);
    }
}

template <int kBits>
static void round_row(const float* x, int64_t n_cols, int64_t n_rows, int8_t* values, float* scales, float* offsets) {
  const int64_t n_whole = n_cols / kGroupCols;
  for (int64_t g = 0; g < n_whole; ++g)
    round_group<kBits>(x + g * kGroupCols, values + g * n_rows * kGroupCols, scales + g * n_rows, offsets + g * n_rows);
  if (n_whole * kGroupCols == n_cols) return;
  float last[kGroupCols] = {};
  std::memcpy(last, x + n_whole * kGroupCols, (n_cols - n_whole * kGroupCols) * sizeof(float));
  round_group<kBits>(last, values + n_whole * n_rows * kGroupCols, scales + n_whole * n_rows,
                     offsets + n_whole * n_rows);
}

}  // namespace vx::VX_SIMD_NS
