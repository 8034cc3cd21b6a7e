#include "ops/bad_verify.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/errors.h"
#include "ops/bad_verify_kernels.h"

namespace vx {
namespace {

constexpr int64_t kMaxVocab = int64_t{1} << 22;  // sums of 2^22 weights of up to 2^40 fit
constexpr int64_t kMaxPosition = int64_t{1} << 62;
constexpr int64_t kIdsPerShare = 256 * kSampleBlock;  // below this, waking a thread costs more than the work
constexpr double kMaxInverse = 1e260;                 // keeps the distance of two float32 over any temperature finite
constexpr double kLog2e = 1.4426950408889634074;
constexpr double kMostNoise = 36.8;  // -log(-log(1 - 2^-53)) is 36.74
constexpr int kFewIds = 12;          // in a block: fewer than this are cheaper one by one than all 64 at once
constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int kBins = 1024;
constexpr double kLastDistance = 30.0;  // a weight of e^-30 is 0 in units of 2^-40

[[noreturn]] void fail(const std::string& rule, const std::string& value) {
  throw ArgumentError("[bad_verify] " + rule + ", got " + value);
}

// log x for finite x > 0, within 2 ulp. x = 2^k * m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m - 1) / (m + 1)),
// the series up to the 23rd power, whose rest is below 2^-60.
double log_of(double x) {
  int64_t k = 0;
  if (x < std::numeric_limits<double>::min()) {
    x *= 0x1p54;
    k = -54;
  }
  uint64_t bits = std::bit_cast<uint64_t>(x);
  k += static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++k;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 1.0 / 23.0;
  for (int power = 21; power >= 3; power -= 2) p = p * z + 1.0 / power;
  const auto n = static_cast<double>(k);
  // ln 2 in two parts, the first with trailing zeros, so that n times it is exact.
  return n * 6.93147180369123816490e-01 + (2.0 * s + (2.0 * s * z * p + n * 1.90821492927058770002e-10));
}

uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * kMix1;
  bits = (bits ^ (bits >> 27)) * kMix2;
  return bits ^ (bits >> 31);
}

// The best of the race so far; more noise wins, then the lower id.
struct Leader {
  double value;
  int64_t id;

  void meet(const Leader& other) {
    if (other.value > value || (other.value == value && other.id < id)) *this = other;
  }
};

struct Scratch {
  std::vector<float> maxima, values, ranked;
  std::vector<uint64_t> weights;
  std::vector<std::pair<float, uint64_t>> edge_bin;
};

// Of the calling thread, kept between calls: fresh pages for every token would cost more than the work on them.
Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

class Row {
 public:
  Row(Pool& pool, const float* x, int64_t n)
      : pool_(pool), kernels_(bad_verify_kernels(pool.simd)), scratch_(thread_scratch()), x_(x), n_(n) {}

  int64_t choose(const SamplingLaw& law, uint64_t seed, int64_t position) {
    find_top(position);
    if (law.temperature == 0.0) return top_id_;
    scale_ = {static_cast<double>(top_), std::min(1.0 / law.temperature, kMaxInverse)};
    float threshold = kNothing;
    const bool has_top_k = law.top_k > 0 && law.top_k < n_;
    if (has_top_k) threshold = kth_largest(law.top_k);
    if (law.top_p < 1.0) threshold = nucleus_edge(law.top_p, has_top_k);
    const double floor = law.min_p > 0.0 ? log_of(law.min_p) : kNothing;
    counter_ = mix(mix(seed + kGamma) + (static_cast<uint64_t>(position) + 1) * kGamma);
    return race(threshold, floor);
  }

 private:
  int64_t n_blocks() const { return (n_ + kSampleBlock - 1) / kSampleBlock; }
  int64_t block_size(int64_t block) const { return std::min(kSampleBlock, n_ - block * kSampleBlock); }
  double score(float x) const { return (static_cast<double>(x) - scale_.top) * scale_.inverse; }

  // fn(begin, end) on shares of the ids that start at whole blocks.
  template <class F>
  void share(F&& fn) {
    const int64_t n_shares = n_ < 2 * kIdsPerShare ? 1 : (n_ + kIdsPerShare - 1) / kIdsPerShare;
    const int64_t step = n_shares == 1 ? n_ : kIdsPerShare;
    pool_.threads.for_each(n_shares, [&](int64_t i, int) { fn(i * step, std::min(n_, (i + 1) * step)); });
  }

  void find_top(int64_t position) {
    auto& maxima = scratch_.maxima;
    maxima.resize(n_blocks());
    if (!kernels_.block_maxima(x_, n_, maxima.data())) {
      const float* found = std::find_if(x_, x_ + n_, [](float x) { return std::isnan(x); });
      not_finite("nan", found - x_, position);
    }
    // -0 equals 0 here, so the first block that holds the value is found whichever sign it has there.
    const auto first = std::max_element(maxima.begin(), maxima.end());
    top_ = *first;
    const float* block = x_ + (first - maxima.begin()) * kSampleBlock;
    top_id_ = std::find(block, x_ + n_, top_) - x_;
    if (std::isinf(top_)) not_finite(top_ > 0 ? "inf" : "-inf", top_id_, position);
  }

  [[noreturn]] static void not_finite(const std::string& top, int64_t id, int64_t position) {
    throw NotFinite("the logits at position " + std::to_string(position) + " are not finite (" + top + " for id " +
                    std::to_string(id) +
                    "): the weights or this context overflow float32; check the checkpoint, it may hold NaN or "
                    "infinite weights");
  }

  // All logits of at least `threshold`, ascending by id, to scratch_.values.
  void gather(float threshold) {
    auto& values = scratch_.values;
    values.resize(std::max<size_t>(values.size(), n_));
    n_values_ = 0;
    for (int64_t block = 0; block < n_blocks(); ++block) {
      if (!(scratch_.maxima[block] >= threshold)) continue;
      const float* x = x_ + block * kSampleBlock;
      uint64_t mask = kernels_.at_least(x, block_size(block), threshold);
      for (; mask != 0; mask &= mask - 1) values[n_values_++] = x[std::countr_zero(mask)];
    }
  }

  // The k-th largest logit; leaves those that are at least it in scratch_.values.
  float kth_largest(int64_t k) {
    float bound = kNothing;
    auto& ranked = scratch_.ranked;
    if (k < n_blocks()) {
      // k blocks have a maximum of at least the k-th largest maximum, so as many logits have.
      ranked = scratch_.maxima;
      std::nth_element(ranked.begin(), ranked.begin() + (k - 1), ranked.end(), std::greater<float>());
      bound = ranked[k - 1];
    }
    gather(bound);
    float* values = scratch_.values.data();
    ranked.assign(values, values + n_values_);
    std::nth_element(ranked.begin(), ranked.begin() + (k - 1), ranked.end(), std::greater<float>());
    const float threshold = ranked[k - 1];
    n_values_ = std::remove_if(values, values + n_values_, [=](float x) { return x < threshold; }) - values;
    return threshold;
  }

  // The smallest logit of the smallest set of most likely ids that holds top_p of the mass. The set is one of
  // scratch_.values if `gathered`, else of the row.
  float nucleus_edge(double top_p, bool gathered) {
    std::atomic<uint64_t> sum{0};
    if (gathered)
      sum = kernels_.mass(scratch_.values.data(), n_values_, scale_);
    else
      share([&](int64_t begin, int64_t end) { sum += kernels_.mass(x_ + begin, end - begin, scale_); });
    const uint64_t total = sum;
    const uint64_t wanted = std::min(static_cast<uint64_t>(std::ceil(top_p * static_cast<double>(total))), total);
    if (!gathered) gather(outside_nucleus(total - wanted, n_));
    narrow(wanted);
    return edge_of(wanted);
  }

  // A logit below the nucleus of n ids, given the mass that may stay outside of it: ids of less than the n-th part of
  // that mass can all stay outside.
  float outside_nucleus(uint64_t spare, int64_t n) const {
    const uint64_t each = spare / static_cast<uint64_t>(n);
    if (each < 2) return kNothing;
    const double distance = (40.0 - std::log2(static_cast<double>(each - 1))) / kLog2e + 1e-6;
    const double logit = scale_.top - distance / scale_.inverse;
    const double lower = logit - 1e-6 * std::abs(logit);  // more than rounding moves, here and in the scores
    return static_cast<float>(std::max(lower, -static_cast<double>(std::numeric_limits<float>::max())));
  }

  // Weighs scratch_.values and leaves out what lies below the nucleus, while that is much.
  void narrow(uint64_t wanted) {
    float* values = scratch_.values.data();
    scratch_.weights.resize(std::max<size_t>(scratch_.weights.size(), n_values_));
    uint64_t* weights = scratch_.weights.data();
    kernels_.weights(values, n_values_, scale_, weights);
    for (;;) {
      const uint64_t inside = std::accumulate(weights, weights + n_values_, uint64_t{0});
      const float threshold = outside_nucleus(inside - wanted, n_values_);
      int64_t n_left = 0;
      for (int64_t i = 0; i < n_values_; ++i) {
        values[n_left] = values[i];
        weights[n_left] = weights[i];
        n_left += values[i] >= threshold ? 1 : 0;
      }
      const bool is_done = n_left > n_values_ / 4 * 3;
      n_values_ = n_left;
      if (is_done) return;
    }
  }

  // The smallest of the largest of scratch_.values whose weights add up to `wanted`.
  float edge_of(uint64_t wanted) {
    const float* values = scratch_.values.data();
    const uint64_t* weights = scratch_.weights.data();
    // Bins of falling probability: only the one that holds the edge has to be sorted.
    const double farthest = std::min(-score(*std::min_element(values, values + n_values_)), kLastDistance);
    const double bins_per_score = farthest > 1e-290 ? (kBins - 1) / farthest : 0.0;
    auto bin_of = [&](float x) {
      return std::min(static_cast<int>(std::min(-score(x), kLastDistance) * bins_per_score), kBins - 1);
    };
    uint64_t bins[kBins] = {};
    for (int64_t i = 0; i < n_values_; ++i) bins[bin_of(values[i])] += weights[i];
    uint64_t before = 0;
    int edge = 0;
    while (edge < kBins - 1 && before + bins[edge] < wanted) before += bins[edge++];
    auto& inside = scratch_.edge_bin;
    inside.clear();
    for (int64_t i = 0; i < n_values_; ++i)
      if (bin_of(values[i]) == edge) inside.emplace_back(values[i], weights[i]);
    std::sort(inside.begin(), inside.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    size_t last = 0;
    for (before += inside[0].second; before < wanted; before += inside[last].second) ++last;
    return inside[last].first;
  }

  // The id's uniform is this plus 2^-53, and both are exact.
  double uniform_cell(int64_t id) const {
    const uint64_t bits = mix(counter_ + (static_cast<uint64_t>(id) + 1) * kGamma);
    return std::bit_cast<double>(0x3FF0000000000000u | (bits >> 12)) - 1.0;
  }

  Leader run(int64_t id) const {
    const double u = uniform_cell(id) + 0x1p-53;
    return {score(x_[id]) - log_of(-log_of(u)), id};
  }

  // The winner among the ids with a logit of at least `threshold` and a score of at least `floor`.
  int64_t race(float threshold, double floor) {
    const Leader top = run(top_id_);
    auto run_blocks = [&](int64_t begin, int64_t end) {
      Leader leader = top;
      for (int64_t start = begin; start < end; start += kSampleBlock) run_block(start, threshold, floor, leader);
      return leader;
    };
    if (threshold > kNothing || floor > kNothing) return run_blocks(0, n_).id;  // most blocks are passed over
    std::mutex mutex;
    Leader winner = top;
    share([&](int64_t begin, int64_t end) {
      const Leader leader = run_blocks(begin, end);
      const std::lock_guard lock(mutex);
      winner.meet(leader);
    });
    return winner.id;
  }

  void run_block(int64_t start, float threshold, double floor, Leader& leader) const {
    const float maximum = scratch_.maxima[start / kSampleBlock];
    const double best = score(maximum);
    if (!(maximum >= threshold) || best < floor || best + kMostNoise < leader.value) return;
    const int64_t size = std::min(kSampleBlock, n_ - start);
    const uint64_t all = ~uint64_t{0} >> (kSampleBlock - size);
    const bool is_open = threshold == kNothing;
    uint64_t mask = is_open ? all : kernels_.at_least(x_ + start, size, threshold);
    if (std::popcount(mask) >= kFewIds)
      mask &= kernels_.contenders(x_ + start, size, scale_, counter_ + (static_cast<uint64_t>(start) + 1) * kGamma,
                                  leader.value * kLog2e);
    for (; mask != 0; mask &= mask - 1) {
      const int64_t id = start + std::countr_zero(mask);
      if (score(x_[id]) >= floor && x_[id] > kNothing && may_win(id, leader.value)) leader.meet(run(id));
    }
  }

  // As the kernel `contenders`, for one id.
  bool may_win(int64_t id, double value) const {
    const double rest = (1.0 - uniform_cell(id)) - 0x1p-53;
    const double places = static_cast<double>(std::bit_cast<uint64_t>(rest)) * 0x1p-52;
    return places <= (score(x_[id]) - value) * kLog2e + 1023.01;
  }

  Pool& pool_;
  const BadVerifyKernels& kernels_;
  Scratch& scratch_;
  const float* x_;
  int64_t n_;
  int64_t n_values_ = 0;  // of scratch_.values and scratch_.weights in use
  float top_ = 0.0f;
  int64_t top_id_ = 0;
  ScoreScale scale_{};
  uint64_t counter_ = 0;
};

void check_law(const SamplingLaw& law) {
  if (!(law.temperature >= 0.0) || std::isinf(law.temperature))
    fail("temperature must be finite and not negative", std::to_string(law.temperature));
  if (law.top_k < 0) fail("top_k must be 0 or more", std::to_string(law.top_k));
  if (!(law.top_p > 0.0) || law.top_p > 1.0) fail("top_p must be above 0 and up to 1", std::to_string(law.top_p));
  if (!(law.min_p >= 0.0) || law.min_p > 1.0) fail("min_p must be from 0 to 1", std::to_string(law.min_p));
}

}  // namespace

const BadVerifyKernels& bad_verify_kernels(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kBadVerify;
  if (level == Simd::avx2) return avx2::kBadVerify;
#elif defined(__aarch64__)
  if (level == Simd::neon) return neon::kBadVerify;
#endif
  (void)level;
  return scalar::kBadVerify;
}

Verdict bad_verify(Pool& pool, std::span<const int64_t> draft_ids, std::span<const float> target_logits, int64_t vocab,
                   const SamplingLaw& law, uint64_t seed, int64_t position) {
  check_law(law);
  if (vocab < 1 || vocab > kMaxVocab)
    fail("the vocabulary must have from 1 to " + std::to_string(kMaxVocab) + " ids", std::to_string(vocab));
  const size_t rows = target_logits.size() / static_cast<size_t>(vocab);
  if (rows * static_cast<size_t>(vocab) != target_logits.size() || rows != draft_ids.size() + 1)
    fail("target_logits must have one row more than draft_ids", std::to_string(rows));
  if (position < 0 || position > kMaxPosition) fail("position must be from 0 to 2^62", std::to_string(position));
  for (int64_t i = 0;; ++i) {
    const int64_t id = Row(pool, target_logits.data() + i * vocab, vocab).choose(law, seed, position + i);
    if (i == static_cast<int64_t>(draft_ids.size()) || id != draft_ids[i]) return {i, id};
  }
}

}  // namespace vx
