// A 16 x 16 transpose of floats: moves values, so it is equal at every SIMD level. Kernel text: include after simd.h.
#pragma once

#include "common/simd.h"

namespace vx::VX_SIMD_NS {

#if defined(VX_LEVEL_AVX512)

// out[j * out_stride + i] = rows[i][offset + j] for i, j in 0..15.
VX_INLINE void transpose16(const float* const* rows, int64_t offset, float* out, int64_t out_stride) {
  __m512 a[16], b[16];
  // Four rows i, i+4, i+8, i+12 side by side in the 128-bit quarters turn the rest into 4 x 4 transposes in a quarter.
  for (int i = 0; i < 4; ++i)
    for (int c = 0; c < 4; ++c) {
      __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(rows[i] + offset + 4 * c));
      v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 4] + offset + 4 * c), 1);
      v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 8] + offset + 4 * c), 2);
      a[4 * c + i] = _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 12] + offset + 4 * c), 3);
    }
  for (int c = 0; c < 4; ++c) {
    b[4 * c + 0] = _mm512_unpacklo_ps(a[4 * c + 0], a[4 * c + 1]);
    b[4 * c + 1] = _mm512_unpackhi_ps(a[4 * c + 0], a[4 * c + 1]);
    b[4 * c + 2] = _mm512_unpacklo_ps(a[4 * c + 2], a[4 * c + 3]);
    b[4 * c + 3] = _mm512_unpackhi_ps(a[4 * c + 2], a[4 * c + 3]);
    float* o = out + 4 * c * out_stride;
    _mm512_storeu_ps(o, _mm512_shuffle_ps(b[4 * c], b[4 * c + 2], 0x44));
    _mm512_storeu_ps(o + out_stride, _mm512_shuffle_ps(b[4 * c], b[4 * c + 2], 0xEE));
    _mm512_storeu_ps(o + 2 * out_stride, _mm512_shuffle_ps(b[4 * c + 1], b[4 * c + 3], 0x44));
    _mm512_storeu_ps(o + 3 * out_stride, _mm512_shuffle_ps(b[4 * c + 1], b[4 * c + 3], 0xEE));
  }
}

#elif defined(VX_LEVEL_AVX2)

VX_INLINE void transpose16(const float* const* rows, int64_t offset, float* out, int64_t out_stride) {
  for (int half = 0; half < 2; ++half)
    for (int c = 0; c < 4; ++c) {
      __m256 a[4];
      for (int i = 0; i < 4; ++i) {
        const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(rows[8 * half + i] + offset + 4 * c));
        a[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(rows[8 * half + i + 4] + offset + 4 * c), 1);
      }
      const __m256 b0 = _mm256_unpacklo_ps(a[0], a[1]), b1 = _mm256_unpackhi_ps(a[0], a[1]);
      const __m256 b2 = _mm256_unpacklo_ps(a[2], a[3]), b3 = _mm256_unpackhi_ps(a[2], a[3]);
      float* o = out + 4 * c * out_stride + 8 * half;
      _mm256_storeu_ps(o, _mm256_shuffle_ps(b0, b2, 0x44));
      _mm256_storeu_ps(o + out_stride, _mm256_shuffle_ps(b0, b2, 0xEE));
      _mm256_storeu_ps(o + 2 * out_stride, _mm256_shuffle_ps(b1, b3, 0x44));
      _mm256_storeu_ps(o + 3 * out_stride, _mm256_shuffle_ps(b1, b3, 0xEE));
    }
}

#elif defined(VX_LEVEL_NEON)

VX_INLINE void transpose16(const float* const* rows, int64_t offset, float* out, int64_t out_stride) {
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 16; j += 4) {
      float32x4_t a[4];
      for (int r = 0; r < 4; ++r) a[r] = vld1q_f32(rows[i + r] + offset + j);
      const float64x2_t b0 = vreinterpretq_f64_f32(vtrn1q_f32(a[0], a[1]));
      const float64x2_t b1 = vreinterpretq_f64_f32(vtrn2q_f32(a[0], a[1]));
      const float64x2_t b2 = vreinterpretq_f64_f32(vtrn1q_f32(a[2], a[3]));
      const float64x2_t b3 = vreinterpretq_f64_f32(vtrn2q_f32(a[2], a[3]));
      float* o = out + j * out_stride + i;
      vst1q_f32(o, vreinterpretq_f32_f64(vtrn1q_f64(b0, b2)));
      vst1q_f32(o + out_stride, vreinterpretq_f32_f64(vtrn1q_f64(b1, b3)));
      vst1q_f32(o + 2 * out_stride, vreinterpretq_f32_f64(vtrn2q_f64(b0, b2)));
      vst1q_f32(o + 3 * out_stride, vreinterpretq_f32_f64(vtrn2q_f64(b1, b3)));
    }
}

#else

VX_INLINE void transpose16(const float* const* rows, int64_t offset, float* out, int64_t out_stride) {
  for (int j = 0; j < 16; ++j)
    for (int i = 0; i < 16; ++i) out[j * out_stride + i] = rows[i][offset + j];
}

#endif

}  // namespace vx::VX_SIMD_NS
