// Gradients of the causal depthwise convolution. Kernel text. A lane is a channel; sums run over time.
#pragma once

#include "common/vmath.inl.h"
#include "ops/gradient_kernels.h"
#include "ops/strided_tile.inl.h"

namespace vx::VX_SIMD_NS {

// The columns of 16 channels, those before the sequence first: [width - 1 + length][16].
static void bring_columns(const ConvGradientArgs& args, int64_t batch, int64_t channel, int64_t channels, float* to) {
  const int64_t before = args.width - 1;
  for (int64_t i = 0; i < before; ++i) store(to + i * kLanes, set1(0.0f));
  if (args.initial != nullptr)
    gather(args.initial + (batch * args.channels + channel) * before, 1, before, before, channels, to, kLanes);
  const float* from = args.x.data + batch * args.x.batch + channel * args.x.channel;
  gather(from, args.x.time, args.x.channel, args.length, channels, to + before * kLanes, kLanes);
}

// 16 channels, or fewer, of a sequence.
static void conv_gradient(const ConvGradientArgs& args, int64_t batch, int64_t channel, int64_t channels,
                          float* scratch) {
  const int64_t before = args.width - 1, rows = args.length + before;
  float* weight = scratch;                         // [width][16]
  float* sums = weight + args.width * kLanes;      // of the weight
  float* columns = sums + args.width * kLanes;     // [before + length][16]
  float* slopes = columns + rows * kLanes;         // [before + length + before][16]: gradients before silu
  float* out = slopes + (rows + before) * kLanes;  // [before + length][16]
  gather(args.weight + channel * args.width, 1, args.width, args.width, channels, weight, kLanes);
  bring_columns(args, batch, channel, channels, columns);
  for (int64_t w = 0; w < args.width; ++w) store(sums + w * kLanes, set1(0.0f));
  for (int64_t i = 0; i < before; ++i) {
    store(slopes + i * kLanes, set1(0.0f));
    store(slopes + (rows + i) * kLanes, set1(0.0f));
  }
  const float* from = args.grad_y.data + batch * args.grad_y.batch + channel * args.grad_y.channel;
  float* inside = slopes + before * kLanes;
  gather(from, args.grad_y.time, args.grad_y.channel, args.length, channels, inside, kLanes);

  const f32x16 one = set1(1.0f),
               bias = args.bias == nullptr ? set1(0.0f) : load_strided(args.bias + channel, 1, channels);
  f32x16 sum_bias = set1(0.0f);
  for (int64_t t = 0; t < args.length; ++t) {
    f32x16 grad = load(inside + t * kLanes);
    if (args.silu) {
      f32x16 y = bias;
      for (int64_t w = 0; w < args.width; ++w) y = fma(load(weight + w * kLanes), load(columns + (t + w) * kLanes), y);
      const f32x16 open = sigmoid(y);
      grad = mul(grad, mul(open, fma(y, sub(one, open), one)));
      store(inside + t * kLanes, grad);
    }
    sum_bias = add(sum_bias, grad);
    for (int64_t w = 0; w < args.width; ++w)
      store(sums + w * kLanes, fma(grad, load(columns + (t + w) * kLanes), load(sums + w * kLanes)));
  }
  // Column s, counted from the first before the sequence, was weighed by w at step s - w.
  for (int64_t s = 0; s < rows; ++s) {
    f32x16 grad = set1(0.0f);
    for (int64_t w = 0; w < args.width; ++w)
      grad = fma(load(weight + w * kLanes), load(slopes + (before + s - w) * kLanes), grad);
    store(out + s * kLanes, grad);
  }
  if (args.grad_last != nullptr) {  // of the last columns
    gather(args.grad_last + (batch * args.channels + channel) * before, 1, before, before, channels, slopes, kLanes);
    for (int64_t i = 0; i < before; ++i) {
      float* column = out + (args.length + i) * kLanes;
      store(column, add(load(column), load(slopes + i * kLanes)));
    }
  }
  const int64_t row = batch * args.channels + channel;
  scatter(out, args.grad_initial + row * before, 1, before, before, channels);
  scatter(out + before * kLanes, args.grad_x + batch * args.length * args.channels + channel, args.channels, 1,
          args.length, channels);
  scatter(sums, args.grad_weight + row * args.width, 1, args.width, args.width, channels);
  store_n(args.grad_bias + row, sum_bias, channels);
}

}  // namespace vx::VX_SIMD_NS
