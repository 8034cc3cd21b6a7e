// What the LAVA kernels need beyond common/simd.h: halfs to floats, comparisons, products of bytes. Kernel text.
#pragma once

#include "common/simd.h"

namespace vx::VX_SIMD_NS {

// 16 halfs, exactly; they are finite.
VX_INLINE f32x16 load_half(const uint16_t* p) {
#if defined(VX_LEVEL_AVX512)
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
#elif defined(VX_LEVEL_AVX2)
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
#elif defined(VX_LEVEL_NEON)
  const auto four = [p](int at) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + at))); };
  return {four(0), four(4), four(8), four(12)};
#else
  f32x16 r;
  for (int i = 0; i < kLanes; ++i) {
    // The exponent is 112 too small, subnormal halfs included.
    const uint32_t magnitude = static_cast<uint32_t>(p[i] & 0x7fff) << 13, sign = static_cast<uint32_t>(p[i] >> 15)
                                                                                  << 31;
    float x;
    std::memcpy(&x, &magnitude, 4);
    x *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits |= sign;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
#endif
}

// Bit i: a[i] >= b[i].
VX_INLINE uint32_t at_least_bits(f32x16 a, f32x16 b) {
#if defined(VX_LEVEL_AVX512)
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ);
#elif defined(VX_LEVEL_AVX2)
  const auto half = [](__m256 x, __m256 y) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GE_OQ)));
  };
  return half(a.lo, b.lo) | half(a.hi, b.hi) << 8;
#else
  float x[kLanes], y[kLanes];
  store(x, a);
  store(y, b);
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(x[i] >= y[i]) << i;
  return bits;
#endif
}

// 16 exact sums of products of pairs of bytes with a pair of 16-bit integers.
struct i32x16 {
#if defined(VX_LEVEL_AVX512)
  __m512i v;
#elif defined(VX_LEVEL_AVX2)
  __m256i lo, hi;
#else
  int32_t v[kLanes];
#endif
};

VX_INLINE i32x16 zero_i32() {
#if defined(VX_LEVEL_AVX512)
  return {_mm512_setzero_si512()};
#elif defined(VX_LEVEL_AVX2)
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
#else
  i32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = 0;
  return r;
#endif
}

// acc[i] + low byte of units[i] * low half of pair + high byte * high half, bytes and halves signed.
VX_INLINE i32x16 add_products(i32x16 acc, const uint16_t* units, int32_t pair) {
#if defined(VX_LEVEL_AVX512)
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(units)));
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(wide, _mm512_set1_epi32(pair)))};
#elif defined(VX_LEVEL_AVX2)
  const auto half = [pair](__m256i sum, const uint16_t* p) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(wide, _mm256_set1_epi32(pair)));
  };
  return {half(acc.lo, units), half(acc.hi, units + 8)};
#else
  const int32_t low = static_cast<int16_t>(pair & 0xffff), high = pair >> 16;
  for (int i = 0; i < kLanes; ++i)
    acc.v[i] += static_cast<int8_t>(units[i] & 0xff) * low + static_cast<int8_t>(units[i] >> 8) * high;
  return acc;
#endif
}

VX_INLINE f32x16 to_float(i32x16 a) {
#if defined(VX_LEVEL_AVX512)
  return {_mm512_cvtepi32_ps(a.v)};
#elif defined(VX_LEVEL_AVX2)
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
#else
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<float>(a.v[i]);
  return load(lanes);
#endif
}

}  // namespace vx::VX_SIMD_NS
