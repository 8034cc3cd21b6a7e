// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight. Kernel text.
#pragma once

#include "common/simd.h"
#include "ops/small_ops_kernels.h"

namespace vx::VX_SIMD_NS {

// The sum of squares is 16 chains over the columns (lane = column % 16) and a fixed tree: an order of the dimension
// only.
static void rms_norm(const RmsNormArgs& args, int64_t row0, int64_t row1) {
  const int64_t dim = args.dim, whole = dim / kLanes * kLanes, tail = dim - whole;
  for (int64_t row = row0; row < row1; ++row) {
    const float* x = args.x + row * dim;
    float* out = args.out + row * dim;
    f32x16 squares = set1(0.0f);
    for (int64_t i = 0; i < whole; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
    if (tail) {
      const f32x16 last = load_n(x + whole, tail, 0.0f);
      squares = fma(last, last, squares);
    }
    const f32x16 inverse = set1(1.0f / __builtin_sqrtf(reduce_add(squares) / static_cast<float>(dim) + args.eps));
    for (int64_t i = 0; i < whole; i += kLanes) store(out + i, mul(mul(load(x + i), inverse), load(args.weight + i)));
    if (tail) {
      const f32x16 scaled = mul(load_n(x + whole, tail, 0.0f), inverse);
      store_n(out + whole, mul(scaled, load_n(args.weight + whole, tail, 0.0f)), tail);
    }
  }
}

}  // namespace vx::VX_SIMD_NS
