// A 64-byte vector of a tile register by register: kernels that keep the sums of all its rows in registers have few
// left, and take one part after the other. Kernel text: compiled once per SIMD level.
#pragma once

#include <cstdint>

#include "ops/tile_bytes.inl.h"

namespace vx::VX_SIMD_NS {

#if defined(VX_LEVEL_AVX2)

constexpr int kParts = 2;
struct Part {
  __m256i v;
};
// What the bytes of a part stand for, of each of the four groups of 16 rows.
struct PartRows {
  __m256 v[4];
};
VX_INLINE Part load_part(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
VX_INLINE Part low_nibbles(Part a) { return {_mm256_and_si256(a.v, _mm256_set1_epi8(0x0f))}; }
VX_INLINE Part high_nibbles(Part a) { return low_nibbles({_mm256_srli_epi16(a.v, 4)}); }
VX_INLINE Part lookup(Lut lut, Part index) { return {_mm256_shuffle_epi8(lut, index.v)}; }
// a, bit 6 of each byte cleared where bit Bit of the byte of `bits` is 0.
template <int Bit>
VX_INLINE Part and_bit6(Part a, Part bits) {
  const __m256i rest = _mm256_set1_epi8(static_cast<char>(0xbf));
  const __m256i moved = Bit < 7 ? _mm256_slli_epi16(bits.v, Bit < 7 ? 6 - Bit : 0) : _mm256_srli_epi16(bits.v, 1);
  return {_mm256_and_si256(a.v, _mm256_or_si256(moved, rest))};
}
VX_INLINE PartRows widen(Part high, Part low) {
  PartRows out;
  widen_half(high.v, low.v, out.v);
  return out;
}
VX_INLINE __m256 fma_rows(__m256 w, float x, __m256 sum) { return _mm256_fmadd_ps(w, _mm256_set1_ps(x), sum); }
VX_INLINE __m256 load_group(const float* p, int part) { return _mm256_loadu_ps(p + 8 * part); }
VX_INLINE void store_group(float* p, int part, __m256 rows) { _mm256_storeu_ps(p + 8 * part, rows); }

#elif defined(VX_LEVEL_NEON)

constexpr int kParts = 4;
struct Part {
  uint8x16_t v;
};
struct PartRows {
  float32x4_t v[4];
};
VX_INLINE Part load_part(const uint8_t* p) { return {vld1q_u8(p)}; }
VX_INLINE Part low_nibbles(Part a) { return {vandq_u8(a.v, vdupq_n_u8(0x0f))}; }
VX_INLINE Part high_nibbles(Part a) { return {vshrq_n_u8(a.v, 4)}; }
VX_INLINE Part lookup(Lut lut, Part index) { return {vqtbl1q_u8(lut, index.v)}; }
template <int Bit>
VX_INLINE Part and_bit6(Part a, Part bits) {
  uint8x16_t moved;
  if constexpr (Bit < 7)
    moved = vshlq_n_u8(bits.v, 6 - Bit);
  else
    moved = vshrq_n_u8(bits.v, 1);
  return {vandq_u8(a.v, vorrq_u8(moved, vdupq_n_u8(0xbf)))};
}
VX_INLINE PartRows widen(Part high, Part low) {
  PartRows out;
  const uint8x16_t zero = vdupq_n_u8(0);
  join_quarter(high.v, low.v, zero, zero, out.v);
  return out;
}
VX_INLINE float32x4_t fma_rows(float32x4_t w, float x, float32x4_t sum) { return vfmaq_n_f32(sum, w, x); }
VX_INLINE float32x4_t load_group(const float* p, int part) { return vld1q_f32(p + 4 * part); }
VX_INLINE void store_group(float* p, int part, float32x4_t rows) { vst1q_f32(p + 4 * part, rows); }

#else

constexpr int kParts = 1;
using Part = u8x64;
struct PartRows {
  f32x16 v[4];
};
VX_INLINE Part load_part(const uint8_t* p) { return load_bytes(p); }
VX_INLINE Part low_nibbles(Part a) { return band(a, 0x0f); }
VX_INLINE Part high_nibbles(Part a) { return shr<4>(a, 0x0f); }
#if defined(VX_LEVEL_AVX512)
template <int Bit>
VX_INLINE Part and_bit6(Part a, Part bits) {
  const __m512i rest = _mm512_set1_epi8(static_cast<char>(0xbf));
  const __m512i moved = Bit < 7 ? _mm512_slli_epi16(bits.v, Bit < 7 ? 6 - Bit : 0) : _mm512_srli_epi16(bits.v, 1);
  return {_mm512_ternarylogic_epi32(a.v, moved, rest, 0xe0)};  // a & (moved | rest)
}
#else
template <int Bit>
VX_INLINE Part and_bit6(Part a, Part bits) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<uint8_t>(a.v[i] & ((bits.v[i] >> Bit & 1) << 6 | 0xbf));
  return a;
}
#endif
VX_INLINE PartRows widen(Part high, Part low) {
  PartRows out;
  widen(high, low, out.v);
  return out;
}
VX_INLINE f32x16 fma_rows(f32x16 w, float x, f32x16 sum) { return fma(w, set1(x), sum); }
VX_INLINE f32x16 load_group(const float* p, int) { return load(p); }
VX_INLINE void store_group(float* p, int, f32x16 rows) { store(p, rows); }

#endif

constexpr int kPartBytes = 64 / kParts;

VX_INLINE PartRows load_part_rows(const float* p, int part) {
  return {load_group(p, part), load_group(p + kLanes, part), load_group(p + 2 * kLanes, part),
          load_group(p + 3 * kLanes, part)};
}
VX_INLINE void store_part_rows(float* p, int part, const PartRows& rows) {
  store_group(p, part, rows.v[0]);
  store_group(p + kLanes, part, rows.v[1]);
  store_group(p + 2 * kLanes, part, rows.v[2]);
  store_group(p + 3 * kLanes, part, rows.v[3]);
}
VX_INLINE void fma_part_rows(const PartRows& w, float x, PartRows& sum) {
  sum.v[0] = fma_rows(w.v[0], x, sum.v[0]);
  sum.v[1] = fma_rows(w.v[1], x, sum.v[1]);
  sum.v[2] = fma_rows(w.v[2], x, sum.v[2]);
  sum.v[3] = fma_rows(w.v[3], x, sum.v[3]);
}

}  // namespace vx::VX_SIMD_NS
