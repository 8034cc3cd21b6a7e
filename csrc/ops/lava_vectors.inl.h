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

VX_INLINE i32x16 set1_i32(int32_t x) {
#if defined(VX_LEVEL_AVX512)
  return {_mm512_set1_epi32(x)};
#elif defined(VX_LEVEL_AVX2)
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
#else
  i32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = x;
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

// 16 exact sums of products of 2-bit codes with bytes.
struct i16x16 {
#if defined(VX_LEVEL_AVX512) || defined(VX_LEVEL_AVX2)
  __m256i v;
#else
  int16_t v[kLanes];
#endif
};

VX_INLINE i16x16 zero_i16() {
#if defined(VX_LEVEL_AVX512) || defined(VX_LEVEL_AVX2)
  return {_mm256_setzero_si256()};
#else
  return {{}};
#endif
}

// acc[i] + the sum over b < 4 of bits 2b and 2b + 1 of each byte of units[i] times that byte's of pairs[b], signed.
VX_INLINE i16x16 add_code_products(i16x16 acc, const uint16_t* units, const int32_t* pairs) {
#if defined(VX_LEVEL_AVX512) || defined(VX_LEVEL_AVX2)
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(units)), low = _mm256_set1_epi8(3);
  const auto products = [&](__m256i shifted, int32_t pair) {
    return _mm256_maddubs_epi16(_mm256_and_si256(shifted, low), _mm256_set1_epi16(static_cast<int16_t>(pair)));
  };
  const __m256i first = _mm256_add_epi16(products(v, pairs[0]), products(_mm256_srli_epi16(v, 2), pairs[1]));
  const __m256i second =
      _mm256_add_epi16(products(_mm256_srli_epi16(v, 4), pairs[2]), products(_mm256_srli_epi16(v, 6), pairs[3]));
  return {_mm256_add_epi16(acc.v, _mm256_add_epi16(first, second))};
#else
  for (int i = 0; i < kLanes; ++i) {
    int sum = acc.v[i];
    for (int b = 0; b < 4; ++b)
      sum += (units[i] >> 2 * b & 3) * static_cast<int8_t>(pairs[b] & 0xff) +
             (units[i] >> (8 + 2 * b) & 3) * static_cast<int8_t>(pairs[b] >> 8 & 0xff);
    acc.v[i] = static_cast<int16_t>(sum);
  }
  return acc;
#endif
}

// a + 2 * b.
VX_INLINE i32x16 add_twice(i32x16 a, i16x16 b) {
#if defined(VX_LEVEL_AVX512)
  const __m512i wide = _mm512_cvtepi16_epi32(b.v);
  return {_mm512_add_epi32(a.v, _mm512_add_epi32(wide, wide))};
#elif defined(VX_LEVEL_AVX2)
  const auto half = [](__m256i sum, __m128i part) {
    const __m256i wide = _mm256_cvtepi16_epi32(part);
    return _mm256_add_epi32(sum, _mm256_add_epi32(wide, wide));
  };
  return {half(a.lo, _mm256_castsi256_si128(b.v)), half(a.hi, _mm256_extracti128_si256(b.v, 1))};
#else
  for (int i = 0; i < kLanes; ++i) a.v[i] += 2 * b.v[i];
  return a;
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
