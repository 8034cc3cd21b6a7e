// Causal depthwise convolution. Kernel text. A lane is a channel; y is one fma chain from the bias over ascending
// columns of the weight, then silu.
#pragma once

#include "common/vmath.inl.h"
#include "ops/recurrent_kernels.h"
#include "ops/strided_tile.inl.h"

namespace vx::VX_SIMD_NS {

static void conv_block(const ConvArgs& args, const Sequence& sequence, int64_t channel, int64_t channels,
                       float* scratch, f32x16& sound, f32x16& finite) {
  const int64_t before = args.width - 1;
  float* weight = scratch;                       // [width][16]
  float* window = weight + args.width * kLanes;  // [before + steps][16]: what came before, then new columns
  float* y = window + (before + kScanSteps) * kLanes;
  gather(args.weight + channel * args.weight_channel, args.weight_column, args.weight_channel, args.width, channels,
         weight, kLanes);
  if (args.initial.data == nullptr || sequence.slot < 0)
    for (int64_t i = 0; i < before; ++i) store(window + i * kLanes, set1(0.0f));
  else
    gather(state_at(args.initial, sequence.slot, channel), args.initial.state, args.initial.channel, before, channels,
           window, kLanes);
  watch(window, before, sound);

  const f32x16 zero = set1(0.0f), start = args.bias == nullptr ? zero
                                                               : load_strided(args.bias + channel * args.bias_stride,
                                                                              args.bias_stride, channels);
  for (int64_t begin = sequence.begin; begin < sequence.end; begin += kScanSteps) {
    const int64_t steps = sequence.end - begin < kScanSteps ? sequence.end - begin : kScanSteps;
    const float* from = args.x.data + sequence.batch * args.x.batch + channel * args.x.channel + begin * args.x.time;
    gather(from, args.x.time, args.x.channel, steps, channels, window + before * kLanes, kLanes);
    for (int64_t t = 0; t < steps; ++t) {
      f32x16 out = start;
      for (int64_t w = 0; w < args.width; ++w)
        out = fma(load(weight + w * kLanes), load(window + (t + w) * kLanes), out);
      if (args.silu) out = silu(out);
      finite = fma(out, zero, finite);
      store(y + t * kLanes, out);
    }
    float* to = args.y.data + sequence.batch * args.y.batch + channel * args.y.channel + begin * args.y.time;
    scatter(y, to, args.y.time, args.y.channel, steps, channels);
    for (int64_t i = 0; i < before; ++i) store(window + i * kLanes, load(window + (steps + i) * kLanes));
  }
  if (args.last.data != nullptr && sequence.slot >= 0)
    scatter(window, state_at(args.last, sequence.slot, channel), args.last.state, args.last.channel, before, channels);
}

static int causal_conv1d(const ConvArgs& args, const ScanTask& task, float* scratch) {
  f32x16 sound = set1(0.0f), finite = set1(0.0f);
  for (int64_t i = 0; i < task.channels; i += kLanes) {
    const int64_t channels = task.channels - i < kLanes ? task.channels - i : kLanes;
    conv_block(args, task.sequence, task.channel0 + i, channels, scratch, sound, finite);
  }
  return (is_finite(sound) ? 0 : kBadStates) | (is_finite(finite) ? 0 : kBadOutputs);
}

}  // namespace vx::VX_SIMD_NS
