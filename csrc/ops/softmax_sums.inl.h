// What -log p and the entropy of a row of logits need: its maximum and sums of e^(x - maximum). Kernel text.
#pragma once

#include "common/vmath.inl.h"
#include "ops/small_ops_kernels.h"

namespace vx::VX_SIMD_NS {

constexpr int kSumVectors = 4;
constexpr int64_t kSumGroup = kSumVectors * kLanes, kSumBlock = 16 * kSumGroup;

VX_INLINE void load_group(const float* x, int64_t n, f32x16* to) {
  for (int i = 0; i < kSumVectors; ++i) {
    const int64_t left = n - i * kLanes;
    to[i] = left >= kLanes ? load(x + i * kLanes) : load_n(x + i * kLanes, left, -__builtin_inff());
  }
}

VX_INLINE double reduce_group(const f32x16* a) { return reduce_add(add(add(a[0], a[1]), add(a[2], a[3]))); }

// Blocks of 1024 columns in 64 chains and a fixed tree, the blocks one after the other in float64: an order of the
// number of columns only.
static SoftmaxSums softmax_sums(const float* x, int64_t n) {
  f32x16 v[kSumVectors], tops[kSumVectors];
  for (int i = 0; i < kSumVectors; ++i) tops[i] = set1(-__builtin_inff());
  for (int64_t at = 0; at < n; at += kSumGroup) {
    load_group(x + at, n - at, v);
    for (int i = 0; i < kSumVectors; ++i) tops[i] = max(v[i], tops[i]);  // NaN leaves the maximum as it is
  }
  SoftmaxSums sums{reduce_max(max(max(tops[0], tops[1]), max(tops[2], tops[3]))), 0.0, 0.0};
  const f32x16 top = set1(sums.top);
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = begin + kSumBlock < n ? begin + kSumBlock : n;
    f32x16 mass[kSumVectors], moment[kSumVectors];
    for (int i = 0; i < kSumVectors; ++i) mass[i] = moment[i] = set1(0.0f);
    for (int64_t at = begin; at < end; at += kSumGroup) {
      f32x16 e[kSumVectors];
      load_group(x + at, end - at, v);
      // Far below the maximum e^v is 0, which must meet no infinity in the moment; NaN is passed on.
      for (int i = 0; i < kSumVectors; ++i) e[i] = v[i] = max(set1(-105.0f), sub(v[i], top));
      exp<kSumVectors>(e);
      for (int i = 0; i < kSumVectors; ++i) mass[i] = add(mass[i], e[i]);
      for (int i = 0; i < kSumVectors; ++i) moment[i] = fma(e[i], v[i], moment[i]);
    }
    sums.mass += reduce_group(mass);
    sums.moment += reduce_group(moment);
  }
  return sums;
}

}  // namespace vx::VX_SIMD_NS
