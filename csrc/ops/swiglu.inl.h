// SwiGLU's elementwise part: gate / (1 + e^-gate) * up. Kernel text.
#pragma once

#include "common/vmath.inl.h"

namespace vx::VX_SIMD_NS {

static void swiglu(const float* gate, const float* up, float* out, int64_t n) {
  const int64_t whole = n / kLanes * kLanes, tail = n - whole;
  for (int64_t i = 0; i < whole; i += kLanes) store(out + i, mul(silu(load(gate + i)), load(up + i)));
  if (tail) {
    const f32x16 last = silu(load_n(gate + whole, tail, 0.0f));
    store_n(out + whole, mul(last, load_n(up + whole, tail, 0.0f)), tail);
  }
}

}  // namespace vx::VX_SIMD_NS
