// The recurrent kernels of one SIMD level as plain functions on raw pointers. Sizes were checked by ops/ssm_scan.cpp
// and ops/causal_conv1d.cpp. This header is compiled with AVX flags too, so it must not pull in inline functions that
// older processors would share.
#pragma once

#include <cstdint>

namespace vx {

// A read-only array [batch, channel, time] with any strides, counted in floats.
struct Signal {
  const float* data;  // null: absent
  int64_t batch, channel, time;
};

struct MutableSignal {
  float* data;
  int64_t batch, channel, time;
};

// B or C of a scan: [batch, group, state, time]; or, constant in time, [channel, state] with time = 0 and `channel`
// set.
struct Readout {
  const float* data;
  int64_t batch, group, state, time;
  int64_t channel;  // stride of a constant one
  bool is_constant;
};

// Arrays [slot, channel, state] (of a convolution: [slot, channel, column]) with any strides; null: absent. `block` is
// the stride from one 16 channels to the next: 16 * channel, or that of a blocked array [slot, channel / 16, state,
// 16].
struct States {
  float* data;
  int64_t slot, channel, state, block;
};

// One sequence: columns begin..end of a row of the batch; slot of its states, -1 for none.
struct Sequence {
  int64_t batch, begin, end, slot;
};

struct SsmScanArgs {
  Signal u, delta, z;
  States a;        // rates [channels, n_state], its slot 0; or [heads] at stride `channel`
  const float* D;  // of each channel at d_stride, or of each head; null: absent
  int64_t d_stride;
  const float* delta_bias;  // of each row of delta at bias_stride; null: absent
  int64_t bias_stride;
  Readout b, c;
  States initial, last;
  MutableSignal y;
  int64_t n_state, head_channels, group_channels;  // head_channels: 0 where A is [channels, n_state]
  bool d_per_head, softplus;
};

// The share of one worker: channels of one sequence, all of one group; where there are heads, whole ones.
struct ScanTask {
  Sequence sequence;
  int64_t channel0, channels;
};

struct ConvArgs {
  Signal x;
  const float* weight;  // [channels, width]
  int64_t weight_channel, weight_column;
  const float* bias;  // null: absent
  int64_t bias_stride;
  States initial, last;  // `state` is the stride of columns
  MutableSignal y;
  int64_t width;
  bool silu;
};

// What a task found: the states it started from, or its outputs, hold a value that is not finite.
static constexpr int kBadStates = 1, kBadOutputs = 2;

struct RecurrentOps {
  // scratch: scan_scratch(...) floats.
  int (*ssm_scan)(const SsmScanArgs& args, const ScanTask& task, float* scratch);
  // scratch: conv_scratch(width) floats.
  int (*causal_conv1d)(const ConvArgs& args, const ScanTask& task, float* scratch);
  void (*exp2)(const float* x, float* out, int64_t n);  // vmath's by themselves, for whoever measures their error
  void (*softplus)(const float* x, float* out, int64_t n);
};

static constexpr int64_t kScanBlock = 16;  // channels side by side in a vector
static constexpr int64_t kScanSteps = 64;  // time steps whose inputs are brought together before they are worked on

// Blocks of a task: where there are heads, a head is a whole number of blocks.
static constexpr int64_t scan_blocks(int64_t channels, int64_t head_channels) {
  const int64_t one = head_channels > 0 ? head_channels : channels;
  return (one + kScanBlock - 1) / kScanBlock * (channels / one);
}

static constexpr int64_t scan_scratch(int64_t blocks, int64_t n_state, bool has_heads) {
  const int64_t of_block = n_state * kScanBlock * (has_heads ? 1 : 4);  // state; rates, constant B and C
  return blocks * of_block + 2 * kScanSteps * n_state + 4 * kScanSteps * kScanBlock + kScanSteps;
}

// Weights, a bias, the window, the outputs.
static constexpr int64_t conv_scratch(int64_t width) { return (2 * width + 2 * kScanSteps) * kScanBlock; }

namespace scalar {
extern const RecurrentOps kRecurrentOps;
}
#if defined(__x86_64__)
namespace avx2 {
extern const RecurrentOps kRecurrentOps;
}
namespace avx512 {
extern const RecurrentOps kRecurrentOps;
}
#elif defined(__aarch64__)
namespace neon {
extern const RecurrentOps kRecurrentOps;
}
#endif

}  // namespace vx
