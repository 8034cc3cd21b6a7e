// Sums of a read: powers of two of scores, and weighted rows of values. Kernel text.
#pragma once

#include "common/vmath.inl.h"
#include "ops/lava_kernels.h"
#include "ops/lava_vectors.inl.h"

namespace vx::VX_SIMD_NS {

// Product and difference round apart, so the largest score of a row gives exactly 1.
VX_INLINE f32x16 exp2_shifted(f32x16 score, f32x16 scale, f32x16 shift) { return exp2(sub(mul(score, scale), shift)); }

static float exp2_sum(const float* scores, const int32_t* ids, int64_t n, float scale, float shift, LavaCut cut) {
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const f32x16 score = load_n(scores + i, n - i, 0.0f);
    // Most groups have no slot that is left out; a product with 1 rounds as the sum alone does.
    if (i + kLanes <= n && at_least_bits(score, set1(cut.score)) == 0) {
      sum = add(exp2_shifted(score, set1(scale), set1(shift)), sum);
      continue;
    }
    float kept[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool inside = i + lane < n;
      const float s = inside ? scores[i + lane] : 0.0f;
      const bool left_out = s > cut.score || (s == cut.score && inside && ids[i + lane] <= cut.id);
      kept[lane] = inside && !left_out ? 1.0f : 0.0f;
    }
    sum = fma(exp2_shifted(score, set1(scale), set1(shift)), load(kept), sum);
  }
  return reduce_add(sum);
}

static void exp2_of(const float* scores, int64_t n, float scale, float shift, float* out) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_n(out + i, exp2_shifted(load_n(scores + i, n - i, 0.0f), set1(scale), set1(shift)), n - i);
}

static void decode_half(const uint16_t* units, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load_half(units + i));
  if (i == n) return;
  uint16_t rest[kLanes] = {};
  std::memcpy(rest, units + i, static_cast<size_t>(n - i) * sizeof *units);
  store_n(out + i, load_half(rest), n - i);
}

static void add_scaled(const float* x, float weight, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, fma(set1(weight), load(x + i), load(out + i)));
  if (i < n) store_n(out + i, fma(set1(weight), load_n(x + i, n - i, 0.0f), load_n(out + i, n - i, 0.0f)), n - i);
}

}  // namespace vx::VX_SIMD_NS
