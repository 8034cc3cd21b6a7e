// Multiplying `int8` and `int4` tiles. Kernel text: compiled once per SIMD level.
//
// The order of every output: in each group of 32 columns one fma chain over ascending columns of u * x, then the group
// sum of x times -zero is added, and the groups' results times their scales form one fma chain over ascending groups.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec_int.h"
#include "ops/int_rows.h"
#include "ops/tile_accumulate.inl.h"

namespace vx::VX_SIMD_NS {

// u << (kBits * kPlace) of 16 rows; the top place comes shifted down.
template <int kBits, int kPlace>
VX_INLINE f32x16 shifted_u(const uint8_t* lanes) {
  constexpr bool kTop = kPlace == IntLayout<kBits>::kPerLane - 1;
  constexpr uint32_t kMask = ((1u << kBits) - 1) << (kBits * kPlace);
#if defined(VX_LEVEL_AVX512)
  const __m512i word = _mm512_loadu_si512(lanes);
  if constexpr (kTop)
    return {_mm512_cvtepi32_ps(_mm512_srli_epi32(word, 32 - kBits))};
  else
    return {_mm512_cvtepi32_ps(_mm512_and_si512(word, _mm512_set1_epi32(static_cast<int>(kMask))))};
#elif defined(VX_LEVEL_AVX2)
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes + 32));
  if constexpr (kTop) {
    return {_mm256_cvtepi32_ps(_mm256_srli_epi32(lo, 32 - kBits)),
            _mm256_cvtepi32_ps(_mm256_srli_epi32(hi, 32 - kBits))};
  } else {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(kMask));
    return {_mm256_cvtepi32_ps(_mm256_and_si256(lo, mask)), _mm256_cvtepi32_ps(_mm256_and_si256(hi, mask))};
  }
#else
  f32x16 out;
  for (int i = 0; i < kLanes; ++i) {
    uint32_t word;
    std::memcpy(&word, lanes + 4 * i, 4);
    out.v[i] = static_cast<float>(static_cast<int32_t>(kTop ? word >> (32 - kBits) : word & kMask));
  }
  return out;
#endif
}

VX_INLINE f32x16 bytes_to_float(const uint8_t* p) {
#if defined(VX_LEVEL_AVX512)
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
#elif defined(VX_LEVEL_AVX2)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
#else
  f32x16 out;
  for (int i = 0; i < kLanes; ++i) out.v[i] = static_cast<float>(p[i]);
  return out;
#endif
}

template <int kBits>
VX_INLINE f32x16 group_scale(const IntPanel& panel, int v) {
  return mul(load(panel.units + v * kLanes), bytes_to_float(panel.groups + v * kLanes));
}

template <int kBits>
VX_INLINE f32x16 group_zero(const IntPanel& panel, int v) {
  if constexpr (kBits == 8) return set1(kInt8Zero);
  return mul(bytes_to_float(panel.groups + kPanelRows + v * kLanes), set1(kInt4ZeroStep));
}

// acc += scale * (sum - zero * group sum of x) for 16 rows of the panel.
template <int kBits>
VX_INLINE void fold_group(const IntPanel& panel, int v, f32x16 sum, float x_sum, float* acc) {
  const f32x16 centred = fma(sub(set1(0.0f), group_zero<kBits>(panel, v)), set1(x_sum), sum);
  store(acc + v * kLanes, fma(group_scale<kBits>(panel, v), centred, load(acc + v * kLanes)));
}

template <int kBits, int kPlace>
VX_INLINE void int_columns(const uint8_t* lanes, const float* x, f32x16 (&sum)[4]) {
  if constexpr (kPlace < IntLayout<kBits>::kPerLane) {
    const f32x16 value = set1(x[kPlace]);
    for (int v = 0; v < 4; ++v) sum[v] = fma(shifted_u<kBits, kPlace>(lanes + v * 4 * kLanes), value, sum[v]);
    int_columns<kBits, kPlace + 1>(lanes, x, sum);
  }
}

template <int kBits>
static void multiply_int_row(IntPanel& panel, int64_t n_groups, const IntRows& rows, float* acc) {
  using Layout = IntLayout<kBits>;
  for (int64_t g = 0; g < n_groups; ++g, panel.groups += Layout::kGroupBytes) {
    f32x16 sum[4];
    for (f32x16& s : sum) s = set1(0.0f);
    const uint8_t* lanes = panel.groups + Layout::kParameterBytes;
    for (int64_t line = 0; line < Layout::kGroupBytes; line += 64)
      __builtin_prefetch(panel.groups + 6 * Layout::kGroupBytes + line);
    for (int b = 0; b < Layout::kSubBlocks; ++b)
      int_columns<kBits, 0>(lanes + b * 4 * kPanelRows, rows.scaled + g * kGroupCols + b * Layout::kPerLane, sum);
    for (int v = 0; v < 4; ++v) fold_group<kBits>(panel, v, sum[v], rows.sums[g], acc);
  }
}

template <int kBits, int kPlace>
VX_INLINE void write_columns(const uint8_t* lanes, float* out) {
  if constexpr (kPlace < IntLayout<kBits>::kPerLane) {
    for (int v = 0; v < 4; ++v)
      store(out + kPlace * kPanelRows + v * kLanes, shifted_u<kBits, kPlace>(lanes + v * 4 * kLanes));
    write_columns<kBits, kPlace + 1>(lanes, out);
  }
}

// out[col][row] = u shifted as the kernels use it, for one group.
template <int kBits>
VX_INLINE void write_group(const IntPanel& panel, float* out) {
  using Layout = IntLayout<kBits>;
  for (int b = 0; b < Layout::kSubBlocks; ++b)
    write_columns<kBits, 0>(panel.groups + Layout::kParameterBytes + b * 4 * kPanelRows,
                            out + b * Layout::kPerLane * kPanelRows);
}

// scratch: 32 columns of weights, then n_rows x 64 sums.
template <int kBits>
static void multiply_int_rows(IntPanel& panel, int64_t n_groups, const IntRows& rows, int64_t n_rows, float* acc,
                              float* scratch) {
  float* sums = scratch + kGroupCols * kPanelRows;
  for (int64_t g = 0; g < n_groups; ++g, panel.groups += IntLayout<kBits>::kGroupBytes) {
    write_group<kBits>(panel, scratch);
    std::memset(sums, 0, n_rows * kPanelRows * sizeof(float));
    accumulate(scratch, kGroupCols, rows.scaled + g * kGroupCols, rows.stride, n_rows, sums);
    for (int64_t m = 0; m < n_rows; ++m)
      for (int v = 0; v < 4; ++v)
        fold_group<kBits>(panel, v, load(sums + m * kPanelRows + v * kLanes), rows.sums[m * rows.sums_stride + g],
                          acc + m * kPanelRows);
  }
}

template <int kBits>
static void multiply_int(IntPanel& panel, int64_t n_cols, const IntRows& rows, int64_t n_rows, float* acc,
                         float* scratch) {
  if (n_rows == 1) return multiply_int_row<kBits>(panel, n_int_groups(n_cols), rows, acc);
  multiply_int_rows<kBits>(panel, n_int_groups(n_cols), rows, n_rows, acc, scratch);
}

// The weights of the next group of columns, scale * (u - zero).
template <int kBits>
static void decode_int(IntPanel& panel, int64_t n_cols, float* out) {
  write_group<kBits>(panel, out);
  for (int v = 0; v < 4; ++v) {
    const f32x16 scale = group_scale<kBits>(panel, v), zero = group_zero<kBits>(panel, v);
    for (int64_t col = 0; col < n_cols; ++col) {
      float* at = out + col * kPanelRows + v * kLanes;
      const float unshift = IntLayout<kBits>::unshift(static_cast<int>(col) % IntLayout<kBits>::kPerLane);
      store(at, mul(scale, sub(mul(load(at), set1(unshift)), zero)));
    }
  }
  panel.groups += IntLayout<kBits>::kGroupBytes;
}

}  // namespace vx::VX_SIMD_NS
