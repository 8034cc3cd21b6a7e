// One vector type, four instruction sets. A kernel text (*.inl.h) includes this file and is compiled once per SIMD
// level; every operation below rounds identically at every level, so a kernel written with it gives equal bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(VX_LEVEL_AVX512)
#if defined(VX_VNNI)
#define VX_SIMD_NS avx512vnni
#else
#define VX_SIMD_NS avx512
#endif
#include <immintrin.h>
#elif defined(VX_LEVEL_AVX2)
#define VX_SIMD_NS avx2
#include <immintrin.h>
#elif defined(VX_LEVEL_NEON)
#if defined(VX_DOTPROD)
#define VX_SIMD_NS neondotprod
#else
#define VX_SIMD_NS neon
#endif
#include <arm_neon.h>
#elif defined(VX_LEVEL_SCALAR)
#define VX_SIMD_NS scalar
#else
#error "compile with one of VX_LEVEL_SCALAR, VX_LEVEL_AVX2, VX_LEVEL_AVX512, VX_LEVEL_NEON"
#endif

#define VX_INLINE static inline __attribute__((always_inline))

namespace vx::VX_SIMD_NS {

constexpr int kLanes = 16;

#if defined(VX_LEVEL_AVX512)

struct f32x16 {
  __m512 v;
};
VX_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
VX_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
VX_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
VX_INLINE f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
VX_INLINE f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
VX_INLINE f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
VX_INLINE f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
VX_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
VX_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
VX_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// Adds n to the exponent: a * 2^n with bits, no rounding; n is 1.5 * 2^23 + n as a float, of whose bits only n's are
// left by the shift.
VX_INLINE f32x16 add_exponent(f32x16 a, f32x16 n) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(n.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), exponent))};
}

#elif defined(VX_LEVEL_AVX2)

struct f32x16 {
  __m256 lo, hi;
};
VX_INLINE f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VX_INLINE f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VX_INLINE void store(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
#define VX_AVX2_BINARY(name, intrinsic) \
  VX_INLINE f32x16 name(f32x16 a, f32x16 b) { return {intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi)}; }
VX_AVX2_BINARY(add, _mm256_add_ps)
VX_AVX2_BINARY(sub, _mm256_sub_ps)
VX_AVX2_BINARY(mul, _mm256_mul_ps)
VX_AVX2_BINARY(div, _mm256_div_ps)
VX_AVX2_BINARY(max, _mm256_max_ps)
VX_AVX2_BINARY(min, _mm256_min_ps)
#undef VX_AVX2_BINARY
VX_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
VX_INLINE __m256 add_exponent_half(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}
VX_INLINE f32x16 add_exponent(f32x16 a, f32x16 n) {
  return {add_exponent_half(a.lo, n.lo), add_exponent_half(a.hi, n.hi)};
}

#elif defined(VX_LEVEL_NEON)

struct f32x16 {
  float32x4_t a, b, c, d;
};
VX_INLINE f32x16 set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
VX_INLINE f32x16 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
VX_INLINE void store(float* p, f32x16 x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
// FMAXNM and FMAX treat NaN and zeros in ways of their own: these select as maxps and minps do.
VX_INLINE float32x4_t max_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
VX_INLINE float32x4_t min_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
#define VX_NEON_BINARY(name, intrinsic)                                                          \
  VX_INLINE f32x16 name(f32x16 x, f32x16 y) {                                                    \
    return {intrinsic(x.a, y.a), intrinsic(x.b, y.b), intrinsic(x.c, y.c), intrinsic(x.d, y.d)}; \
  }
VX_NEON_BINARY(add, vaddq_f32)
VX_NEON_BINARY(sub, vsubq_f32)
VX_NEON_BINARY(mul, vmulq_f32)
VX_NEON_BINARY(div, vdivq_f32)
VX_NEON_BINARY(max, max_quarter)
VX_NEON_BINARY(min, min_quarter)
#undef VX_NEON_BINARY
VX_INLINE f32x16 fma(f32x16 x, f32x16 y, f32x16 z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
VX_INLINE float32x4_t add_exponent_quarter(float32x4_t x, float32x4_t n) {
  const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(n), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), exponent));
}
VX_INLINE f32x16 add_exponent(f32x16 x, f32x16 n) {
  return {add_exponent_quarter(x.a, n.a), add_exponent_quarter(x.b, n.b), add_exponent_quarter(x.c, n.c),
          add_exponent_quarter(x.d, n.d)};
}

#else

struct f32x16 {
  float v[kLanes];
};
VX_INLINE f32x16 set1(float x) {
  f32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = x;
  return r;
}
VX_INLINE f32x16 load(const float* p) {
  f32x16 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
VX_INLINE void store(float* p, f32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
#define VX_SCALAR_BINARY(name, expression)    \
  VX_INLINE f32x16 name(f32x16 a, f32x16 b) { \
    f32x16 r;                                 \
    for (int i = 0; i < kLanes; ++i) {        \
      const float x = a.v[i], y = b.v[i];     \
      r.v[i] = (expression);                  \
    }                                         \
    return r;                                 \
  }
VX_SCALAR_BINARY(add, x + y)
VX_SCALAR_BINARY(sub, x - y)
VX_SCALAR_BINARY(mul, x* y)
VX_SCALAR_BINARY(div, x / y)
VX_SCALAR_BINARY(max, x > y ? x : y)  // as maxps: the second operand when either is NaN
VX_SCALAR_BINARY(min, x < y ? x : y)
#undef VX_SCALAR_BINARY
VX_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  f32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return r;
}
VX_INLINE f32x16 add_exponent(f32x16 a, f32x16 n) {
  f32x16 r;
  for (int i = 0; i < kLanes; ++i) {
    uint32_t bits, shifted;
    std::memcpy(&bits, &a.v[i], 4);
    std::memcpy(&shifted, &n.v[i], 4);
    bits += shifted << 23;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}

#endif

VX_INLINE f32x16 load_n(const float* p, int64_t n, float fill) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}
VX_INLINE void store_n(float* p, f32x16 a, int64_t n) {
  float lanes[kLanes];
  store(lanes, a);
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = lanes[i];
}
// Fixed tree over the lanes: i with i+8, then +4, +2, +1.
VX_INLINE float reduce_add(f32x16 a) {
  float lanes[kLanes];
  store(lanes, a);
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
VX_INLINE float reduce_max(f32x16 a) {
  float lanes[kLanes];
  store(lanes, a);
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

}  // namespace vx::VX_SIMD_NS
