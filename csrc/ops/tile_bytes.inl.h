// Vectors of 64 bytes, as tiles store them, at each SIMD level. Shifts keep only the bits of `mask`, so that a level
// may shift wider words than bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/float_layout.h"
#include "common/simd.h"

namespace vx::VX_SIMD_NS {

// Hardware prefetchers stop at page borders and see one stream of many: ask for the bytes of four chunks ahead.
constexpr int64_t kPrefetchBlocks = 16;

#if defined(VX_LEVEL_AVX512)

struct u8x64 {
  __m512i v;
};
using Lut = u8x64;
VX_INLINE u8x64 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
VX_INLINE u8x64 zero_bytes() { return {_mm512_setzero_si512()}; }
VX_INLINE Lut load_lut(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
VX_INLINE u8x64 band(u8x64 a, int mask) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(static_cast<char>(mask)))}; }
VX_INLINE u8x64 bor(u8x64 a, u8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N>
VX_INLINE u8x64 shr(u8x64 a, int mask) {
  return band({_mm512_srli_epi16(a.v, N)}, mask);
}
template <int N>
VX_INLINE u8x64 shl(u8x64 a, int mask) {
  return band({_mm512_slli_epi16(a.v, N)}, mask);
}
VX_INLINE u8x64 lookup(Lut lut, u8x64 index) { return {_mm512_shuffle_epi8(lut.v, index.v)}; }

// 64 fp32 patterns, natural row order, from their two high bytes in vector byte order.
VX_INLINE void widen(u8x64 high, u8x64 low, f32x16 (&out)[4]) {
  const __m512i keep = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512i a = _mm512_unpacklo_epi8(low.v, high.v), b = _mm512_unpackhi_epi8(low.v, high.v);
  out[0].v = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
  out[1].v = _mm512_castsi512_ps(_mm512_and_si512(a, keep));
  out[2].v = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
  out[3].v = _mm512_castsi512_ps(_mm512_and_si512(b, keep));
}
// Writes 64 fp32 patterns from all their bytes, most significant first.
VX_INLINE void emit(float* out, u8x64 high, u8x64 low, u8x64 byte1, u8x64 byte0) {
  const __m512i keep = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512i a = _mm512_unpacklo_epi8(low.v, high.v), b = _mm512_unpackhi_epi8(low.v, high.v);
  const __m512i c = _mm512_unpacklo_epi8(byte0.v, byte1.v), d = _mm512_unpackhi_epi8(byte0.v, byte1.v);
  _mm512_storeu_si512(out, _mm512_or_si512(_mm512_slli_epi32(a, 16), _mm512_andnot_si512(keep, c)));
  _mm512_storeu_si512(out + 16, _mm512_or_si512(_mm512_and_si512(a, keep), _mm512_srli_epi32(c, 16)));
  _mm512_storeu_si512(out + 32, _mm512_or_si512(_mm512_slli_epi32(b, 16), _mm512_andnot_si512(keep, d)));
  _mm512_storeu_si512(out + 48, _mm512_or_si512(_mm512_and_si512(b, keep), _mm512_srli_epi32(d, 16)));
}
VX_INLINE void widen_bf16(const uint8_t* p, float* out) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  _mm512_storeu_si512(out, _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

#elif defined(VX_LEVEL_AVX2)

struct u8x64 {
  __m256i lo, hi;
};
using Lut = __m256i;
VX_INLINE u8x64 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
VX_INLINE u8x64 zero_bytes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
VX_INLINE Lut load_lut(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
VX_INLINE u8x64 band(u8x64 a, int mask) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
VX_INLINE u8x64 bor(u8x64 a, u8x64 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int N>
VX_INLINE u8x64 shr(u8x64 a, int mask) {
  return band({_mm256_srli_epi16(a.lo, N), _mm256_srli_epi16(a.hi, N)}, mask);
}
template <int N>
VX_INLINE u8x64 shl(u8x64 a, int mask) {
  return band({_mm256_slli_epi16(a.lo, N), _mm256_slli_epi16(a.hi, N)}, mask);
}
VX_INLINE u8x64 lookup(Lut lut, u8x64 index) {
  return {_mm256_shuffle_epi8(lut, index.lo), _mm256_shuffle_epi8(lut, index.hi)};
}

VX_INLINE void store_lanes(float* out, __m256i lanes) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), lanes); }

// Half of a 64-byte vector holds rows 8h … 8h+7 of every group of 16.
VX_INLINE void widen_half(__m256i high, __m256i low, __m256 (&out)[4]) {
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const __m256i a = _mm256_unpacklo_epi8(low, high), b = _mm256_unpackhi_epi8(low, high);
  out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
  out[1] = _mm256_castsi256_ps(_mm256_and_si256(a, keep));
  out[2] = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
  out[3] = _mm256_castsi256_ps(_mm256_and_si256(b, keep));
}
VX_INLINE void widen(u8x64 high, u8x64 low, f32x16 (&out)[4]) {
  __m256 even[4], odd[4];
  widen_half(high.lo, low.lo, even);
  widen_half(high.hi, low.hi, odd);
  for (int v = 0; v < 4; ++v) out[v] = {even[v], odd[v]};
}
VX_INLINE void emit_half(float* out, __m256i high, __m256i low, __m256i byte1, __m256i byte0) {
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const __m256i a = _mm256_unpacklo_epi8(low, high), b = _mm256_unpackhi_epi8(low, high);
  const __m256i c = _mm256_unpacklo_epi8(byte0, byte1), d = _mm256_unpackhi_epi8(byte0, byte1);
  store_lanes(out, _mm256_or_si256(_mm256_slli_epi32(a, 16), _mm256_andnot_si256(keep, c)));
  store_lanes(out + 16, _mm256_or_si256(_mm256_and_si256(a, keep), _mm256_srli_epi32(c, 16)));
  store_lanes(out + 32, _mm256_or_si256(_mm256_slli_epi32(b, 16), _mm256_andnot_si256(keep, d)));
  store_lanes(out + 48, _mm256_or_si256(_mm256_and_si256(b, keep), _mm256_srli_epi32(d, 16)));
}
VX_INLINE void emit(float* out, u8x64 high, u8x64 low, u8x64 byte1, u8x64 byte0) {
  emit_half(out, high.lo, low.lo, byte1.lo, byte0.lo);
  emit_half(out + 8, high.hi, low.hi, byte1.hi, byte0.hi);
}
VX_INLINE void widen_bf16(const uint8_t* p, float* out) {
  for (int h = 0; h < 2; ++h) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * h));
    store_lanes(out + 8 * h, _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
}

#elif defined(VX_LEVEL_NEON)

struct u8x64 {
  uint8x16_t a, b, c, d;
};
using Lut = uint8x16_t;
VX_INLINE u8x64 load_bytes(const uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
VX_INLINE u8x64 zero_bytes() { return {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)}; }
VX_INLINE Lut load_lut(const uint8_t* p) { return vld1q_u8(p); }
VX_INLINE u8x64 band(u8x64 x, int mask) {
  const uint8x16_t m = vdupq_n_u8(static_cast<uint8_t>(mask));
  return {vandq_u8(x.a, m), vandq_u8(x.b, m), vandq_u8(x.c, m), vandq_u8(x.d, m)};
}
VX_INLINE u8x64 bor(u8x64 x, u8x64 y) {
  return {vorrq_u8(x.a, y.a), vorrq_u8(x.b, y.b), vorrq_u8(x.c, y.c), vorrq_u8(x.d, y.d)};
}
// Bytes shift alone here, so a mask often has nothing left to clear.
template <int N>
VX_INLINE u8x64 shr(u8x64 x, int mask) {
  const u8x64 shifted{vshrq_n_u8(x.a, N), vshrq_n_u8(x.b, N), vshrq_n_u8(x.c, N), vshrq_n_u8(x.d, N)};
  return (0xff >> N & ~mask) == 0 ? shifted : band(shifted, mask);
}
template <int N>
VX_INLINE u8x64 shl(u8x64 x, int mask) {
  const u8x64 shifted{vshlq_n_u8(x.a, N), vshlq_n_u8(x.b, N), vshlq_n_u8(x.c, N), vshlq_n_u8(x.d, N)};
  return (0xff << N & 0xff & ~mask) == 0 ? shifted : band(shifted, mask);
}
VX_INLINE u8x64 lookup(Lut lut, u8x64 index) {
  return {vqtbl1q_u8(lut, index.a), vqtbl1q_u8(lut, index.b), vqtbl1q_u8(lut, index.c), vqtbl1q_u8(lut, index.d)};
}

// Quarter i of a 64-byte vector holds rows 4i … 4i+3 of every group of 16; the words of two groups alternate in its
// halves.
VX_INLINE void join_quarter(uint8x16_t high, uint8x16_t low, uint8x16_t byte1, uint8x16_t byte0,
                            float32x4_t (&out)[4]) {
  const uint16x8_t a = vreinterpretq_u16_u8(vzip1q_u8(low, high)), b = vreinterpretq_u16_u8(vzip2q_u8(low, high));
  const uint16x8_t c = vreinterpretq_u16_u8(vzip1q_u8(byte0, byte1)), d = vreinterpretq_u16_u8(vzip2q_u8(byte0, byte1));
  out[0] = vreinterpretq_f32_u16(vtrn1q_u16(c, a));
  out[1] = vreinterpretq_f32_u16(vtrn2q_u16(c, a));
  out[2] = vreinterpretq_f32_u16(vtrn1q_u16(d, b));
  out[3] = vreinterpretq_f32_u16(vtrn2q_u16(d, b));
}
VX_INLINE void widen(u8x64 high, u8x64 low, f32x16 (&out)[4]) {
  const uint8x16_t zero = vdupq_n_u8(0);
  float32x4_t a[4], b[4], c[4], d[4];
  join_quarter(high.a, low.a, zero, zero, a);
  join_quarter(high.b, low.b, zero, zero, b);
  join_quarter(high.c, low.c, zero, zero, c);
  join_quarter(high.d, low.d, zero, zero, d);
  for (int v = 0; v < 4; ++v) out[v] = {a[v], b[v], c[v], d[v]};
}
VX_INLINE void emit_quarter(float* out, uint8x16_t high, uint8x16_t low, uint8x16_t byte1, uint8x16_t byte0) {
  float32x4_t rows[4];
  join_quarter(high, low, byte1, byte0, rows);
  for (int v = 0; v < 4; ++v) vst1q_f32(out + v * kLanes, rows[v]);
}
VX_INLINE void emit(float* out, u8x64 high, u8x64 low, u8x64 byte1, u8x64 byte0) {
  emit_quarter(out, high.a, low.a, byte1.a, byte0.a);
  emit_quarter(out + 4, high.b, low.b, byte1.b, byte0.b);
  emit_quarter(out + 8, high.c, low.c, byte1.c, byte0.c);
  emit_quarter(out + 12, high.d, low.d, byte1.d, byte0.d);
}
VX_INLINE void widen_bf16(const uint8_t* p, float* out) {
  const uint16x8_t zero = vdupq_n_u16(0);
  for (int h = 0; h < 2; ++h) {
    const uint16x8_t half = vreinterpretq_u16_u8(vld1q_u8(p + 16 * h));
    vst1q_f32(out + 8 * h, vreinterpretq_f32_u16(vzip1q_u16(zero, half)));
    vst1q_f32(out + 8 * h + 4, vreinterpretq_f32_u16(vzip2q_u16(zero, half)));
  }
}

#else

struct u8x64 {
  uint8_t v[64];
};
struct Lut {
  uint8_t v[16];
};
VX_INLINE u8x64 load_bytes(const uint8_t* p) {
  u8x64 r;
  std::memcpy(r.v, p, 64);
  return r;
}
VX_INLINE u8x64 zero_bytes() { return {}; }
VX_INLINE Lut load_lut(const uint8_t* p) {
  Lut r;
  std::memcpy(r.v, p, 16);
  return r;
}
VX_INLINE u8x64 band(u8x64 a, int mask) {
  for (auto& byte : a.v) byte = static_cast<uint8_t>(byte & mask);
  return a;
}
VX_INLINE u8x64 bor(u8x64 a, u8x64 b) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<uint8_t>(a.v[i] | b.v[i]);
  return a;
}
template <int N>
VX_INLINE u8x64 shr(u8x64 a, int mask) {
  for (auto& byte : a.v) byte = static_cast<uint8_t>((byte >> N) & mask);
  return a;
}
template <int N>
VX_INLINE u8x64 shl(u8x64 a, int mask) {
  for (auto& byte : a.v) byte = static_cast<uint8_t>((byte << N) & mask);
  return a;
}
VX_INLINE u8x64 lookup(Lut lut, u8x64 index) {
  for (auto& byte : index.v) byte = lut.v[byte];
  return index;
}
VX_INLINE void emit(float* out, u8x64 high, u8x64 low, u8x64 byte1, u8x64 byte0) {
  for (int row = 0; row < 64; ++row) {
    const int at = byte_of_row(row);
    const uint32_t bits =
        uint32_t{high.v[at]} << 24 | uint32_t{low.v[at]} << 16 | uint32_t{byte1.v[at]} << 8 | uint32_t{byte0.v[at]};
    std::memcpy(out + row, &bits, 4);
  }
}
VX_INLINE void widen(u8x64 high, u8x64 low, f32x16 (&out)[4]) {
  for (int row = 0; row < 64; ++row) {
    const int at = byte_of_row(row);
    const uint32_t bits = uint32_t{high.v[at]} << 24 | uint32_t{low.v[at]} << 16;
    std::memcpy(&out[row / kLanes].v[row % kLanes], &bits, 4);
  }
}
VX_INLINE void widen_bf16(const uint8_t* p, float* out) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = uint32_t{p[2 * i]} << 16 | uint32_t{p[2 * i + 1]} << 24;
    std::memcpy(out + i, &bits, 4);
  }
}

#endif

// 64 rows. Written out, since an array that any loop indexes before the compiler unrolls it never lives in registers.
VX_INLINE void load_rows(const float* p, f32x16 (&out)[4]) {
  out[0] = load(p);
  out[1] = load(p + kLanes);
  out[2] = load(p + 2 * kLanes);
  out[3] = load(p + 3 * kLanes);
}
VX_INLINE void store_rows(float* p, const f32x16 (&rows)[4]) {
  store(p, rows[0]);
  store(p + kLanes, rows[1]);
  store(p + 2 * kLanes, rows[2]);
  store(p + 3 * kLanes, rows[3]);
}

VX_INLINE void emit(float* out, u8x64 high, u8x64 low) {
  f32x16 w[4];
  widen(high, low, w);
  store_rows(out, w);
}

}  // namespace vx::VX_SIMD_NS
