// Gradients of the scan with one decay a head, of the causal convolution, of RMSNorm and of SwiGLU, for training on the
// CPU. Equal bits for every thread count and SIMD level.
#pragma once

#include "ops/recurrent.h"
#include "ops/small_ops.h"

namespace vx {

// Contiguous arrays. B sequences of L steps, H heads, G groups, N states.
struct ScanGradients {
  float* u;           // [B, L, channels]
  float* delta;       // [B, L, H]
  float* A;           // [H]
  float *B, *C;       // [B, L, G, N]
  float* D;           // as D is; null where D is
  float* z;           // [B, L, channels]; null where z is
  float* delta_bias;  // [H]; null where delta_bias is
  float* initial;     // [B, channels, N]
};

struct ScanGradientShape {
  int64_t batch, length, channels, heads, groups, n_state;
};

// The sizes of a scan whose gradients can be had: A is [heads], every row of the batch a sequence. Throws
// ArgumentError.
ScanGradientShape scan_gradient_shape(const ScanInputs& inputs, const Strided& grad_y, const Strided& grad_last);

// inputs.last_state is not used; grad_last [B, channels, N] may be absent, and as inputs.initial_state is contiguous.
void scan_gradient(Pool& pool, const ScanInputs& inputs, const Strided& grad_y, const Strided& grad_last,
                   const ScanGradients& out);

// Contiguous arrays, W the width.
struct ConvGradients {
  float* x;        // [B, L, channels]
  float* weight;   // [channels, W]
  float* bias;     // [channels]; null where bias is
  float* initial;  // [B, channels, W - 1]
};

// Checks what conv_gradient takes: contiguous weight, bias, initial state and grad_last [B, channels, W - 1], which may
// be absent, and every row of the batch a sequence. Throws ArgumentError.
void check_conv_gradient(const ConvInputs& inputs, const Strided& grad_y, const Strided& grad_last);

void conv_gradient(Pool& pool, const ConvInputs& inputs, const Strided& grad_y, const Strided& grad_last,
                   const ConvGradients& out);

// grad_y, x, grad_x: [rows, dim]; weight, grad_weight: [dim].
void rms_norm_gradient(Pool& pool, In grad_y, In x, In weight, float eps, Out grad_x, Out grad_weight, int64_t rows,
                       int64_t dim);

// All of one size.
void swiglu_gradient(Pool& pool, In grad_y, In gate, In up, Out grad_gate, Out grad_up);

}  // namespace vx
