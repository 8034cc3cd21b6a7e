// Moving tiles between arrays of any strides and rows of consecutive floats. Kernel text; bits are moved, never
// changed.
#pragma once

#include "common/transpose.inl.h"
#include "ops/recurrent_kernels.h"

namespace vx::VX_SIMD_NS {

// 16 values at any stride, 0 for those from n on.
VX_INLINE f32x16 load_strided(const float* from, int64_t stride, int64_t n) {
  if (stride == 1 && n >= kLanes) return load(from);
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < n ? from[i * stride] : 0.0f;
  return load(lanes);
}

// Rows of 16 that lie together at `col` = 1: gather and scatter for the layouts of models, without a call.
VX_INLINE bool are_rows(int64_t col, int64_t cols) { return col == 1 && cols >= kLanes; }

// out[r * out_stride + c] = from[r * row + c * col] for r < rows, c < cols, and 0 for c from cols up to a multiple of
// 16 where out_stride has room for it.
static void gather(const float* from, int64_t row, int64_t col, int64_t rows, int64_t cols, float* out,
                   int64_t out_stride) {
  const int64_t whole = cols / kLanes * kLanes;
  for (int64_t c = 0; c < whole; c += kLanes) {
    int64_t r = 0;
    if (col == 1) {
      for (; r < rows; ++r) store(out + r * out_stride + c, load(from + r * row + c));
    } else if (row == 1) {
      const float* columns[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) columns[i] = from + (c + i) * col;
      for (; r + kLanes <= rows; r += kLanes) {
        // Rows this far apart defeat the hardware's prefetching.
        for (int64_t i = 0; i < kLanes; ++i) __builtin_prefetch(columns[i] + kLanes * col + r);
        transpose16(columns, r, out + r * out_stride + c, out_stride);
      }
    }
    for (; r < rows; ++r)
      for (int64_t i = c; i < c + kLanes; ++i) out[r * out_stride + i] = from[r * row + i * col];
  }
  if (whole == cols) return;
  const int64_t padded = whole + kLanes <= out_stride ? whole + kLanes : out_stride;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = whole; i < cols; ++i) out[r * out_stride + i] = from[r * row + i * col];
    for (int64_t i = cols; i < padded; ++i) out[r * out_stride + i] = 0.0f;
  }
}

// to[r * row + c * col] = from[r * 16 + c] for r < rows, c < cols; cols <= 16.
static void scatter(const float* from, float* to, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  int64_t r = 0;
  if (cols == kLanes && col == 1) {
    for (; r < rows; ++r) store(to + r * row, load(from + r * kLanes));
  } else if (cols == kLanes && row == 1) {
    for (; r + kLanes <= rows; r += kLanes) {
      const float* lines[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) lines[i] = from + (r + i) * kLanes;
      transpose16(lines, 0, to + r, col);
    }
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[r * row + c * col] = from[r * kLanes + c];
}

static float* state_at(const States& x, int64_t slot, int64_t channel) {
  return x.data + slot * x.slot + channel / kLanes * x.block + channel % kLanes * x.channel;
}

// A sum of 0 * x, which is 0 as long as every x is finite.
VX_INLINE bool is_finite(f32x16 zeros) { return reduce_add(zeros) == 0.0f; }

// Adds 0 * x for every x of rows of 16.
static void watch(const float* rows, int64_t n_rows, f32x16& zeros) {
  const f32x16 zero = set1(0.0f);
  for (int64_t r = 0; r < n_rows; ++r) zeros = fma(load(rows + r * kLanes), zero, zeros);
}

}  // namespace vx::VX_SIMD_NS
