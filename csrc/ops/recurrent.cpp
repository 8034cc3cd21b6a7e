#include "ops/recurrent.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>

#include "common/errors.h"
#include "common/scratch.h"
#include "ops/recurrent_checks.h"

namespace vx {
namespace {

// Below this many states times steps waking other threads costs more than the work.
constexpr int64_t kStatesPerShare = 8192;
// A task's states stay in a core's L1 and L2 caches.
constexpr int64_t kScratchFloats = 32 * 1024;

Signal signal(const Strided& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }
MutableSignal output(const Strided& x) { return {x.data, x.stride[0], x.stride[1], x.stride[2]}; }
// [slot, channel, state], or blocked: [slot, channel / 16, state, 16].
States states(const Strided& x) {
  if (x.n_dims == 4) return {x.data, x.stride[0], x.stride[3], x.stride[2], x.stride[1]};
  return {x.data, x.stride[0], x.stride[1], x.stride[2], kScanBlock * x.stride[1]};
}

Readout readout(const Strided& x) {
  if (x.n_dims == 2) return {x.data, 0, 0, x.stride[1], 0, x.stride[0], true};
  if (x.n_dims == 3) return {x.data, x.stride[0], 0, x.stride[1], x.stride[2], 0, false};
  return {x.data, x.stride[0], x.stride[1], x.stride[2], x.stride[3], 0, false};
}

// Pieces of a sequence's channels: `unit` channels or a multiple each, all within spans of `span` channels.
struct Split {
  int64_t span, piece;
  int64_t n_pieces(int64_t channels) const { return channels / span * per_span(); }
  int64_t per_span() const { return (span + piece - 1) / piece; }
  ScanTask task(const Sequence& sequence, int64_t i) const {
    const int64_t begin = i % per_span() * piece;
    return {sequence, i / per_span() * span + begin, std::min(piece, span - begin)};
  }
};

// fn(i) for i in [0, total): the caller takes from the front, others from the back. From one step to the next a thread
// then gets about the same channels, whose states its own caches still hold.
template <class F>
void from_both_ends(Pool& pool, int64_t total, F&& fn) {
  std::atomic<int64_t> taken{0}, front{0}, back{0};
  pool.threads.run([&](int worker) {
    while (taken.fetch_add(1, std::memory_order_relaxed) < total)
      fn(worker == 0 ? front.fetch_add(1, std::memory_order_relaxed)
                     : total - 1 - back.fetch_add(1, std::memory_order_relaxed));
  });
}

// Runs fn(task) -> flags for all sequences; the flags of all, and a sequence whose states are not finite.
template <class F>
std::pair<int, int64_t> run_tasks(Pool& pool, const std::vector<Sequence>& sequences, const Split& split,
                                  int64_t channels, int64_t work, F&& fn) {
  const int64_t pieces = split.n_pieces(channels), total = pieces * static_cast<int64_t>(sequences.size());
  std::atomic<int> flags{0};
  std::atomic<int64_t> bad{0};
  auto one = [&](int64_t i) {
    const int64_t sequence = i / pieces;
    const int found = fn(split.task(sequences[static_cast<size_t>(sequence)], i % pieces));
    if (found == 0) return;
    if (found & kBadStates) bad.store(sequence, std::memory_order_relaxed);
    flags.fetch_or(found, std::memory_order_relaxed);
  };
  if (work < 2 * kStatesPerShare)
    for (int64_t i = 0; i < total; ++i) one(i);
  else
    from_both_ends(pool, total, one);
  return {flags.load(), bad.load()};
}

void check_states(const Arguments& args, std::pair<int, int64_t> found, const std::vector<Sequence>& sequences) {
  if (!(found.first & kBadStates)) return;
  const int64_t slot = sequences[static_cast<size_t>(found.second)].slot;
  throw NotFinite(std::string("[") + args.op() + "] initial_state must be finite, got a value that is not in slot " +
                  std::to_string(slot));
}

// A block of 16 channels is read whole, so it must not hold parts of two heads or groups.
void check_blocked(const Arguments& args, const ScanInputs& in, const ScanSizes& s) {
  const bool has_parts = s.has_heads || s.groups > 1;
  if (!has_parts || s.channels / (s.has_heads ? s.rows : s.groups) % kScanBlock == 0) return;
  const std::tuple<const char*, const Strided*, int> arrays[] = {
      {"A", &in.A, 3}, {"initial_state", &in.initial_state, 4}, {"last_state", &in.last_state, 4}};
  for (const auto& [name, array, n_dims] : arrays)
    if (array->n_dims == n_dims)
      args.fail(std::string(name) + " may be blocked where " + (s.has_heads ? "heads" : "groups") +
                    " are of a multiple of 16 channels",
                *array);
}

}  // namespace

const RecurrentOps& recurrent_ops(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kRecurrentOps;
  if (level == Simd::avx2) return avx2::kRecurrentOps;
#elif defined(__aarch64__)
  if (level == Simd::neon) return neon::kRecurrentOps;
#endif
  (void)level;
  return scalar::kRecurrentOps;
}

void ssm_scan(Pool& pool, const ScanInputs& in, const Strided& y) {
  const Arguments args("ssm_scan");
  const ScanSizes s = check_scan(args, in);
  args.shape("the output", y, {s.batch, s.channels, s.length});
  check_blocked(args, in, s);
  const std::vector<Sequence> sequences =
      args.sequences(in.sequences, s.batch, s.length, s.channels, s.n_state, in.initial_state, in.last_state);

  SsmScanArgs k{};
  k.u = signal(in.u);
  k.delta = signal(in.delta);
  k.z = signal(in.z);
  k.a = in.A.n_dims == 3 ? States{in.A.data, 0, in.A.stride[2], in.A.stride[1], in.A.stride[0]}
                         : States{in.A.data, 0, in.A.stride[0], in.A.stride[1], kScanBlock * in.A.stride[0]};
  k.D = in.D.data;
  k.d_stride = in.D.stride[0];
  k.d_per_head = s.has_heads && in.D.shape[0] == s.rows;
  k.delta_bias = in.delta_bias.data;
  k.bias_stride = in.delta_bias.stride[0];
  k.b = readout(in.B);
  k.c = readout(in.C);
  k.initial = states(in.initial_state);
  k.last = states(in.last_state);
  k.y = output(y);
  k.n_state = s.n_state;
  k.head_channels = s.has_heads ? s.channels / s.rows : 0;
  k.group_channels = s.channels / s.groups;
  k.softplus = in.softplus;

  const int64_t unit = s.has_heads ? k.head_channels : kScanBlock;
  const int64_t unit_floats = scan_blocks(unit, k.head_channels) * s.n_state * kScanBlock * (s.has_heads ? 1 : 4);
  const int64_t by_cache = std::max<int64_t>(1, kScratchFloats / unit_floats);
  const int64_t units = (k.group_channels + unit - 1) / unit * s.groups * static_cast<int64_t>(sequences.size());
  const int64_t by_threads = std::max<int64_t>(1, units / (4 * pool.threads.size()));
  const Split split{k.group_channels, unit * std::min(by_cache, by_threads)};
  const RecurrentOps& ops = recurrent_ops(pool.simd);
  const auto found = run_tasks(
      pool, sequences, split, s.channels, s.batch * s.channels * s.length * s.n_state, [&](const ScanTask& task) {
        const int64_t blocks = scan_blocks(task.channels, k.head_channels);
        return ops.ssm_scan(k, task, thread_scratch(scan_scratch(blocks, s.n_state, s.has_heads)));
      });
  check_states(args, found, sequences);
  if (found.first == 0) return;
  const std::pair<const char*, const Strided*> arrays[] = {
      {"u", &in.u}, {"delta", &in.delta}, {"A", &in.A}, {"B", &in.B},
      {"C", &in.C}, {"D", &in.D},         {"z", &in.z}, {"delta_bias", &in.delta_bias}};
  for (const auto& [name, array] : arrays) args.finite(name, *array);
}

void causal_conv1d(Pool& pool, const ConvInputs& in, const Strided& y) {
  const Arguments args("causal_conv1d");
  args.shape("x", in.x, {-1, -1, -1});
  const int64_t batch = in.x.shape[0], channels = in.x.shape[1], length = in.x.shape[2];
  if (channels < 1) args.fail("x must have at least one channel", in.x);
  args.shape("weight", in.weight, {channels, -1});
  const int64_t width = in.weight.shape[1];
  if (width < 1) args.fail("weight must have at least one column", in.weight);
  if (in.bias.data != nullptr) args.shape("bias", in.bias, {channels});
  args.shape("the output", y, {batch, channels, length});
  const std::vector<Sequence> sequences =
      args.sequences(in.sequences, batch, length, channels, width - 1, in.initial_state, in.last_state);

  const ConvArgs k{signal(in.x),
                   in.weight.data,
                   in.weight.stride[0],
                   in.weight.stride[1],
                   in.bias.data,
                   in.bias.stride[0],
                   states(in.initial_state),
                   states(in.last_state),
                   output(y),
                   width,
                   in.silu};
  const int64_t blocks = (channels + kScanBlock - 1) / kScanBlock;
  const int64_t total = blocks * static_cast<int64_t>(sequences.size());
  const Split split{channels, kScanBlock * std::max<int64_t>(1, total / (4 * pool.threads.size()))};
  const RecurrentOps& ops = recurrent_ops(pool.simd);
  const auto found =
      run_tasks(pool, sequences, split, channels, batch * channels * length * width,
                [&](const ScanTask& task) { return ops.causal_conv1d(k, task, thread_scratch(conv_scratch(width))); });
  check_states(args, found, sequences);
  if (found.first == 0) return;
  const std::pair<const char*, const Strided*> arrays[] = {{"x", &in.x}, {"weight", &in.weight}, {"bias", &in.bias}};
  for (const auto& [name, array] : arrays) args.finite(name, *array);
}

}  // namespace vx
