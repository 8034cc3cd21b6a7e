// Gradient of RMSNorm. Kernel text. With r = 1 / sqrt(mean(x^2) + eps) and g = grad_y weight: grad_x = r (g - x r^2
// mean(g x)), grad_weight = sum over rows of grad_y x r.
#pragma once

#include "common/simd.h"
#include "ops/gradient_kernels.h"

namespace vx::VX_SIMD_NS {

// 16 columns from `at` on, 0 beyond the last.
VX_INLINE f32x16 columns_at(const float* row, int64_t at, int64_t n) {
  return n - at >= kLanes ? load(row + at) : load_n(row + at, n - at, 0.0f);
}

VX_INLINE void put_columns(float* row, int64_t at, int64_t n, f32x16 values) {
  n - at >= kLanes ? store(row + at, values) : store_n(row + at, values, n - at);
}

// Sums over columns are those of rms_norm: 16 chains and a fixed tree. Those over rows are one chain.
static void rms_norm_gradient(const NormGradientArgs& args, int64_t row0, int64_t row1, float* grad_weight) {
  const int64_t dim = args.dim;
  for (int64_t i = 0; i < dim; ++i) grad_weight[i] = 0.0f;
  for (int64_t row = row0; row < row1; ++row) {
    const float *x = args.x + row * dim, *gy = args.grad_y + row * dim;
    float* out = args.grad_x + row * dim;
    f32x16 squares = set1(0.0f), products = set1(0.0f);
    for (int64_t i = 0; i < dim; i += kLanes) {
      const f32x16 value = columns_at(x, i, dim);
      squares = fma(value, value, squares);
      products = fma(mul(columns_at(gy, i, dim), columns_at(args.weight, i, dim)), value, products);
    }
    const float n = static_cast<float>(dim);
    const float inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / n + args.eps);
    const f32x16 scale = set1(inverse), along = set1(-inverse * inverse * (reduce_add(products) / n));
    for (int64_t i = 0; i < dim; i += kLanes) {
      const f32x16 value = columns_at(x, i, dim), grad = columns_at(gy, i, dim);
      const f32x16 g = mul(grad, columns_at(args.weight, i, dim));
      put_columns(out, i, dim, mul(scale, fma(value, along, g)));
      put_columns(grad_weight, i, dim, fma(grad, mul(value, scale), columns_at(grad_weight, i, dim)));
    }
  }
}

}  // namespace vx::VX_SIMD_NS
