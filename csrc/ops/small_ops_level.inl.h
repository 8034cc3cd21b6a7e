// The table of one SIMD level; each small_ops_<level>.cpp is this text compiled with that level's flags.
#pragma once

#include "ops/attend.inl.h"
#include "ops/rms_norm.inl.h"
#include "ops/rope.inl.h"
#include "ops/softmax_sums.inl.h"
#include "ops/swiglu.inl.h"

namespace vx::VX_SIMD_NS {

static void exp_array(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store_n(out + i, exp(load_n(x + i, n - i, 0.0f)), n - i);
}

extern const SmallOps kSmallOps = {rms_norm, rope, attend, swiglu, softmax_sums, exp_array};

}  // namespace vx::VX_SIMD_NS
