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

VX_INLINE void emit(float* out, u8x64 high, u8x64 low) {
  f32x16 w[4];
  widen(high, low, w);
  for (int v = 0; v < 4; ++v) store(out + v * kLanes, w[v]);
}

}  // namespace vx::VX_SIMD_NS
