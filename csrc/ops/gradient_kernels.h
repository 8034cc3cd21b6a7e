// The gradients of the ops that are trained, of one SIMD level, as plain functions on raw pointers. Sizes were checked
// by ops/gradients.cpp. As recurrent_kernels.h, free of inline functions that older processors would share.
#pragma once

#include "ops/recurrent_kernels.h"

namespace vx {

struct ScanGradientArgs {
  Signal u, delta, z, grad_y;  // z.data null: absent
  const float *a, *D, *bias;   // [H]; D [H] or [channels]; D and bias null: absent
  bool d_per_head, softplus;
  Readout b, c;
  const float *initial, *grad_last;  // [B, channels, N]; null: zeros
  int64_t length, n_heads, head_channels, n_state, group_heads;
  // Outputs. Those that several heads or sequences share are a part for each, to be added up in a fixed order.
  float *grad_u, *grad_z;  // [B, L, channels]; grad_z where z is
  float* grad_delta;       // [B, L, H]
  float *grad_b, *grad_c;  // [B, H, L, N]
  float* grad_a;           // [B, H]
  float* grad_d;           // [B, channels]
  float* grad_bias;        // [B, H]
  float* grad_initial;     // [B, channels, N]
};

struct ScanGradientSizes {
  int64_t channels, states, chunk;  // padded to whole vectors; steps between states that are kept
};

static constexpr ScanGradientSizes scan_gradient_sizes(int64_t head_channels, int64_t n_state) {
  const int64_t channels = (head_channels + 15) / 16 * 16, states = (n_state + 15) / 16 * 16;
  const int64_t fitting = 1024 / states;  // 16 channels' states of a chunk stay in a core's L2 cache
  return {channels, states, fitting < 4 ? 4 : fitting > 32 ? 32 : fitting};
}

static constexpr int64_t scan_gradient_scratch(int64_t length, int64_t head_channels, int64_t n_state) {
  const ScanGradientSizes s = scan_gradient_sizes(head_channels, n_state);
  const int64_t state = s.channels * s.states, n_chunks = (length + s.chunk - 1) / s.chunk;
  const int64_t rows = s.chunk * (5 * s.channels + 2 * s.states);  // u, z, grad_y, y, dt u; B, C
  const int64_t block = 16 * s.states;                             // of 16 channels
  const int64_t sums = s.chunk * (16 * 16 + 2 * s.states + 16);
  return (n_chunks + 1) * state + (s.chunk + 1) * block + rows + sums + 2 * s.channels + 3 * (length + 16);
}

struct ConvGradientArgs {
  Signal x, grad_y;
  const float *weight, *bias;        // [channels, width]; [channels], null: absent
  const float *initial, *grad_last;  // [B, channels, width - 1]; null: zeros
  int64_t length, channels, width;
  bool silu;
  float* grad_x;                   // [B, L, channels]
  float *grad_weight, *grad_bias;  // [B, channels, width] and [B, channels], to be added up
  float* grad_initial;             // [B, channels, width - 1]
};

static constexpr int64_t conv_gradient_scratch(int64_t length, int64_t width) {
  return (3 * length + 7 * width) * kScanBlock;
}

struct NormGradientArgs {
  const float *grad_y, *x;  // [rows, dim]
  const float* weight;      // [dim]
  float* grad_x;            // [rows, dim]
  int64_t dim;
  float eps;
};

struct SwigluGradientArgs {
  const float *grad_y, *gate, *up;
  float *grad_gate, *grad_up;
};

struct GradientOps {
  // One head of a sequence; scratch: scan_gradient_scratch(...) floats.
  void (*scan)(const ScanGradientArgs& args, int64_t batch, int64_t head, float* scratch);
  // At most 16 channels of a sequence; scratch: conv_gradient_scratch(...) floats.
  void (*conv)(const ConvGradientArgs& args, int64_t batch, int64_t channel, int64_t channels, float* scratch);
  // Rows row0 .. row1 - 1; grad_weight [dim]: the sum over them.
  void (*rms_norm)(const NormGradientArgs& args, int64_t row0, int64_t row1, float* grad_weight);
  void (*swiglu)(const SwigluGradientArgs& args, int64_t begin, int64_t end);
};

namespace scalar {
extern const GradientOps kGradientOps;
}
#if defined(__x86_64__)
namespace avx2 {
extern const GradientOps kGradientOps;
}
namespace avx512 {
extern const GradientOps kGradientOps;
}
#elif defined(__aarch64__)
namespace neon {
extern const GradientOps kGradientOps;
}
#endif

}  // namespace vx
