// Integer dot products of 16 rows of an integer tile with 8-bit activations. Kernel text: compiled once per SIMD level.
//
// Exact at every level: int4 sums of a group stay below 32 * 15 * 127 < 2^15 in each half, and |u - 128| * 127 * 2 <
// 2^15 where two products of int8 are added in 16 bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/simd.h"

namespace vx::VX_SIMD_NS {

VX_INLINE int32_t four_values(const int8_t* q) {
  int32_t word;
  std::memcpy(&word, q, 4);
  return word;
}

// Weights: the u32 of 16 rows, unpacked. Sums: of 16 rows. add: the columns of one u32. total: exact in fp32.
template <int kBits>
struct Dot;

#if defined(VX_LEVEL_AVX512)

template <>
struct Dot<4> {
  static constexpr bool kCentred = false;
  struct Weights {
    __m512i even, odd;
  };
  using Sums = __m512i;  // 32 bits; without VNNI two of 16 bits

  VX_INLINE Sums zero() { return _mm512_setzero_si512(); }
  VX_INLINE Weights unpack(const uint8_t* lanes) {
    const __m512i word = _mm512_loadu_si512(lanes), nibble = _mm512_set1_epi8(15);
    return {_mm512_and_si512(word, nibble), _mm512_and_si512(_mm512_srli_epi16(word, 4), nibble)};
  }
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
    const __m512i even = _mm512_set1_epi32(four_values(q)), odd = _mm512_set1_epi32(four_values(q + 4));
#if defined(VX_VNNI)
    sums = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums, w.even, even), w.odd, odd);
#else
    sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(w.even, even));
    sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(w.odd, odd));
#endif
  }
  VX_INLINE f32x16 total(Sums sums) {
#if !defined(VX_VNNI)
    sums = _mm512_madd_epi16(sums, _mm512_set1_epi16(1));
#endif
    return {_mm512_cvtepi32_ps(sums)};
  }
};

template <>
struct Dot<8> {
#if defined(VX_VNNI)
  static constexpr bool kCentred = false;
  using Weights = __m512i;
  VX_INLINE Weights unpack(const uint8_t* lanes) { return _mm512_loadu_si512(lanes); }
#else
  static constexpr bool kCentred = true;
  struct Weights {
    __m512i size;
    __mmask64 negative;
  };
  VX_INLINE Weights unpack(const uint8_t* lanes) {
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(lanes), _mm512_set1_epi8(-128));
    return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
  }
#endif
  using Sums = __m512i;

  VX_INLINE Sums zero() { return _mm512_setzero_si512(); }
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
    const __m512i four = _mm512_set1_epi32(four_values(q));
#if defined(VX_VNNI)
    sums = _mm512_dpbusd_epi32(sums, w, four);
#else
    const __m512i signed_four = _mm512_mask_sub_epi8(four, w.negative, _mm512_setzero_si512(), four);
    const __m512i pairs = _mm512_maddubs_epi16(w.size, signed_four);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
  }
  VX_INLINE f32x16 total(Sums sums) { return {_mm512_cvtepi32_ps(sums)}; }
};

#elif defined(VX_LEVEL_AVX2)

template <>
struct Dot<4> {
  static constexpr bool kCentred = false;
  struct Half {
    __m256i even, odd;
  };
  struct Weights {
    Half lo, hi;
  };
  struct Sums {
    __m256i lo, hi;  // 16 bits
  };

  VX_INLINE Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  VX_INLINE Half unpack_half(const uint8_t* lanes) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)), nibble = _mm256_set1_epi8(15);
    return {_mm256_and_si256(word, nibble), _mm256_and_si256(_mm256_srli_epi16(word, 4), nibble)};
  }
  VX_INLINE Weights unpack(const uint8_t* lanes) { return {unpack_half(lanes), unpack_half(lanes + 32)}; }
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
    const __m256i even = _mm256_set1_epi32(four_values(q)), odd = _mm256_set1_epi32(four_values(q + 4));
    sums.lo = _mm256_add_epi16(sums.lo, _mm256_maddubs_epi16(w.lo.even, even));
    sums.hi = _mm256_add_epi16(sums.hi, _mm256_maddubs_epi16(w.hi.even, even));
    sums.lo = _mm256_add_epi16(sums.lo, _mm256_maddubs_epi16(w.lo.odd, odd));
    sums.hi = _mm256_add_epi16(sums.hi, _mm256_maddubs_epi16(w.hi.odd, odd));
  }
  VX_INLINE f32x16 total(const Sums& sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_cvtepi32_ps(_mm256_madd_epi16(sums.lo, ones)), _mm256_cvtepi32_ps(_mm256_madd_epi16(sums.hi, ones))};
  }
};

template <>
struct Dot<8> {
  static constexpr bool kCentred = true;
  struct Half {
    __m256i value, size;  // u - 128 and its magnitude
  };
  struct Weights {
    Half lo, hi;
  };
  struct Sums {
    __m256i lo, hi;  // 32 bits
  };

  VX_INLINE Sums zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  VX_INLINE Half unpack_half(const uint8_t* lanes) {
    const __m256i value =
        _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)), _mm256_set1_epi8(-128));
    return {value, _mm256_abs_epi8(value)};
  }
  VX_INLINE Weights unpack(const uint8_t* lanes) { return {unpack_half(lanes), unpack_half(lanes + 32)}; }
  VX_INLINE __m256i add_half(__m256i sums, const Half& w, __m256i four) {
    const __m256i pairs = _mm256_maddubs_epi16(w.size, _mm256_sign_epi8(four, w.value));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
    const __m256i four = _mm256_set1_epi32(four_values(q));
    sums = {add_half(sums.lo, w.lo, four), add_half(sums.hi, w.hi, four)};
  }
  VX_INLINE f32x16 total(const Sums& sums) { return {_mm256_cvtepi32_ps(sums.lo), _mm256_cvtepi32_ps(sums.hi)}; }
};

#elif defined(VX_LEVEL_NEON)

struct Weights16 {
  int8x16_t a, b, c, d;  // four rows each
};

template <>
struct Dot<4> {
  static constexpr bool kCentred = false;
  struct Weights {
    Weights16 even, odd;
  };
#if defined(VX_DOTPROD)
  using Quarter = int32x4_t;
#else
  using Quarter = int16x8_t;  // two a row
#endif
  struct Sums {
    Quarter a, b, c, d;
  };

  VX_INLINE Sums zero() {
    const Quarter none{};
    return {none, none, none, none};
  }
  VX_INLINE void unpack_quarter(const uint8_t* lanes, int8x16_t& even, int8x16_t& odd) {
    const uint8x16_t word = vld1q_u8(lanes);
    even = vreinterpretq_s8_u8(vandq_u8(word, vdupq_n_u8(15)));
    odd = vreinterpretq_s8_u8(vshrq_n_u8(word, 4));
  }
  VX_INLINE Weights unpack(const uint8_t* lanes) {
    Weights w;
    unpack_quarter(lanes, w.even.a, w.odd.a);
    unpack_quarter(lanes + 16, w.even.b, w.odd.b);
    unpack_quarter(lanes + 32, w.even.c, w.odd.c);
    unpack_quarter(lanes + 48, w.even.d, w.odd.d);
    return w;
  }
#if defined(VX_DOTPROD)
  using Columns = int8x8_t;
  VX_INLINE Quarter add_quarter(Quarter sums, int8x16_t even, int8x16_t odd, Columns q) {
    return vdotq_lane_s32(vdotq_lane_s32(sums, even, q, 0), odd, q, 1);
  }
#else
  using Columns = int8x8x2_t;  // the even ones twice, the odd ones twice
  VX_INLINE Quarter add_quarter(Quarter sums, int8x16_t even, int8x16_t odd, Columns q) {
    const int16x8_t lo = vmlal_s8(vmull_s8(vget_low_s8(even), q.val[0]), vget_low_s8(odd), q.val[1]);
    const int16x8_t hi = vmlal_s8(vmull_s8(vget_high_s8(even), q.val[0]), vget_high_s8(odd), q.val[1]);
    return vaddq_s16(sums, vpaddq_s16(lo, hi));
  }
#endif
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
#if defined(VX_DOTPROD)
    const Columns columns = vld1_s8(q);
#else
    const Columns columns{vreinterpret_s8_s32(vdup_n_s32(four_values(q))),
                          vreinterpret_s8_s32(vdup_n_s32(four_values(q + 4)))};
#endif
    sums = {add_quarter(sums.a, w.even.a, w.odd.a, columns), add_quarter(sums.b, w.even.b, w.odd.b, columns),
            add_quarter(sums.c, w.even.c, w.odd.c, columns), add_quarter(sums.d, w.even.d, w.odd.d, columns)};
  }
  VX_INLINE float32x4_t total_quarter(Quarter sums) {
#if defined(VX_DOTPROD)
    return vcvtq_f32_s32(sums);
#else
    return vcvtq_f32_s32(vpaddlq_s16(sums));
#endif
  }
  VX_INLINE f32x16 total(const Sums& sums) {
    return {total_quarter(sums.a), total_quarter(sums.b), total_quarter(sums.c), total_quarter(sums.d)};
  }
};

template <>
struct Dot<8> {
  static constexpr bool kCentred = true;
  using Weights = Weights16;  // u - 128
  using Quarter = int32x4_t;
  struct Sums {
    Quarter a, b, c, d;
  };

  VX_INLINE Sums zero() {
    const Quarter none{};
    return {none, none, none, none};
  }
  VX_INLINE int8x16_t centred(const uint8_t* lanes) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(lanes), vdupq_n_u8(128)));
  }
  VX_INLINE Weights unpack(const uint8_t* lanes) {
    return {centred(lanes), centred(lanes + 16), centred(lanes + 32), centred(lanes + 48)};
  }
  VX_INLINE Quarter add_quarter(Quarter sums, int8x16_t w, int8x16_t four) {
#if defined(VX_DOTPROD)
    return vdotq_s32(sums, w, four);
#else
    const int16x8_t lo = vmull_s8(vget_low_s8(w), vget_low_s8(four)), hi = vmull_high_s8(w, four);
    return vpadalq_s16(sums, vpaddq_s16(lo, hi));
#endif
  }
  VX_INLINE void add(Sums& sums, const Weights& w, const int8_t* q) {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(four_values(q)));
    sums = {add_quarter(sums.a, w.a, four), add_quarter(sums.b, w.b, four), add_quarter(sums.c, w.c, four),
            add_quarter(sums.d, w.d, four)};
  }
  VX_INLINE f32x16 total(const Sums& sums) {
    return {vcvtq_f32_s32(sums.a), vcvtq_f32_s32(sums.b), vcvtq_f32_s32(sums.c), vcvtq_f32_s32(sums.d)};
  }
};

#else

struct ScalarDot {
  static constexpr bool kCentred = false;
  using Weights = const uint8_t*;
  struct Sums {
    int32_t v[kLanes];
  };

  VX_INLINE Sums zero() { return {}; }
  VX_INLINE Weights unpack(const uint8_t* lanes) { return lanes; }
  VX_INLINE f32x16 total(const Sums& sums) {
    float out[kLanes];
    for (int i = 0; i < kLanes; ++i) out[i] = static_cast<float>(sums.v[i]);
    return load(out);
  }
};

template <>
struct Dot<4> : ScalarDot {
  VX_INLINE void add(Sums& sums, Weights w, const int8_t* q) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < 4; ++j) sums.v[i] += (w[4 * i + j] & 15) * q[j] + (w[4 * i + j] >> 4) * q[4 + j];
  }
};

template <>
struct Dot<8> : ScalarDot {
  VX_INLINE void add(Sums& sums, Weights w, const int8_t* q) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < 4; ++j) sums.v[i] += w[4 * i + j] * q[j];
  }
};

#endif

}  // namespace vx::VX_SIMD_NS
