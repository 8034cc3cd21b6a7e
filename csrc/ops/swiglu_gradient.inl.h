// Gradients of silu(gate) * up. Kernel text. With s = 1 / (1 + e^-gate): grad_up = grad_y gate s, grad_gate = grad_y up
// s (1 + gate (1 - s)).
#pragma once

#include "common/vmath.inl.h"
#include "ops/gradient_kernels.h"

namespace vx::VX_SIMD_NS {

static void swiglu_gradient(const SwigluGradientArgs& args, int64_t begin, int64_t end) {
  const f32x16 one = set1(1.0f);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t n = end - i;
    const bool whole = n >= kLanes;
    const f32x16 gate = whole ? load(args.gate + i) : load_n(args.gate + i, n, 0.0f);
    const f32x16 up = whole ? load(args.up + i) : load_n(args.up + i, n, 0.0f);
    const f32x16 gy = whole ? load(args.grad_y + i) : load_n(args.grad_y + i, n, 0.0f);
    const f32x16 open = sigmoid(gate), opened = mul(gy, open);
    const f32x16 to_gate = mul(mul(opened, up), fma(gate, sub(one, open), one)), to_up = mul(opened, gate);
    whole ? store(args.grad_gate + i, to_gate) : store_n(args.grad_gate + i, to_gate, n);
    whole ? store(args.grad_up + i, to_up) : store_n(args.grad_up + i, to_up, n);
  }
}

}  // namespace vx::VX_SIMD_NS
