// Many activation rows times decoded columns. Kernel text: compiled once per SIMD level.
#pragma once

#include <cstdint>

#include "c3/tile.h"
#include "common/simd.h"

namespace vx::VX_SIMD_NS {

// R activation rows x V vectors of output rows live in registers while the chunk's columns stream past.
template <int R, int V>
VX_INLINE void accumulate_block(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, float* acc) {
  f32x16 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = load(acc + r * kPanelRows + v * kLanes);
  for (int64_t col = 0; col < n_cols; ++col) {
    f32x16 w[V];
    for (int v = 0; v < V; ++v) w[v] = load(weights + col * kPanelRows + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const f32x16 value = set1(x[r * x_stride + col]);
      for (int v = 0; v < V; ++v) sum[r][v] = fma(w[v], value, sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(acc + r * kPanelRows + v * kLanes, sum[r][v]);
}

template <int R, int V>
VX_INLINE void accumulate_rows(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, float* acc) {
  for (int part = 0; part < 4; part += V)
    accumulate_block<R, V>(weights + part * kLanes, n_cols, x, x_stride, acc + part * kLanes);
}

static void accumulate(const float* weights, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows,
                       float* acc) {
  // As many sums as hide an FMA's latency, and registers left for the weights and one activation: 32 of 16 lanes, 16
  // of 8.
#if defined(VX_LEVEL_AVX512)
  constexpr int kFew = 4, kMany = 4;
#else
  constexpr int kFew = 2, kMany = 1;
#endif
  constexpr int kRows = 6;
  int64_t m = 0;
  const int64_t groups = (n_rows + kRows - 1) / kRows;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t rows = (n_rows - m + groups - g - 1) / (groups - g);
    const float* xs = x + m * x_stride;
    float* a = acc + m * kPanelRows;
    switch (rows) {
      case 6:
        accumulate_rows<6, kMany>(weights, n_cols, xs, x_stride, a);
        break;
      case 5:
        accumulate_rows<5, kMany>(weights, n_cols, xs, x_stride, a);
        break;
      case 4:
        accumulate_rows<4, kMany>(weights, n_cols, xs, x_stride, a);
        break;
      case 3:
        accumulate_rows<3, kFew>(weights, n_cols, xs, x_stride, a);
        break;
      case 2:
        accumulate_rows<2, kFew>(weights, n_cols, xs, x_stride, a);
        break;
      default:
        accumulate_rows<1, 4>(weights, n_cols, xs, x_stride, a);
    }
    m += rows;
  }
}

}  // namespace vx::VX_SIMD_NS
