// Rotary position embedding, rotate-half: (x1*cos - x2*sin, x2*cos + x1*sin), x1 and x2 the halves of a head. Kernel
// text.
#pragma once

#include "common/simd.h"
#include "ops/small_ops_kernels.h"

namespace vx::VX_SIMD_NS {

static void rope(const RopeArgs& args, int64_t token0, int64_t token1) {
  const int64_t half = args.half;
  for (int64_t token = token0; token < token1; ++token) {
    const float* cos = args.cos + token * half;
    const float* sin = args.sin + token * half;
    for (int64_t head = 0; head < args.heads; ++head) {
      const int64_t at = (token * args.heads + head) * 2 * half;
      const float *x1 = args.x + at, *x2 = x1 + half;
      float *y1 = args.out + at, *y2 = y1 + half;
      for (int64_t i = 0; i < half; i += kLanes) {
        if (half - i >= kLanes) {
          const f32x16 a = load(x1 + i), b = load(x2 + i), c = load(cos + i), s = load(sin + i);
          store(y1 + i, sub(mul(a, c), mul(b, s)));
          store(y2 + i, add(mul(b, c), mul(a, s)));
        } else {
          const int64_t n = half - i;
          const f32x16 a = load_n(x1 + i, n, 0.0f), b = load_n(x2 + i, n, 0.0f);
          const f32x16 c = load_n(cos + i, n, 0.0f), s = load_n(sin + i, n, 0.0f);
          store_n(y1 + i, sub(mul(a, c), mul(b, s)), n);
          store_n(y2 + i, add(mul(b, c), mul(a, s)), n);
        }
      }
    }
  }
}

}  // namespace vx::VX_SIMD_NS
