// Multiplying `int8` and `int4` tiles. Kernel text: compiled once per SIMD level.
//
// The order of every output: in each group of 32 columns one fma chain over ascending columns of u * x, then the group
// sum of x times -zero is added, and the groups' results times their scales form one fma chain over ascending groups.
#pragma once

#include <cstdint>
#include <cstring>

#include "c3/codec_int.h"
#include "common/simd.h"
#include "ops/int_rows.h"

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
#elif defined(VX_LEVEL_NEON)
  const auto quarter = [lanes](int i) {
    const uint32x4_t word = vreinterpretq_u32_u8(vld1q_u8(lanes + 16 * i));
    if constexpr (kTop)
      return vcvtq_f32_u32(vshrq_n_u32(word, 32 - kBits));
    else
      return vcvtq_f32_u32(vandq_u32(word, vdupq_n_u32(kMask)));
  };
  return {quarter(0), quarter(1), quarter(2), quarter(3)};
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
#elif defined(VX_LEVEL_NEON)
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t lo = vmovl_u8(vget_low_u8(bytes)), hi = vmovl_high_u8(bytes);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_high_u16(lo)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_high_u16(hi))};
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

// The columns of a 32-bit lane from kPlace on, times R rows.
template <int kBits, int kPlace, int R, int V>
VX_INLINE void int_columns(const uint8_t* lanes, const float* x, int64_t x_stride, f32x16 (&sum)[R][V]) {
  if constexpr (kPlace < IntLayout<kBits>::kPerLane) {
    for (int v = 0; v < V; ++v) {
      const f32x16 w = shifted_u<kBits, kPlace>(lanes + v * 4 * kLanes);
      for (int r = 0; r < R; ++r) sum[r][v] = fma(w, set1(x[r * x_stride + kPlace]), sum[r][v]);
    }
    int_columns<kBits, kPlace + 1>(lanes, x, x_stride, sum);
  }
}

// n groups, R rows: acc += scale * (sum - zero * group sum of x). V vectors of output rows at a time, so that the sums
// stay in registers and every weight is converted once.
template <int kBits, int R, int V>
static void multiply_groups(IntPanel panel, int64_t n, const float* x, const float* x_sums, const IntRows& rows,
                            float* acc) {
  using Layout = IntLayout<kBits>;
  for (int64_t g = 0; g < n; ++g, panel.groups += Layout::kGroupBytes, x += kGroupCols, ++x_sums) {
    for (int64_t line = 0; line < Layout::kGroupBytes; line += 64)
      __builtin_prefetch(panel.groups + 6 * Layout::kGroupBytes + line);
    for (int part = 0; part < 4; part += V) {
      f32x16 sum[R][V];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = set1(0.0f);
      const uint8_t* lanes = panel.groups + Layout::kParameterBytes + part * 4 * kLanes;
      for (int b = 0; b < Layout::kSubBlocks; ++b)
        int_columns<kBits, 0>(lanes + b * 4 * kPanelRows, x + b * Layout::kPerLane, rows.stride, sum);
      for (int v = 0; v < V; ++v) {
        const f32x16 scale = group_scale<kBits>(panel, part + v);
        const f32x16 minus_zero = sub(set1(0.0f), group_zero<kBits>(panel, part + v));
        for (int r = 0; r < R; ++r) {
          float* to = acc + r * kPanelRows + (part + v) * kLanes;
          const f32x16 centred = fma(minus_zero, set1(x_sums[r * rows.sums_stride]), sum[r][v]);
          store(to, fma(scale, centred, load(to)));
        }
      }
    }
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

template <int kBits>
static void multiply_int(IntPanel& panel, int64_t n_cols, const IntRows& rows, int64_t n_rows, float* acc) {
  // As in accumulate: 32 registers of 16 lanes, or 16 of 8. 32 of 4 lanes must hold the packed weights too.
#if defined(VX_LEVEL_AVX512)
  constexpr int kOne = 4, kFew = 4, kMany = 4, kRows = 6;
#elif defined(VX_LEVEL_NEON)
  constexpr int kOne = 2, kFew = 2, kMany = 1, kRows = 5;
#else
  constexpr int kOne = 4, kFew = 2, kMany = 1, kRows = 6;
#endif
  constexpr int64_t kGroupsInL1 = 8;
  const int64_t n_groups = n_int_groups(n_cols), blocks = (n_rows + kRows - 1) / kRows;
  for (int64_t g = 0; g < n_groups; g += kGroupsInL1) {
    const int64_t n = n_groups - g < kGroupsInL1 ? n_groups - g : kGroupsInL1;
    int64_t m = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t block_rows = (n_rows - m + blocks - b - 1) / (blocks - b);
      const float* x = rows.scaled + m * rows.stride + g * kGroupCols;
      const float* x_sums = rows.sums + m * rows.sums_stride + g;
      float* a = acc + m * kPanelRows;
      switch (block_rows) {
        case 6:
          multiply_groups<kBits, 6, kMany>(panel, n, x, x_sums, rows, a);
          break;
        case 5:
          multiply_groups<kBits, 5, kMany>(panel, n, x, x_sums, rows, a);
          break;
        case 4:
          multiply_groups<kBits, 4, kMany>(panel, n, x, x_sums, rows, a);
          break;
        case 3:
          multiply_groups<kBits, 3, kMany>(panel, n, x, x_sums, rows, a);
          break;
        case 2:
          multiply_groups<kBits, 2, kFew>(panel, n, x, x_sums, rows, a);
          break;
        default:
          multiply_groups<kBits, 1, kOne>(panel, n, x, x_sums, rows, a);
      }
      m += block_rows;
    }
    panel.groups += n * IntLayout<kBits>::kGroupBytes;
  }
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
