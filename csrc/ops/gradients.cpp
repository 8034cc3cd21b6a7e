#include "ops/gradients.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "common/errors.h"
#include "common/scratch.h"
#include "ops/gradient_kernels.h"
#include "ops/recurrent_checks.h"

namespace vx {
namespace {

constexpr int64_t kNormRows = 64;           // whose part of a weight's gradient is one sum
constexpr int64_t kSwigluElements = 16384;  // that a thread takes at once

const GradientOps& gradient_ops(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kGradientOps;
  if (level == Simd::avx2) return avx2::kGradientOps;
#elif defined(__aarch64__)
  if (level == Simd::neon) return neon::kGradientOps;
#endif
  (void)level;
  return scalar::kGradientOps;
}

template <class F>
void for_all(Pool& pool, int64_t n, F&& fn) {
  std::atomic<int64_t> next{0};
  pool.threads.run([&](int) {
    for (int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) fn(i);
  });
}

Signal signal(const Strided& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }
Readout readout(const Strided& x) {
  if (x.n_dims == 3) return {x.data, x.stride[0], 0, x.stride[1], x.stride[2], 0, false};
  return {x.data, x.stride[0], x.stride[1], x.stride[2], x.stride[3], 0, false};
}

std::vector<float> contiguous(const Strided& x) {
  std::vector<float> values(x.data == nullptr ? 0 : static_cast<size_t>(x.shape[0]));
  for (size_t i = 0; i < values.size(); ++i) values[i] = x.data[static_cast<int64_t>(i) * x.stride[0]];
  return values;
}

void check_contiguous(const Arguments& args, const char* name, const Strided& x) {
  bool fits = true, is_empty = false;
  int64_t stride = 1;
  for (int i = x.n_dims - 1; i >= 0; --i) {
    const int64_t n = x.shape[static_cast<size_t>(i)];
    fits = fits && (n == 1 || x.stride[static_cast<size_t>(i)] == stride);
    is_empty = is_empty || n == 0;
    stride *= n;
  }
  if (!fits && !is_empty) args.fail(std::string(name) + " must be contiguous", x);
}

// out[n] = sums of rows [row][n] in their order.
void add_rows(const std::vector<float>& rows, int64_t n, float* out) {
  if (out == nullptr) return;
  for (int64_t i = 0; i < n; ++i) out[i] = 0.0f;
  for (size_t at = 0; at < rows.size(); ++at) out[at % static_cast<size_t>(n)] += rows[at];
}

}  // namespace

ScanGradientShape scan_gradient_shape(const ScanInputs& in, const Strided& grad_y, const Strided& grad_last) {
  const Arguments args("ssm_scan_gradient");
  const ScanSizes s = check_scan(args, in);
  if (!s.has_heads) args.fail("A must have one rate for each head", in.A);
  args.shape("grad_y", grad_y, {s.batch, s.channels, s.length});
  const std::pair<const char*, const Strided*> both[] = {{"initial_state", &in.initial_state},
                                                         {"grad_last", &grad_last}};
  for (const auto& [name, states] : both)
    if (states->data != nullptr) {
      args.shape(name, *states, {s.batch, s.channels, s.n_state});
      check_contiguous(args, name, *states);
    }
  return {s.batch, s.length, s.channels, s.rows, s.groups, s.n_state};
}

void scan_gradient(Pool& pool, const ScanInputs& in, const Strided& grad_y, const Strided& grad_last,
                   const ScanGradients& out) {
  const ScanGradientShape s = scan_gradient_shape(in, grad_y, grad_last);
  const int64_t n_rows = s.batch * s.heads, of_head = s.length * s.n_state, group_heads = s.heads / s.groups;
  const std::vector<float> rates = contiguous(in.A), skip = contiguous(in.D), bias = contiguous(in.delta_bias);
  const auto part = [](int64_t n) { return std::vector<float>(static_cast<size_t>(n)); };
  std::vector<float> grad_b = part(n_rows * of_head), grad_c = part(n_rows * of_head), grad_a = part(n_rows),
                     grad_bias = part(n_rows), grad_d = part(s.batch * s.channels);
  ScanGradientArgs k{};
  k.u = signal(in.u);
  k.delta = signal(in.delta);
  k.z = signal(in.z);
  k.grad_y = signal(grad_y);
  k.a = rates.data();
  k.D = in.D.data == nullptr ? nullptr : skip.data();
  k.d_per_head = in.D.data != nullptr && in.D.shape[0] == s.heads;
  k.bias = in.delta_bias.data == nullptr ? nullptr : bias.data();
  k.softplus = in.softplus;
  k.b = readout(in.B);
  k.c = readout(in.C);
  k.initial = in.initial_state.data;
  k.grad_last = grad_last.data;
  k.length = s.length;
  k.n_heads = s.heads;
  k.head_channels = s.channels / s.heads;
  k.n_state = s.n_state;
  k.group_heads = group_heads;
  k.grad_u = out.u;
  k.grad_z = out.z;
  k.grad_delta = out.delta;
  k.grad_b = grad_b.data();
  k.grad_c = grad_c.data();
  k.grad_a = grad_a.data();
  k.grad_d = grad_d.data();
  k.grad_bias = grad_bias.data();
  k.grad_initial = out.initial;
  const GradientOps& ops = gradient_ops(pool.simd);
  for_all(pool, n_rows, [&](int64_t i) {
    float* scratch = thread_scratch(scan_gradient_scratch(s.length, k.head_channels, s.n_state));
    ops.scan(k, i / s.heads, i % s.heads, scratch);
  });
  // Heads of a group read the same B and C.
  for_all(pool, s.batch * s.length, [&](int64_t i) {
    const int64_t row = i / s.length, t = i % s.length;
    for (int64_t group = 0; group < s.groups; ++group)
      for (const auto& [parts, sums] : {std::pair{&grad_b, out.B}, std::pair{&grad_c, out.C}}) {
        float* sum = sums + (i * s.groups + group) * s.n_state;
        for (int64_t h = 0; h < group_heads; ++h) {
          const int64_t head = row * s.heads + group * group_heads + h;
          const float* values = parts->data() + head * of_head + t * s.n_state;
          for (int64_t n = 0; n < s.n_state; ++n) sum[n] = h == 0 ? values[n] : sum[n] + values[n];
        }
      }
  });
  add_rows(grad_a, s.heads, out.A);
  add_rows(grad_bias, s.heads, out.delta_bias);
  if (!k.d_per_head) {
    add_rows(grad_d, s.channels, out.D);
    return;
  }
  std::vector<float> of_heads = part(n_rows);
  for (size_t at = 0; at < grad_d.size(); ++at) of_heads[at / static_cast<size_t>(k.head_channels)] += grad_d[at];
  add_rows(of_heads, s.heads, out.D);
}

void check_conv_gradient(const ConvInputs& in, const Strided& grad_y, const Strided& grad_last) {
  const Arguments args("causal_conv1d_gradient");
  args.shape("x", in.x, {-1, -1, -1});
  const int64_t batch = in.x.shape[0], channels = in.x.shape[1];
  args.shape("weight", in.weight, {channels, -1});
  const int64_t width = in.weight.shape[1];
  if (width < 1) args.fail("weight must have at least one column", in.weight);
  if (in.bias.data != nullptr) args.shape("bias", in.bias, {channels});
  args.shape("grad_y", grad_y, {batch, channels, in.x.shape[2]});
  const std::pair<const char*, const Strided*> states[] = {{"initial_state", &in.initial_state},
                                                           {"grad_last", &grad_last}};
  for (const auto& [name, value] : states)
    if (value->data != nullptr) args.shape(name, *value, {batch, channels, width - 1});
  const std::pair<const char*, const Strided*> all[] = {
      {"weight", &in.weight}, {"bias", &in.bias}, {"initial_state", &in.initial_state}, {"grad_last", &grad_last}};
  for (const auto& [name, value] : all)
    if (value->data != nullptr) check_contiguous(args, name, *value);
}

void conv_gradient(Pool& pool, const ConvInputs& in, const Strided& grad_y, const Strided& grad_last,
                   const ConvGradients& out) {
  check_conv_gradient(in, grad_y, grad_last);
  const int64_t batch = in.x.shape[0], channels = in.x.shape[1], length = in.x.shape[2], width = in.weight.shape[1];
  std::vector<float> weights(static_cast<size_t>(batch * channels * width)),
      biases(static_cast<size_t>(batch * channels));
  const ConvGradientArgs k{signal(in.x),   signal(grad_y), in.weight.data, in.bias.data, in.initial_state.data,
                           grad_last.data, length,         channels,       width,        in.silu,
                           out.x,          weights.data(), biases.data(),  out.initial};
  const GradientOps& ops = gradient_ops(pool.simd);
  const int64_t blocks = (channels + kScanBlock - 1) / kScanBlock;
  for_all(pool, batch * blocks, [&](int64_t i) {
    const int64_t channel = i % blocks * kScanBlock, n = std::min(kScanBlock, channels - channel);
    ops.conv(k, i / blocks, channel, n, thread_scratch(conv_gradient_scratch(length, width)));
  });
  add_rows(weights, channels * width, out.weight);
  add_rows(biases, channels, out.bias);
}

void rms_norm_gradient(Pool& pool, In grad_y, In x, In weight, float eps, Out grad_x, Out grad_weight, int64_t rows,
                       int64_t dim) {
  const std::string op = "[rms_norm_gradient] ";
  if (dim < 1) throw ArgumentError(op + "the last dimension of x must be at least 1, got " + std::to_string(dim));
  if (!(eps >= 0.0f && eps <= 3.4e38f))
    throw ArgumentError(op + "eps must be finite and not negative, got " + std::to_string(eps));
  const NormGradientArgs k{grad_y.data(), x.data(), weight.data(), grad_x.data(), dim, eps};
  const GradientOps& ops = gradient_ops(pool.simd);
  const int64_t shares = (rows + kNormRows - 1) / kNormRows;
  std::vector<float> parts(static_cast<size_t>(shares * dim));
  for_all(pool, shares, [&](int64_t i) {
    ops.rms_norm(k, i * kNormRows, std::min(rows, (i + 1) * kNormRows), parts.data() + i * dim);
  });
  add_rows(parts, dim, grad_weight.data());
}

void swiglu_gradient(Pool& pool, In grad_y, In gate, In up, Out grad_gate, Out grad_up) {
  const SwigluGradientArgs k{grad_y.data(), gate.data(), up.data(), grad_gate.data(), grad_up.data()};
  const GradientOps& ops = gradient_ops(pool.simd);
  const auto n = static_cast<int64_t>(gate.size());
  for_all(pool, (n + kSwigluElements - 1) / kSwigluElements,
          [&](int64_t i) { ops.swiglu(k, i * kSwigluElements, std::min(n, (i + 1) * kSwigluElements)); });
}

}  // namespace vx
