// The table of one SIMD level; each recurrent_<level>.cpp is this text compiled with that level's flags.
#pragma once

#include "ops/causal_conv1d.inl.h"
#include "ops/ssm_scan.inl.h"

namespace vx::VX_SIMD_NS {

static void exp2_array(const float* x, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    f32x16 pair[2] = {load(x + i), load(x + i + kLanes)};
    exp2<2>(pair);
    store(out + i, pair[0]);
    store(out + i + kLanes, pair[1]);
  }
  for (; i < n; i += kLanes) store_n(out + i, exp2(load_n(x + i, n - i, 0.0f)), n - i);
}

static void softplus_array(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_n(out + i, softplus(load_n(x + i, n - i, 0.0f)), n - i);
}

extern const RecurrentOps kRecurrentOps = {ssm_scan, causal_conv1d, exp2_array, softplus_array};

}  // namespace vx::VX_SIMD_NS
