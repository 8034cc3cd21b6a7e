// Gradients of a scan with one decay a head. Kernel text.
//
// A lane is a state. The states at the start of every chunk of steps are kept; from the last chunk to the first the
// states of 16 channels after the other are computed again, then their steps are walked backwards with g_n, the
// gradient of the state: g_n = C_n gy + a' g'_n, where a' and g' are those of the step after. Then grad C_n = sum over
// channels of gy h_n, grad B_n that of (dt u) g_n, grad (dt u) = sum over n of B_n g_n, and the decay's is the sum of
// both over g_n h_n of the step before.
#pragma once

#include "common/transpose.inl.h"
#include "common/vmath.inl.h"
#include "ops/gradient_kernels.h"

namespace vx::VX_SIMD_NS {

constexpr float kGradientLog2E = 1.44269504088896341f;

struct GradientRun {
  const ScanGradientArgs& args;
  int64_t batch, head, P, N;  // P, N: channels and states, padded to whole vectors
  int64_t chunk;
  float *starts{}, *states{},
      *carry{};  // [chunk][P][N]; of 16 channels before and after steps [1 + step][16][N]; [P][N]
  float *u{}, *z{}, *gy{}, *y{}, *du{};  // [step][P]
  float *b{}, *c{};                      // [step][N]
  float* dots{};                         // [step][16 channels][16]
  float *sum_b{}, *sum_c{};              // [step][N]
  float* to_decay{};                     // [step][16], lanes to be added up
  float *skip{}, *sum_d{};               // [P]
  float *slope{}, *dt{}, *decay{};       // [length], padded; slope: softplus' derivative

  int64_t channel0() const { return head * args.head_channels; }
  int64_t row() const { return batch * args.n_heads + head; }
};

static GradientRun start_gradient(const ScanGradientArgs& args, int64_t batch, int64_t head, float* at) {
  const ScanGradientSizes s = scan_gradient_sizes(args.head_channels, args.n_state);
  const int64_t state = s.channels * s.states, n_chunks = (args.length + s.chunk - 1) / s.chunk;
  GradientRun run{args, batch, head, s.channels, s.states, s.chunk};
  auto take = [&](int64_t floats) {
    float* part = at;
    at += floats;
    return part;
  };
  run.starts = take(n_chunks * state);
  run.states = take((s.chunk + 1) * kLanes * s.states);
  run.carry = take(state);
  run.u = take(s.chunk * s.channels);
  run.z = take(s.chunk * s.channels);
  run.gy = take(s.chunk * s.channels);
  run.y = take(s.chunk * s.channels);
  run.du = take(s.chunk * s.channels);
  run.b = take(s.chunk * s.states);
  run.c = take(s.chunk * s.states);
  run.dots = take(s.chunk * kLanes * kLanes);
  run.sum_b = take(s.chunk * s.states);
  run.sum_c = take(s.chunk * s.states);
  run.to_decay = take(s.chunk * kLanes);
  run.skip = take(s.channels);
  run.sum_d = take(s.channels);
  run.slope = take(args.length + kLanes);
  run.dt = take(args.length + kLanes);
  run.decay = take(args.length + kLanes);
  return run;
}

// Rows [step][padded] of n values each at any stride, 0 beyond them.
static void bring_rows(const float* from, int64_t time, int64_t each, int64_t steps, int64_t n, int64_t padded,
                       float* to) {
  for (int64_t t = 0; t < steps; ++t) {
    float* row = to + t * padded;
    const float* values = from + t * time;
    if (each == 1)
      std::memcpy(row, values, static_cast<size_t>(n) * sizeof(float));
    else
      for (int64_t i = 0; i < n; ++i) row[i] = values[i * each];
    for (int64_t i = n; i < padded; ++i) row[i] = 0.0f;
  }
}

static void bring_signal(const GradientRun& run, const Signal& x, int64_t begin, int64_t steps, float* to) {
  const float* from = x.data + run.batch * x.batch + run.channel0() * x.channel + begin * x.time;
  bring_rows(from, x.time, x.channel, steps, run.args.head_channels, run.P, to);
}

static void bring_readout(const GradientRun& run, const Readout& x, int64_t begin, int64_t steps, float* to) {
  const float* from = x.data + run.batch * x.batch + run.head / run.args.group_heads * x.group + begin * x.time;
  bring_rows(from, x.time, x.state, steps, run.args.n_state, run.N, to);
}

// dt and decays of the whole sequence.
static void find_steps(GradientRun& run) {
  const ScanGradientArgs& args = run.args;
  const Signal& delta = args.delta;
  const float* from = delta.data + run.batch * delta.batch + run.head * delta.channel;
  const f32x16 rate = set1(args.a[run.head]), bias = set1(args.bias == nullptr ? 0.0f : args.bias[run.head]);
  for (int64_t t = 0; t < args.length; ++t) run.dt[t] = from[t * delta.time];
  for (int64_t t = args.length; t < args.length + kLanes; ++t) run.dt[t] = 0.0f;
  for (int64_t t = 0; t < args.length; t += kLanes) {
    f32x16 step = load(run.dt + t);
    if (args.bias != nullptr) step = add(step, bias);
    store(run.slope + t, args.softplus ? sigmoid(step) : set1(1.0f));
    if (args.softplus) step = softplus(step);
    store(run.dt + t, step);
    store(run.decay + t, exp2(mul(mul(step, set1(kGradientLog2E)), rate)));
  }
}

// What is done with states while they are computed: nothing, or they are kept, and their products with C added up.
enum class Advance { pass, keep, read };

// Steps of one channel through kCount times 16 states from `v` on; `to` may be `from`.
template <int kCount, Advance kHow>
VX_INLINE void advance(const GradientRun& run, int64_t p, int64_t v, int64_t begin, int64_t steps, const float* from,
                       float* to) {
  const int64_t block = kLanes * run.N, row = p % kLanes;
  float* kept = run.states + row * run.N + v;
  f32x16 h[kCount];
  for (int i = 0; i < kCount; ++i) {
    h[i] = load(from + p * run.N + v + i * kLanes);
    if (kHow != Advance::pass) store(kept + i * kLanes, h[i]);
  }
  for (int64_t t = 0; t < steps; ++t) {
    const f32x16 decay = set1(run.decay[begin + t]), input = set1(run.dt[begin + t] * run.u[t * run.P + p]);
    const float* b = run.b + t * run.N + v;
    for (int i = 0; i < kCount; ++i) h[i] = fma(h[i], decay, mul(input, load(b + i * kLanes)));
    if (kHow == Advance::pass) continue;
    for (int i = 0; i < kCount; ++i) store(kept + (t + 1) * block + i * kLanes, h[i]);
    if (kHow == Advance::keep) continue;
    const float* c = run.c + t * run.N + v;
    float* dots = run.dots + (t * kLanes + row) * kLanes;
    f32x16 dot = v == 0 ? set1(0.0f) : load(dots);
    for (int i = 0; i < kCount; ++i) dot = fma(h[i], load(c + i * kLanes), dot);
    store(dots, dot);
  }
  for (int i = 0; i < kCount; ++i) store(to + p * run.N + v + i * kLanes, h[i]);
}

// fn<kCount>(v) for all states in their order, as many at once as registers hold.
template <class F>
VX_INLINE void for_states(int64_t n, F&& fn) {
  int64_t v = 0;
  for (; v + 4 * kLanes <= n; v += 4 * kLanes) fn.template operator()<4>(v);
  for (; v + 2 * kLanes <= n; v += 2 * kLanes) fn.template operator()<2>(v);
  for (; v < n; v += kLanes) fn.template operator()<1>(v);
}

// 16 channels from `p0` on.
template <Advance kHow>
static void advance_block(const GradientRun& run, int64_t p0, int64_t begin, int64_t steps, const float* from,
                          float* to) {
  for (int64_t p = p0; p < p0 + kLanes; ++p)
    for_states(run.N, [&]<int kCount>(int64_t v) { advance<kCount, kHow>(run, p, v, begin, steps, from, to); });
}

// sums[step][p0 ..] = the sums of the dots of 16 channels over their lanes, in their order.
static void sum_lanes(const GradientRun& run, int64_t p0, int64_t steps, float* sums) {
  float turned[kLanes * kLanes];
  for (int64_t t = 0; t < steps; ++t) {
    const float* lines[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) lines[i] = run.dots + (t * kLanes + i) * kLanes;
    transpose16(lines, 0, turned, kLanes);
    f32x16 sum = load(turned);
    for (int64_t i = 1; i < kLanes; ++i) sum = add(sum, load(turned + i * kLanes));
    store(sums + t * run.P + p0, sum);
  }
}

// gy of 16 channels becomes the gradient before the gate; the gate's own goes to its place.
static void pass_gate(const GradientRun& run, int64_t p, int64_t begin, int64_t steps) {
  const ScanGradientArgs& args = run.args;
  const f32x16 one = set1(1.0f);
  for (int64_t t = 0; t < steps; ++t) {
    float* out = args.grad_z + ((run.batch * args.length + begin + t) * args.n_heads + run.head) * args.head_channels;
    const int64_t at = t * run.P + p, left = args.head_channels - p;
    const f32x16 y = fma(load(run.skip + p), load(run.u + at), load(run.y + at));
    const f32x16 gate = load(run.z + at), gy = load(run.gy + at), open = sigmoid(gate);
    const f32x16 slope = mul(open, fma(gate, sub(one, open), one));
    const f32x16 grad = mul(mul(gy, y), slope);
    left >= kLanes ? store(out + p, grad) : store_n(out + p, grad, left);
    store(run.gy + at, mul(gy, mul(gate, open)));
  }
}

// Steps of one channel backwards through kCount times 16 states from `v` on.
template <int kCount>
VX_INLINE void retreat(const GradientRun& run, int64_t p, int64_t v, int64_t begin, int64_t steps) {
  const int64_t block = kLanes * run.N, row = p % kLanes;
  const float* states = run.states + row * run.N + v;
  float* carried = run.carry + p * run.N + v;
  f32x16 carry[kCount];
  for (int i = 0; i < kCount; ++i) carry[i] = load(carried + i * kLanes);
  for (int64_t t = steps - 1; t >= 0; --t) {
    const f32x16 gy = set1(run.gy[t * run.P + p]), input = set1(run.dt[begin + t] * run.u[t * run.P + p]);
    const f32x16 decay = set1(run.decay[begin + t]);
    const float *b = run.b + t * run.N + v, *c = run.c + t * run.N + v, *before = states + t * block;
    float *sum_b = run.sum_b + t * run.N + v, *sum_c = run.sum_c + t * run.N + v;
    float *dots = run.dots + (t * kLanes + row) * kLanes, *to_decay = run.to_decay + t * kLanes;
    f32x16 dot = v == 0 ? set1(0.0f) : load(dots), fading = load(to_decay);
    for (int i = 0; i < kCount; ++i) {
      const int64_t at = i * kLanes;
      const f32x16 g = fma(load(c + at), gy, carry[i]);
      store(sum_c + at, fma(gy, load(before + block + at), load(sum_c + at)));
      store(sum_b + at, fma(input, g, load(sum_b + at)));
      fading = fma(g, load(before + at), fading);
      dot = fma(g, load(b + at), dot);
      carry[i] = mul(g, decay);
    }
    store(dots, dot);
    store(to_decay, fading);
  }
  for (int i = 0; i < kCount; ++i) store(carried + i * kLanes, carry[i]);
}

// What a step's gradient of dt u and of its decay mean for u, delta, A, D and the bias.
struct StepSums {
  float rate, bias;
};

static void end_step(const GradientRun& run, int64_t begin, int64_t t, float to_decay, StepSums& sums) {
  const ScanGradientArgs& args = run.args;
  const int64_t step = begin + t, place = run.batch * args.length + step;
  const float dt = run.dt[step], a = args.a[run.head], decay = run.decay[step];
  float* out = args.grad_u + (place * args.n_heads + run.head) * args.head_channels;
  f32x16 to_step = set1(0.0f);
  for (int64_t p = 0; p < run.P; p += kLanes) {
    const int64_t at = t * run.P + p, left = args.head_channels - p;
    const f32x16 du = load(run.du + at), u = load(run.u + at), gy = load(run.gy + at);
    to_step = fma(du, u, to_step);
    store(run.sum_d + p, fma(gy, u, load(run.sum_d + p)));
    const f32x16 grad = fma(load(run.skip + p), gy, mul(du, set1(dt)));
    left >= kLanes ? store(out + p, grad) : store_n(out + p, grad, left);
  }
  sums.rate = __builtin_fmaf(dt * decay, to_decay, sums.rate);
  const float grad = run.slope[step] * __builtin_fmaf(a * decay, to_decay, reduce_add(to_step));
  sums.bias += grad;
  args.grad_delta[place * args.n_heads + run.head] = grad;
  float *grad_b = args.grad_b + (run.row() * args.length + step) * args.n_state,
        *grad_c = args.grad_c + (run.row() * args.length + step) * args.n_state;
  std::memcpy(grad_b, run.sum_b + t * run.N, static_cast<size_t>(args.n_state) * sizeof(float));
  std::memcpy(grad_c, run.sum_c + t * run.N, static_cast<size_t>(args.n_state) * sizeof(float));
}

// The states of P channels as rows of N, from rows of n_state; null: zeros.
static void bring_states(const GradientRun& run, const float* from, float* to) {
  const ScanGradientArgs& args = run.args;
  if (from == nullptr) {
    std::memset(to, 0, static_cast<size_t>(run.P * run.N) * sizeof(float));
    return;
  }
  const float* rows = from + (run.batch * args.n_heads + run.head) * args.head_channels * args.n_state;
  bring_rows(rows, args.n_state, 1, args.head_channels, args.n_state, run.N, to);
  const int64_t padding = (run.P - args.head_channels) * run.N;
  std::memset(to + args.head_channels * run.N, 0, static_cast<size_t>(padding) * sizeof(float));
}

static void chunk_inputs(GradientRun& run, int64_t begin, int64_t steps) {
  bring_signal(run, run.args.u, begin, steps, run.u);
  bring_readout(run, run.args.b, begin, steps, run.b);
}

static void keep_starts(GradientRun& run) {
  const int64_t state = run.P * run.N;
  bring_states(run, run.args.initial, run.starts);
  for (int64_t begin = 0, k = 0; begin + run.chunk < run.args.length; begin += run.chunk, ++k) {
    float* next = run.starts + (k + 1) * state;
    const float* from = run.starts + k * state;
    chunk_inputs(run, begin, run.chunk);
    for (int64_t p = 0; p < run.P; p += kLanes) advance_block<Advance::pass>(run, p, begin, run.chunk, from, next);
  }
}

static void walk_back(GradientRun& run, int64_t k, int64_t begin, int64_t steps, StepSums& sums) {
  const ScanGradientArgs& args = run.args;
  float* start = run.starts + k * run.P * run.N;
  chunk_inputs(run, begin, steps);
  bring_readout(run, args.c, begin, steps, run.c);
  bring_signal(run, args.grad_y, begin, steps, run.gy);
  if (args.z.data != nullptr) bring_signal(run, args.z, begin, steps, run.z);
  std::memset(run.sum_b, 0, static_cast<size_t>(steps * run.N) * sizeof(float));
  std::memset(run.sum_c, 0, static_cast<size_t>(steps * run.N) * sizeof(float));
  std::memset(run.to_decay, 0, static_cast<size_t>(steps * kLanes) * sizeof(float));
  for (int64_t p0 = 0; p0 < run.P; p0 += kLanes) {
    // Nothing reads the start of a chunk again: the state after it may take its place.
    if (args.z.data == nullptr) {
      advance_block<Advance::keep>(run, p0, begin, steps, start, start);
    } else {
      advance_block<Advance::read>(run, p0, begin, steps, start, start);
      sum_lanes(run, p0, steps, run.y);
      pass_gate(run, p0, begin, steps);
    }
    for (int64_t p = p0; p < p0 + kLanes; ++p)
      for_states(run.N, [&]<int kCount>(int64_t v) { retreat<kCount>(run, p, v, begin, steps); });
    sum_lanes(run, p0, steps, run.du);
  }
  for (int64_t t = steps - 1; t >= 0; --t) end_step(run, begin, t, reduce_add(load(run.to_decay + t * kLanes)), sums);
}

static void scan_gradient_of_head(const ScanGradientArgs& args, int64_t batch, int64_t head, float* scratch) {
  GradientRun run = start_gradient(args, batch, head, scratch);
  for (int64_t p = 0; p < run.P; ++p) {
    const bool is_here = args.D != nullptr && p < args.head_channels;
    run.skip[p] = is_here ? args.D[args.d_per_head ? head : run.channel0() + p] : 0.0f;
    run.sum_d[p] = 0.0f;
  }
  find_steps(run);
  keep_starts(run);
  bring_states(run, args.grad_last, run.carry);
  StepSums sums{0.0f, 0.0f};
  for (int64_t k = (args.length + run.chunk - 1) / run.chunk - 1; k >= 0; --k) {
    const int64_t begin = k * run.chunk, left = args.length - begin;
    walk_back(run, k, begin, left < run.chunk ? left : run.chunk, sums);
  }
  args.grad_a[run.row()] = sums.rate;
  args.grad_bias[run.row()] = sums.bias;
  std::memcpy(args.grad_d + run.row() * args.head_channels, run.sum_d,
              static_cast<size_t>(args.head_channels) * sizeof(float));
  for (int64_t p = 0; p < args.head_channels; ++p)
    std::memcpy(args.grad_initial + (run.row() * args.head_channels + p) * args.n_state, run.carry + p * run.N,
                static_cast<size_t>(args.n_state) * sizeof(float));
}

}  // namespace vx::VX_SIMD_NS
