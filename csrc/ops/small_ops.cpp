#include "ops/small_ops.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/errors.h"
#include "common/scratch.h"

namespace vx {
namespace {

// Below this many elements waking other threads costs more than the work.
constexpr int64_t kElementsPerShare = 16384;
constexpr int64_t kAttendProductsPerShare = 65536;

// A task's scratch stays in a core's L2 cache.
constexpr int64_t kAttendScratchFloats = 256 * 1024;
constexpr int64_t kAttendRows = 64;  // query rows that share one transpose of K

[[noreturn]] void fail(const std::string& op, const std::string& rule, const std::string& value) {
  throw ArgumentError("[" + op + "] " + rule + ", got " + value);
}

void check_size(const char* op, const char* name, size_t size, std::initializer_list<int64_t> shape) {
  int64_t wanted = 1;
  std::string text;
  for (const int64_t n : shape) {
    if (n < 0) fail(op, std::string(name) + " must have no negative dimension", std::to_string(n));
    if (__builtin_mul_overflow(wanted, n, &wanted)) fail(op, std::string(name) + " is too large", std::to_string(n));
    text += (text.empty() ? "" : " x ") + std::to_string(n);
  }
  if (size != static_cast<size_t>(wanted))
    fail(op, std::string(name) + " must hold " + text + " values", std::to_string(size));
}

void check_positive(const char* op, const char* name, int64_t value) {
  if (value < 1) fail(op, std::string(name) + " must be at least 1", std::to_string(value));
}

// fn(begin, end) on shares of [0, n), each of about kElementsPerShare elements.
template <class F>
void share(Pool& pool, int64_t n, int64_t elements_each, F&& fn) {
  const int64_t step = std::max<int64_t>(1, kElementsPerShare / std::max<int64_t>(1, elements_each));
  const int64_t shares = (n + step - 1) / step;
  pool.threads.for_each(shares, [&](int64_t i, int) { fn(i * step, std::min(n, (i + 1) * step)); });
}

// ln(x) of a normal x > 0, within 2 ulp, with the same bits everywhere (libm's are those of its version): x = m 2^e,
// sqrt(1/2) <= m < sqrt(2), ln(m) by the series of artanh((m - 1) / (m + 1)).
double natural_log(double x) {
  int exponent;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752440) m *= 2.0, --exponent;
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double p = 1.0 / 21.0;
  for (int k = 19; k >= 1; k -= 2) p = p * s2 + 1.0 / k;
  return 2.0 * s * p + exponent * 0.69314718055994530942;
}

}  // namespace

const SmallOps& small_ops(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kSmallOps;
  if (level == Simd::avx2) return avx2::kSmallOps;
#elif defined(__aarch64__)
  if (level == Simd::neon) return neon::kSmallOps;
#endif
  (void)level;
  return scalar::kSmallOps;
}

void rms_norm(Pool& pool, In x, In weight, float eps, Out out, int64_t rows, int64_t dim) {
  check_positive("rms_norm", "the last dimension of x", dim);
  check_size("rms_norm", "x", x.size(), {rows, dim});
  check_size("rms_norm", "weight", weight.size(), {dim});
  check_size("rms_norm", "the output", out.size(), {rows, dim});
  if (!(eps >= 0.0f) || std::isinf(eps)) fail("rms_norm", "eps must be finite and not negative", std::to_string(eps));
  const RmsNormArgs args{x.data(), weight.data(), out.data(), dim, eps};
  const SmallOps& ops = small_ops(pool.simd);
  share(pool, rows, dim, [&](int64_t begin, int64_t end) { ops.rms_norm(args, begin, end); });
}

void rope_table(std::span<const int64_t> positions, std::span<const double> inv_freq, Out cos, Out sin) {
  const auto tokens = static_cast<int64_t>(positions.size()), half = static_cast<int64_t>(inv_freq.size());
  check_positive("rope_table", "the length of inv_freq", half);
  check_size("rope_table", "cos", cos.size(), {tokens, half});
  check_size("rope_table", "sin", sin.size(), {tokens, half});
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[t]) * inv_freq[i];
      cos[t * half + i] = static_cast<float>(std::cos(angle));
      sin[t * half + i] = static_cast<float>(std::sin(angle));
    }
}

void rope(Pool& pool, In x, In cos, In sin, Out out, int64_t tokens, int64_t heads, int64_t half) {
  check_positive("rope", "half the head dimension", half);
  check_size("rope", "x", x.size(), {tokens, heads, 2 * half});
  check_size("rope", "cos", cos.size(), {tokens, half});
  check_size("rope", "sin", sin.size(), {tokens, half});
  check_size("rope", "the output", out.size(), {tokens, heads, 2 * half});
  const RopeArgs args{x.data(), cos.data(), sin.data(), out.data(), heads, half};
  const SmallOps& ops = small_ops(pool.simd);
  share(pool, tokens, heads * 2 * half, [&](int64_t begin, int64_t end) { ops.rope(args, begin, end); });
}

void kv_append(In k, In v, Out k_cache, Out v_cache, CacheShape cache, int64_t tokens, int64_t pos) {
  const auto [kv_heads, capacity, dim] = cache;
  const int64_t padded = padded_dim(dim);
  check_positive("kv_append", "the head dimension", dim);
  check_size("kv_append", "k", k.size(), {tokens, kv_heads, dim});
  check_size("kv_append", "v", v.size(), {tokens, kv_heads, dim});
  check_size("kv_append", "k_cache", k_cache.size(), {kv_heads, capacity, padded});
  check_size("kv_append", "v_cache", v_cache.size(), {kv_heads, capacity, padded});
  if (pos < 0 || tokens > capacity || pos > capacity - tokens)
    fail("kv_append", "pos must be from 0 to capacity - tokens = " + std::to_string(capacity - tokens),
         std::to_string(pos));
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t head = 0; head < kv_heads; ++head) {
      const int64_t from = (token * kv_heads + head) * dim, to = (head * capacity + pos + token) * padded;
      std::copy_n(k.data() + from, dim, k_cache.data() + to);
      std::copy_n(v.data() + from, dim, v_cache.data() + to);
      std::fill_n(k_cache.data() + to + dim, padded - dim, 0.0f);
      std::fill_n(v_cache.data() + to + dim, padded - dim, 0.0f);
    }
}

void kv_move(Out k_cache, Out v_cache, CacheShape cache, int64_t source, int64_t target) {
  const auto [kv_heads, capacity, dim] = cache;
  const int64_t padded = padded_dim(dim);
  check_size("kv_move", "k_cache", k_cache.size(), {kv_heads, capacity, padded});
  check_size("kv_move", "v_cache", v_cache.size(), {kv_heads, capacity, padded});
  for (const int64_t position : {source, target})
    if (position < 0 || position >= capacity)
      fail("kv_move", "source and target must be from 0 to capacity - 1 = " + std::to_string(capacity - 1),
           std::to_string(position));
  if (source == target) return;
  for (int64_t head = 0; head < kv_heads; ++head) {
    const int64_t from = (head * capacity + source) * padded, to = (head * capacity + target) * padded;
    std::copy_n(k_cache.data() + from, padded, k_cache.data() + to);
    std::copy_n(v_cache.data() + from, padded, v_cache.data() + to);
  }
}

void attend(Pool& pool, In q, In k_cache, In v_cache, Out out, CacheShape cache, AttendShape shape, float scale) {
  const auto [kv_heads, capacity, dim] = cache;
  const auto [tokens, heads, pos, window] = shape;
  const int64_t padded = padded_dim(dim);
  check_positive("attend", "the head dimension", dim);
  check_positive("attend", "the number of KV heads", kv_heads);
  check_positive("attend", "the number of query heads", heads);
  if (heads % kv_heads)
    fail("attend", "query heads must be a multiple of the " + std::to_string(kv_heads) + " KV heads",
         std::to_string(heads));
  check_size("attend", "q", q.size(), {tokens, heads, dim});
  check_size("attend", "the output", out.size(), {tokens, heads, dim});
  check_size("attend", "k_cache", k_cache.size(), {kv_heads, capacity, padded});
  check_size("attend", "v_cache", v_cache.size(), {kv_heads, capacity, padded});
  if (pos < 0 || tokens > capacity || pos > capacity - tokens)
    fail("attend", "pos must be from 0 to capacity - tokens = " + std::to_string(capacity - tokens),
         std::to_string(pos));
  if (window < 0) fail("attend", "window must be 0 or more", std::to_string(window));
  if (!(scale > 0.0f) || std::isinf(scale)) fail("attend", "scale must be finite and positive", std::to_string(scale));
  if (tokens == 0) return;

  const AttendArgs args{q.data(), k_cache.data(), v_cache.data(), out.data(), heads,  kv_heads,
                        dim,      padded,         capacity,       pos,        window, scale};
  const int64_t visible = window > 0 ? std::min(window, pos + tokens) : pos + tokens;
  const bool is_small = tokens * heads * dim < kAttendProductsPerShare / visible;
  const int64_t group = heads / kv_heads, threads = is_small ? 1 : pool.threads.size();
  const int64_t by_scratch = kAttendScratchFloats / (group * (visible + 2 * kAttendBlock));
  const int64_t by_threads = (tokens * kv_heads + threads - 1) / threads;
  const int64_t block = std::clamp<int64_t>(std::min({kAttendRows / group, by_scratch, by_threads}), 1, tokens);
  const int64_t n_blocks = (tokens + block - 1) / block;
  const int64_t splits = std::min(group, (threads + kv_heads * n_blocks - 1) / (kv_heads * n_blocks));
  const int64_t split_heads = (group + splits - 1) / splits, n_splits = (group + split_heads - 1) / split_heads;
  const SmallOps& ops = small_ops(pool.simd);
  auto run_task = [&](int64_t i) {
    // The last tokens see most and are handed out first, so that threads end together.
    const int64_t token0 = (n_blocks - 1 - i / (kv_heads * n_splits)) * block;
    const int64_t kv_head = i / n_splits % kv_heads, head = i % n_splits * split_heads;
    const AttendTask task{kv_head, kv_head * group + head, std::min(split_heads, group - head), token0,
                          std::min(block, tokens - token0)};
    ops.attend(args, task, thread_scratch(attend_scratch(args, task)));
  };
  const int64_t n_tasks = kv_heads * n_blocks * n_splits;
  if (is_small)
    for (int64_t i = 0; i < n_tasks; ++i) run_task(i);
  else
    pool.threads.for_each(n_tasks, [&](int64_t i, int) { run_task(i); });
}

void swiglu(Pool& pool, In gate, In up, Out out) {
  const auto n = static_cast<int64_t>(gate.size());
  check_size("swiglu", "up", up.size(), {n});
  check_size("swiglu", "the output", out.size(), {n});
  const SmallOps& ops = small_ops(pool.simd);
  share(pool, n, 1, [&](int64_t begin, int64_t end) {
    ops.swiglu(gate.data() + begin, up.data() + begin, out.data() + begin, end - begin);
  });
}

void token_surprises(Pool& pool, In logits, std::span<const int64_t> ids, Out out, int64_t vocab) {
  const auto rows = static_cast<int64_t>(ids.size());
  check_positive("token_surprises", "the last dimension of logits", vocab);
  check_size("token_surprises", "logits", logits.size(), {rows, vocab});
  check_size("token_surprises", "the output", out.size(), {rows});
  for (const int64_t id : ids)
    if (id < 0 || id >= vocab)
      fail("token_surprises", "ids must be from 0 to " + std::to_string(vocab - 1), std::to_string(id));
  const SmallOps& ops = small_ops(pool.simd);
  share(pool, rows, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = logits.data() + t * vocab;
      const SoftmaxSums sums = ops.softmax_sums(row, vocab);
      const double above = static_cast<double>(sums.top) - static_cast<double>(row[ids[t]]);
      out[t] = static_cast<float>(natural_log(sums.mass) + above);
    }
  });
}

void entropies(Pool& pool, In logits, Out out, int64_t vocab) {
  const auto rows = static_cast<int64_t>(out.size());
  check_positive("entropies", "the last dimension of logits", vocab);
  check_size("entropies", "logits", logits.size(), {rows, vocab});
  const SmallOps& ops = small_ops(pool.simd);
  share(pool, rows, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const SoftmaxSums sums = ops.softmax_sums(logits.data() + t * vocab, vocab);
      out[t] = static_cast<float>(natural_log(sums.mass) - sums.moment / sums.mass);
    }
  });
}

}  // namespace vx
