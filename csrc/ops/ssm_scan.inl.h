// The selective scan. Kernel text.
//
// A lane is a channel. The order of every output: the state h_n = fma(h_n, 2^((dt log2(e)) a_n), (dt u) b_n); y is one
// fma chain over ascending n from 0, then fma(D, u, y), times silu(z). Steps follow each other, so nothing depends on
// how a sequence is cut, on other sequences or on the task.
#pragma once

#include "common/vmath.inl.h"
#include "ops/recurrent_kernels.h"
#include "ops/strided_tile.inl.h"

namespace vx::VX_SIMD_NS {

constexpr float kLog2E = 1.44269504088896341f;

// B and C of some steps: of all channels, [step][state] at a stride; or constant ones of 16 channels, [state][16].
struct ScanReadouts {
  const float *b, *c;
  int64_t b_stride, c_stride;
};

template <bool kConstant>
VX_INLINE f32x16 readout(const float* values, int64_t n) {
  return kConstant ? load(values + n * kLanes) : set1(values[n]);
}

// Sums of 0 * x, which are 0 as long as every x is finite: of the states that a scan starts from and of the exponents
// of its first decays.
struct Watched {
  f32x16 states, exponents;
};

// kCount states of 16 channels, from `n` on.
template <int kCount, bool kConstantB, bool kConstantC, bool kWatch>
VX_INLINE void scan_states(int64_t n, f32x16 scaled, f32x16 input, const float* rates, const float* b, const float* c,
                           const float* from, float* h, f32x16& out, Watched& watched) {
  const f32x16 zero = set1(0.0f);
  f32x16 decay[kCount];
  for (int i = 0; i < kCount; ++i) decay[i] = mul(scaled, load(rates + (n + i) * kLanes));
  if (kWatch)
    for (int i = 0; i < kCount; ++i) watched.exponents = fma(decay[i], zero, watched.exponents);
  exp2<kCount>(decay);
  for (int i = 0; i < kCount; ++i) {
    const int64_t at = n + i;
    const f32x16 before = load(from + at * kLanes);
    if (kWatch) watched.states = fma(before, zero, watched.states);
    const f32x16 state = fma(before, decay[i], mul(input, readout<kConstantB>(b, at)));
    store(h + at * kLanes, state);
    out = fma(state, readout<kConstantC>(c, at), out);
  }
}

// Steps begin..end - 1 of 16 channels, each state with a decay of its own, from states `from` to states `h` (they may
// be the same). u, dt, y: [step][16]; rates, from, h: [state][16].
template <bool kConstantB, bool kConstantC, bool kWatch>
VX_INLINE void scan_steps(int64_t begin, int64_t end, int64_t n_state, const float* u, const float* dt,
                          const float* rates, const ScanReadouts& at, const float* from, float* h, float* y,
                          Watched& watched) {
  for (int64_t t = begin; t < end; ++t) {
    const f32x16 step = load(dt + t * kLanes), input = mul(step, load(u + t * kLanes));
    const f32x16 scaled = mul(step, set1(kLog2E));
    const float* b = kConstantB ? at.b : at.b + t * at.b_stride;
    const float* c = kConstantC ? at.c : at.c + t * at.c_stride;
    f32x16 out = set1(0.0f);
    int64_t n = 0;
    for (; n + 2 <= n_state; n += 2)
      scan_states<2, kConstantB, kConstantC, kWatch>(n, scaled, input, rates, b, c, from, h, out, watched);
    if (n < n_state)
      scan_states<1, kConstantB, kConstantC, kWatch>(n, scaled, input, rates, b, c, from, h, out, watched);
    store(y + t * kLanes, out);
    from = h;
  }
}

// The same for `steps` steps; the first of a sequence is watched.
template <bool kConstantB, bool kConstantC>
static void scan_channels(int64_t steps, int64_t n_state, const float* u, const float* dt, const float* rates,
                          const ScanReadouts& at, const float* from, float* h, float* y, bool is_first,
                          Watched& watched) {
  if (is_first) scan_steps<kConstantB, kConstantC, true>(0, 1, n_state, u, dt, rates, at, from, h, y, watched);
  scan_steps<kConstantB, kConstantC, false>(is_first, steps, n_state, u, dt, rates, at, is_first ? h : from, h, y,
                                            watched);
}

// Steps begin..end - 1 of kVecs x 16 channels of a head, of `steps` at hand. u, y: kVecs tiles [step][16]; from, h:
// kVecs x [state][16], as above; dt, decay: [step].
template <int kVecs, bool kWatch>
VX_INLINE void scan_head_steps(int64_t begin, int64_t end, int64_t steps, int64_t n_state, const float* u,
                               const float* dt, const float* decay, const ScanReadouts& at, const float* from, float* h,
                               float* y, Watched& watched) {
  for (int64_t t = begin; t < end; ++t) {
    const f32x16 step = set1(dt[t]), factor = set1(decay[t]);
    const float *b = at.b + t * at.b_stride, *c = at.c + t * at.c_stride;
    f32x16 input[kVecs], out[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      input[v] = mul(step, load(u + (v * steps + t) * kLanes));
      out[v] = set1(0.0f);
    }
    for (int64_t n = 0; n < n_state; ++n) {
      const f32x16 b_n = set1(b[n]), c_n = set1(c[n]);
      for (int v = 0; v < kVecs; ++v) {
        const int64_t one = (v * n_state + n) * kLanes;
        const f32x16 before = load(from + one);
        if (kWatch) watched.states = fma(before, set1(0.0f), watched.states);
        const f32x16 state = fma(before, factor, mul(input[v], b_n));
        store(h + one, state);
        out[v] = fma(state, c_n, out[v]);
      }
    }
    for (int v = 0; v < kVecs; ++v) store(y + (v * steps + t) * kLanes, out[v]);
    from = h;
  }
}

template <int kVecs>
static void scan_head(int64_t steps, int64_t n_state, const float* u, const float* dt, const float* decay,
                      const ScanReadouts& at, const float* from, float* h, float* y, bool is_first, Watched& watched) {
  if (is_first) scan_head_steps<kVecs, true>(0, 1, steps, n_state, u, dt, decay, at, from, h, y, watched);
  scan_head_steps<kVecs, false>(is_first, steps, steps, n_state, u, dt, decay, at, is_first ? h : from, h, y, watched);
}

// One task: its blocks of 16 channels (of one head, where there are heads) and their scratch.
struct ScanRun {
  const SsmScanArgs& args;
  const ScanTask& task;
  int64_t unit, unit_blocks, n_blocks;         // channels and blocks of a head, or of the task
  float *h, *rates, *b_constant, *c_constant;  // [block][state][16], unless the arrays themselves lie so
  float *b, *c;                                // [step][state]
  float *u, *dt, *z, *y;                       // [block][step][16], kScanSteps rows
  float* decay;                                // [step]
  f32x16 finite;                               // a sum of 0 * x of inputs and outputs
  Watched watched;

  // Divisions would take as long as a quarter of a step.
  bool is_one_unit() const { return unit_blocks == n_blocks; }
  int64_t channel(int64_t block) const {
    if (is_one_unit()) return task.channel0 + block * kLanes;
    return task.channel0 + block / unit_blocks * unit + block % unit_blocks * kLanes;
  }
  int64_t channels(int64_t block) const {
    const int64_t left = unit - (is_one_unit() ? block : block % unit_blocks) * kLanes;
    return left < kLanes ? left : kLanes;
  }
  float* block_of(float* blocks, int64_t block) const { return blocks + block * args.n_state * kLanes; }
};

static ScanRun start_run(const SsmScanArgs& args, const ScanTask& task, float* at) {
  const int64_t unit = args.head_channels > 0 ? args.head_channels : task.channels;
  const int64_t n_blocks = scan_blocks(task.channels, args.head_channels);
  const f32x16 zero = set1(0.0f);
  ScanRun run{args,     task,        unit,    (unit + kLanes - 1) / kLanes,
              n_blocks, nullptr,     nullptr, nullptr,
              nullptr,  nullptr,     nullptr, nullptr,
              nullptr,  nullptr,     nullptr, nullptr,
              zero,     {zero, zero}};
  auto take = [&](int64_t floats) {
    float* part = at;
    at += floats;
    return part;
  };
  const int64_t states = n_blocks * args.n_state * kLanes, of_channels = args.head_channels > 0 ? 0 : states;
  run.h = take(states);
  run.rates = take(of_channels);
  run.b_constant = take(of_channels);
  run.c_constant = take(of_channels);
  run.b = take(kScanSteps * args.n_state);
  run.c = take(kScanSteps * args.n_state);
  run.u = take(kScanSteps * kLanes);
  run.dt = take(kScanSteps * kLanes);
  run.z = take(kScanSteps * kLanes);
  run.y = take(kScanSteps * kLanes);
  run.decay = take(kScanSteps);
  return run;
}

// Whether 16 channels lie together, their states follow each other and so do blocks: the layout of the scratch.
static bool is_blocked(const States& x, int64_t n_state, int64_t channels) {
  return x.channel == 1 && x.state == kLanes && x.block == n_state * kLanes && channels == kLanes;
}

// Where a block's states lie at the start: where they are if they are blocked, else brought into the scratch.
static const float* first_states(ScanRun& run, int64_t block) {
  const SsmScanArgs& args = run.args;
  const States& from = args.initial;
  float* h = run.block_of(run.h, block);
  if (from.data == nullptr || run.task.sequence.slot < 0) {
    for (int64_t n = 0; n < args.n_state; ++n) store(h + n * kLanes, set1(0.0f));
    return h;
  }
  const float* states = state_at(from, run.task.sequence.slot, run.channel(block));
  if (!is_blocked(from, args.n_state, run.channels(block))) {
    gather(states, from.state, from.channel, args.n_state, run.channels(block), h, kLanes);
    states = h;
  }
  return states;
}

// Where a block's states go: to their place if that is blocked.
static float* later_states(const ScanRun& run, int64_t block) {
  const States& to = run.args.last;
  if (to.data == nullptr || run.task.sequence.slot < 0 || !is_blocked(to, run.args.n_state, run.channels(block)))
    return run.block_of(run.h, block);
  return state_at(to, run.task.sequence.slot, run.channel(block));
}

static const float* states_before(ScanRun& run, int64_t block, int64_t begin) {
  return begin == run.task.sequence.begin ? first_states(run, block) : later_states(run, block);
}

static void store_states(const ScanRun& run, int64_t block, const float* states) {
  const States& to = run.args.last;
  if (to.data == nullptr || run.task.sequence.slot < 0) return;
  float* place = state_at(to, run.task.sequence.slot, run.channel(block));
  if (place != states) scatter(states, place, to.state, to.channel, run.args.n_state, run.channels(block));
}

static const float* rates_of(const ScanRun& run, int64_t block) {
  const float* a = state_at(run.args.a, 0, run.channel(block));
  return is_blocked(run.args.a, run.args.n_state, run.channels(block)) ? a : run.block_of(run.rates, block);
}

static void load_constants(ScanRun& run, int64_t block) {
  const SsmScanArgs& args = run.args;
  const int64_t channel = run.channel(block), channels = run.channels(block);
  auto bring = [&](const float* from, int64_t state, int64_t stride, float* to) {
    gather(from, state, stride, args.n_state, channels, run.block_of(to, block), kLanes);
  };
  if (!is_blocked(args.a, args.n_state, channels))
    bring(state_at(args.a, 0, channel), args.a.state, args.a.channel, run.rates);
  if (args.b.is_constant) bring(args.b.data + channel * args.b.channel, args.b.state, args.b.channel, run.b_constant);
  if (args.c.is_constant) bring(args.c.data + channel * args.c.channel, args.c.state, args.c.channel, run.c_constant);
}

// B or C of the steps from `begin` on, read where they are if the states of a step lie together.
static const float* readout_rows(const Readout& x, int64_t batch, int64_t group, int64_t begin, int64_t steps,
                                 int64_t n_state, float* scratch, int64_t& stride) {
  if (x.is_constant) return nullptr;
  const float* from = x.data + batch * x.batch + group * x.group + begin * x.time;
  if (x.state == 1) {
    stride = x.time;
    return from;
  }
  gather(from, x.time, x.state, steps, n_state, scratch, n_state);
  stride = n_state;
  return scratch;
}

static void load_tile(const Signal& x, const ScanRun& run, int64_t block, int64_t begin, int64_t steps, float* tile) {
  const float* from = x.data + run.task.sequence.batch * x.batch + run.channel(block) * x.channel + begin * x.time;
  if (are_rows(x.channel, run.channels(block)))
    for (int64_t t = 0; t < steps; ++t) store(tile + t * kLanes, load(from + t * x.time));
  else
    gather(from, x.time, x.channel, steps, run.channels(block), tile, kLanes);
}

// What softplus is taken of, or dt itself, of a block.
static void load_steps(ScanRun& run, int64_t block, int64_t begin, int64_t steps, float* dt) {
  const SsmScanArgs& args = run.args;
  load_tile(args.delta, run, block, begin, steps, dt);
  if (args.delta_bias != nullptr) {
    const float* from = args.delta_bias + run.channel(block) * args.bias_stride;
    const f32x16 bias = load_strided(from, args.bias_stride, run.channels(block));
    for (int64_t t = 0; t < steps; ++t) store(dt + t * kLanes, add(load(dt + t * kLanes), bias));
  }
  watch(dt, steps, run.finite);  // softplus(-inf) is 0
}

static void softplus_rows(float* rows, int64_t n) {
  int64_t r = 0;
  for (; r + 2 <= n; r += 2) {
    f32x16 pair[2] = {load(rows + r * kLanes), load(rows + (r + 1) * kLanes)};
    softplus<2>(pair);
    for (int64_t i = 0; i < 2; ++i) store(rows + (r + i) * kLanes, pair[i]);
  }
  if (r < n) store(rows + r * kLanes, softplus(load(rows + r * kLanes)));
}

// y *= silu(z).
static void gate_rows(const float* z, float* y, int64_t n) {
  int64_t r = 0;
  for (; r + 2 <= n; r += 2) {
    f32x16 pair[2] = {load(z + r * kLanes), load(z + (r + 1) * kLanes)};
    silu<2>(pair);
    for (int64_t i = 0; i < 2; ++i) store(y + (r + i) * kLanes, mul(load(y + (r + i) * kLanes), pair[i]));
  }
  if (r < n) store(y + r * kLanes, mul(load(y + r * kLanes), silu(load(z + r * kLanes))));
}

// dt and decay of a head.
static void load_head(ScanRun& run, int64_t head, int64_t begin, int64_t steps) {
  const SsmScanArgs& args = run.args;
  const Signal& delta = args.delta;
  const float* from = delta.data + run.task.sequence.batch * delta.batch + head * delta.channel + begin * delta.time;
  const f32x16 rate = set1(args.a.data[head * args.a.channel]), zero = set1(0.0f);
  run.finite = fma(rate, zero, run.finite);
  for (int64_t t = 0; t < steps; t += kLanes) {
    const int64_t n = steps - t < kLanes ? steps - t : kLanes;
    f32x16 x = load_strided(from + t * delta.time, delta.time, n);
    if (args.delta_bias != nullptr) x = add(x, set1(args.delta_bias[head * args.bias_stride]));
    run.finite = fma(x, zero, run.finite);
    if (args.softplus) x = softplus(x);
    store_n(run.dt + t, x, n);
    store_n(run.decay + t, exp2(mul(mul(x, set1(kLog2E)), rate)), n);
  }
}

// y += D u; and z, which gates it.
static void skip_tile(const ScanRun& run, int64_t block, int64_t begin, int64_t steps, const float* u, float* z,
                      float* y) {
  const SsmScanArgs& args = run.args;
  const int64_t channel = run.channel(block);
  if (args.D != nullptr) {
    const f32x16 skip = args.d_per_head
                            ? set1(args.D[channel / run.unit * args.d_stride])
                            : load_strided(args.D + channel * args.d_stride, args.d_stride, run.channels(block));
    for (int64_t t = 0; t < steps; ++t) store(y + t * kLanes, fma(skip, load(u + t * kLanes), load(y + t * kLanes)));
  }
  if (args.z.data != nullptr) load_tile(args.z, run, block, begin, steps, z);
}

static void store_tile(ScanRun& run, int64_t block, int64_t begin, int64_t steps, const float* y) {
  const MutableSignal& out = run.args.y;
  const int64_t channel = run.channel(block), channels = run.channels(block);
  watch(y, steps, run.finite);
  float* to = out.data + run.task.sequence.batch * out.batch + channel * out.channel + begin * out.time;
  if (are_rows(out.channel, channels))
    for (int64_t t = 0; t < steps; ++t) store(to + t * out.time, load(y + t * kLanes));
  else
    scatter(y, to, out.time, out.channel, steps, channels);
}

// From states to outputs, for blocks that have tiles of `steps` rows each.
static void finish_tiles(ScanRun& run, int64_t first, int64_t n, int64_t begin, int64_t steps) {
  const int64_t tile = steps * kLanes;
  for (int64_t i = 0; i < n; ++i)
    skip_tile(run, first + i, begin, steps, run.u + i * tile, run.z + i * tile, run.y + i * tile);
  if (run.args.z.data != nullptr) gate_rows(run.z, run.y, n * steps);
  for (int64_t i = 0; i < n; ++i) store_tile(run, first + i, begin, steps, run.y + i * tile);
}

// Blocks first .. first + n - 1, which have tiles of `steps` rows each.
static void run_channels(ScanRun& run, int64_t first, int64_t n, int64_t begin, int64_t steps, ScanReadouts readouts) {
  const SsmScanArgs& args = run.args;
  const int64_t tile = steps * kLanes;
  auto scan = args.b.is_constant ? (args.c.is_constant ? scan_channels<true, true> : scan_channels<true, false>)
                                 : (args.c.is_constant ? scan_channels<false, true> : scan_channels<false, false>);
  for (int64_t i = 0; i < n; ++i) {
    load_tile(args.u, run, first + i, begin, steps, run.u + i * tile);
    load_steps(run, first + i, begin, steps, run.dt + i * tile);
  }
  if (args.softplus) softplus_rows(run.dt, n * steps);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t block = first + i;
    if (args.b.is_constant) readouts.b = run.block_of(run.b_constant, block);
    if (args.c.is_constant) readouts.c = run.block_of(run.c_constant, block);
    const float* from = states_before(run, block, begin);
    scan(steps, args.n_state, run.u + i * tile, run.dt + i * tile, rates_of(run, block), readouts, from,
         later_states(run, block), run.y + i * tile, begin == run.task.sequence.begin, run.watched);
  }
  finish_tiles(run, first, n, begin, steps);
}

// One block of a head or two, whose dt and decays are loaded.
static void run_head(ScanRun& run, int64_t first, int64_t n, int64_t begin, int64_t steps,
                     const ScanReadouts& readouts) {
  const int64_t tile = steps * kLanes;
  for (int64_t i = 0; i < n; ++i) load_tile(run.args.u, run, first + i, begin, steps, run.u + i * tile);
  const float* from = states_before(run, first, begin);
  if (n == 2) states_before(run, first + 1, begin);  // they follow
  (n == 2 ? scan_head<2> : scan_head<1>)(steps, run.args.n_state, run.u, run.dt, run.decay, readouts, from,
                                         later_states(run, first), run.y, begin == run.task.sequence.begin,
                                         run.watched);
  finish_tiles(run, first, n, begin, steps);
}

static int ssm_scan(const SsmScanArgs& args, const ScanTask& task, float* scratch) {
  ScanRun run = start_run(args, task, scratch);
  const bool has_heads = args.head_channels > 0;
  const int64_t most = has_heads ? kScanSteps / 2 : kScanSteps;  // a head's blocks go in pairs
  if (!has_heads)
    for (int64_t block = 0; block < run.n_blocks; ++block) load_constants(run, block);
  const Sequence& sequence = task.sequence;
  const int64_t group = task.channel0 / args.group_channels;
  for (int64_t begin = sequence.begin; begin < sequence.end; begin += most) {
    const int64_t steps = sequence.end - begin < most ? sequence.end - begin : most;
    ScanReadouts readouts{nullptr, nullptr, 0, 0};
    readouts.b = readout_rows(args.b, sequence.batch, group, begin, steps, args.n_state, run.b, readouts.b_stride);
    readouts.c = readout_rows(args.c, sequence.batch, group, begin, steps, args.n_state, run.c, readouts.c_stride);
    if (!has_heads) {
      const int64_t together = kScanSteps / steps;
      for (int64_t block = 0; block < run.n_blocks; block += together) {
        const int64_t left = run.n_blocks - block;
        run_channels(run, block, left < together ? left : together, begin, steps, readouts);
      }
      continue;
    }
    for (int64_t block = 0; block < run.n_blocks; block += run.unit_blocks) {
      load_head(run, run.channel(block) / run.unit, begin, steps);
      for (int64_t i = 0; i < run.unit_blocks; i += 2)
        run_head(run, block + i, run.unit_blocks - i < 2 ? 1 : 2, begin, steps, readouts);
    }
  }
  for (int64_t block = 0; block < run.n_blocks; ++block) {
    const float* states = states_before(run, block, sequence.end);
    if (sequence.begin == sequence.end) watch(states, args.n_state, run.watched.states);
    store_states(run, block, states);
  }
  const bool are_states = is_finite(run.watched.states);
  const bool are_others = is_finite(add(run.watched.exponents, run.finite));
  return (are_states ? 0 : kBadStates) | (are_others ? 0 : kBadOutputs);
}

}  // namespace vx::VX_SIMD_NS
