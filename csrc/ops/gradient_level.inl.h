// The table of one SIMD level; each gradient_<level>.cpp is this text compiled with that level's flags.
#pragma once

#include "ops/conv_gradient.inl.h"
#include "ops/rms_norm_gradient.inl.h"
#include "ops/scan_gradient.inl.h"
#include "ops/swiglu_gradient.inl.h"

namespace vx::VX_SIMD_NS {

extern const GradientOps kGradientOps = {scan_gradient_of_head, conv_gradient, rms_norm_gradient, swiglu_gradient};

}  // namespace vx::VX_SIMD_NS
