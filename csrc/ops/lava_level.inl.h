// The table of one SIMD level; each lava_<level>.cpp is this text compiled with that level's flags.
#pragma once

#include "ops/lava_scores.inl.h"
#include "ops/lava_sums.inl.h"

namespace vx::VX_SIMD_NS {

extern const LavaOps kLavaOps = {score_float, assign,   score_half, score_int8,  score_2bit,
                                 at_least,    exp2_sum, exp2_of,    decode_half, add_scaled};

}  // namespace vx::VX_SIMD_NS
