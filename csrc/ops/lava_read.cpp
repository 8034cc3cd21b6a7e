// Attention over a bank: exact over the recent rows and the slots that are read, list by list over the rest.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "common/errors.h"
#include "ops/lava_bound.h"
#include "ops/lava_checks.h"
#include "ops/lava_scan.h"
#include "ops/lava_search.h"

namespace vx {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;

// What one query adds up. Powers of two are taken of scores * scale - shift, so that nothing overflows.
class Reader {
 public:
  // query: [store.options.dim], row i of read.queries in the basis of the keys.
  Reader(const LavaBank& bank, const LavaRead& read, const LaneMatrix& recent_keys, const float* query, int64_t i,
         Pool* pool)
      : bank_(bank),
        store_(bank.store()),
        ops_(store_.ops),
        read_(read),
        recent_keys_(recent_keys),
        full_query_(read.queries.data() + i * bank.keys().dim()),
        query_(query),
        scale_(read.scales[static_cast<size_t>(i)] * kLog2E),
        begin_(read.recent_range[static_cast<size_t>(2 * i)]),
        end_(read.recent_range[static_cast<size_t>(2 * i + 1)]),
        scan_(store_, pool, query_, read.n_probe),
        row_(static_cast<size_t>(store_.options.value_dim)) {}

  void run(float* out, float* bound) {
    score();
    const int64_t dv = bank_.values().dim();
    std::fill_n(out, dv, 0.0f);
    add_recent(out);
    Floats in_basis(bank_.values().is_trivial() ? 0 : static_cast<size_t>(store_.options.value_dim), 0.0f);
    float* of_bank = in_basis.empty() ? out : in_basis.data();
    add_slots(of_bank);
    const double read_mass = mass_;
    add_lists(of_bank);
    if (!in_basis.empty()) {
      Floats expanded(static_cast<size_t>(dv));
      bank_.values().expand(ops_, in_basis.data(), expanded.data());
      ops_.add_scaled(expanded.data(), 1.0f, dv, out);
    }
    if (mass_ > 0.0)
      for (int64_t j = 0; j < dv; ++j) out[j] /= static_cast<float>(mass_);
    if (bound == nullptr) return;
    *bound = lava_bound(bank_, read_, {full_query_, scale_, shift_, read_mass, begin_, end_}, tails_, used_, out);
  }

 private:
  void score() {
    recent_.resize(static_cast<size_t>(end_ - begin_));
    float scores[kLavaLanes];
    for (int64_t block = begin_ / kLavaLanes; block * kLavaLanes < end_; ++block) {
      ops_.score_float(recent_keys_.block(block), full_query_, 1, bank_.keys().dim(), scores);
      const int64_t from = std::max(begin_, block * kLavaLanes), to = std::min(end_, (block + 1) * kLavaLanes);
      std::copy(scores + from - block * kLavaLanes, scores + to - block * kLavaLanes,
                recent_.begin() + (from - begin_));
    }
    float largest = -kInfinity;
    for (const float s : recent_) largest = std::max(largest, s);
    if (read_.k) {
      best_ = scan_.top(*read_.k);
      if (!best_.empty()) largest = std::max(largest, best_.front().score);
    } else {
      scan_.score_all();
      for (size_t b = 0; b < scan_.blocks().size(); ++b)
        for (int64_t lane = 0; lane < scan_.blocks()[b].n_slots; ++lane)
          largest = std::max(largest, scan_.scores(b)[lane]);
    }
    is_probed_.assign(static_cast<size_t>(store_.counters().n_lists), -1);
    for (size_t i = 0; i < scan_.probed().size(); ++i)
      is_probed_[static_cast<size_t>(scan_.probed()[i].list)] = static_cast<int32_t>(i);
    means_.resize(static_cast<size_t>(store_.n_lane_blocks() * kLavaLanes));
    for (int64_t block = 0; block < store_.n_lane_blocks(); ++block)
      ops_.score_float(store_.means().block(block), query_, 1, store_.options.dim,
                       &means_[static_cast<size_t>(block * kLavaLanes)]);
    for (int32_t i = 0; i < store_.counters().n_lists; ++i)
      if (store_.list(i).head.count > 0) largest = std::max(largest, means_[static_cast<size_t>(i)]);
    shift_ = largest == -kInfinity ? 0.0f : largest * scale_;
  }

  void add(const float* value, float weight, int64_t dim, float* out) {
    ops_.add_scaled(value, weight, dim, out);
    mass_ += static_cast<double>(weight);
  }

  void add_recent(float* out) {
    Floats weights(recent_.size());
    ops_.exp2_of(recent_.data(), end_ - begin_, scale_, shift_, weights.data());
    const int64_t dv = bank_.values().dim();
    for (int64_t row = begin_; row < end_; ++row)
      add(read_.recent_values.data() + row * dv, weights[static_cast<size_t>(row - begin_)], dv, out);
  }

  void add_slot(int32_t id, float weight, float* out) {
    store_.value_of(id, row_.data());
    add(row_.data(), weight, store_.options.value_dim, out);
    used_.push_back(id);
  }

  void add_slots(float* out) {
    if (read_.k) {
      Floats scores, weights(best_.size());
      for (const Scored& one : best_) scores.push_back(one.score);
      ops_.exp2_of(scores.data(), static_cast<int64_t>(scores.size()), scale_, shift_, weights.data());
      for (size_t i = 0; i < best_.size(); ++i) add_slot(best_[i].id, weights[i], out);
      return;
    }
    float weights[kLavaLanes];
    for (const int32_t probed : is_probed_) {
      if (probed < 0) continue;
      const auto [first, last] = blocks_of(static_cast<size_t>(probed));
      for (size_t b = first; b < last; ++b) {
        const LavaScan::Block& block = scan_.blocks()[b];
        ops_.exp2_of(scan_.scores(b), block.n_slots, scale_, shift_, weights);
        for (int64_t lane = 0; lane < block.n_slots; ++lane) add_slot(block.keys->ids[lane], weights[lane], out);
      }
    }
  }

  std::pair<size_t, size_t> blocks_of(size_t probed) const {
    const auto& all = scan_.probed();
    return {all[probed].first_block, probed + 1 < all.size() ? all[probed + 1].first_block : scan_.blocks().size()};
  }

  // The mass of the slots of a probed list that were not read.
  double unread(size_t probed) const {
    if (!read_.k) return 0.0;
    const LavaCut cut = best_.size() == static_cast<size_t>(*read_.k)
                            ? LavaCut{best_.back().score, best_.back().id}
                            : LavaCut{-kInfinity, std::numeric_limits<int32_t>::max()};
    const auto [first, last] = blocks_of(probed);
    double sum = 0.0;
    for (size_t b = first; b < last; ++b) {
      const LavaScan::Block& block = scan_.blocks()[b];
      sum += static_cast<double>(ops_.exp2_sum(scan_.scores(b), block.keys->ids, block.n_slots, scale_, shift_, cut));
    }
    return sum;
  }

  void add_lists(float* out) {
    Floats weights(means_.size());
    ops_.exp2_of(means_.data(), static_cast<int64_t>(means_.size()), scale_, shift_, weights.data());
    for (int32_t i = 0; i < store_.counters().n_lists; ++i) {
      const List& list = store_.list(i);
      if (list.head.count == 0) continue;
      const int32_t probed = is_probed_[static_cast<size_t>(i)];
      const bool is_exact = probed >= 0;
      const double mass = is_exact ? unread(static_cast<size_t>(probed))
                                   : static_cast<double>(weights[static_cast<size_t>(i)]) * list.head.count;
      if (mass == 0.0 && is_exact) continue;
      tails_.push_back({i, mass, is_exact, means_[static_cast<size_t>(i)]});
      if (read_.has_tail) add(list.value_mean, static_cast<float>(mass), store_.options.value_dim, out);
    }
  }

  const LavaBank& bank_;
  const Store& store_;
  const LavaOps& ops_;
  const LavaRead& read_;
  const LaneMatrix& recent_keys_;
  const float *full_query_, *query_;
  float scale_, shift_ = 0.0f;
  int64_t begin_, end_;
  LavaScan scan_;
  std::vector<Scored> best_;
  Floats recent_, means_, row_;     // scores of recent rows; of the mean keys of lists; a value
  std::vector<int32_t> is_probed_;  // of each list its place among the probed ones, -1 for none
  std::vector<LavaTail> tails_;
  std::vector<int32_t> used_;
  double mass_ = 0.0;
};

int64_t check(const LavaBank& bank, const LavaRead& read, std::span<float> out, std::span<float> bound) {
  constexpr const char* kOp = "lava_read";
  const BankOptions& o = bank.store().options;
  const int64_t dim = bank.keys().dim(), value_dim = bank.values().dim();
  const int64_t n = check_queries(kOp, bank, read.queries);
  const auto rows = static_cast<size_t>(n);
  check_probes(kOp, o, read.n_probe);
  if (read.k) check_k(kOp, *read.k);
  check_size(kOp, "scale", read.scales.size(), rows);
  check_magnitudes(kOp, "scale", read.scales, 1);
  const auto fail = [](const std::string& rule, const std::string& value) {
    throw ArgumentError(std::string("[") + kOp + "] " + rule + ", got " + value);
  };
  for (const float scale : read.scales)
    if (scale < 0.0f) fail("scale must not be negative", std::to_string(scale));
  const auto n_recent = static_cast<int64_t>(read.recent_keys.size()) / dim;
  check_size(kOp, "recent_keys", read.recent_keys.size(), static_cast<size_t>(n_recent * dim));
  check_size(kOp, "recent_values", read.recent_values.size(), static_cast<size_t>(n_recent * value_dim));
  check_magnitudes(kOp, "recent_keys", read.recent_keys, dim);
  check_magnitudes(kOp, "recent_values", read.recent_values, value_dim);
  check_size(kOp, "recent_range", read.recent_range.size(), 2 * rows);
  for (size_t i = 0; i < rows; ++i) {
    const int64_t begin = read.recent_range[2 * i], end = read.recent_range[2 * i + 1];
    if (begin < 0 || begin > end || end > n_recent)
      fail("recent_range must be [begin, end) within the " + std::to_string(n_recent) + " recent rows",
           std::to_string(begin) + " to " + std::to_string(end) + " in row " + std::to_string(i));
  }
  check_size(kOp, "the output", out.size(), rows * static_cast<size_t>(value_dim));
  if (!bound.empty()) check_size(kOp, "the bound", bound.size(), rows);
  return n;
}

}  // namespace

void lava_read(Pool& pool, const LavaBank& bank, const LavaRead& read, std::span<float> out, std::span<float> bound) {
  const std::shared_lock lock(bank.mutex());
  const int64_t n = check(bank, read, out, bound);
  const Store& store = bank.store();
  const int64_t dim = bank.keys().dim();
  LaneMatrix recent_keys(dim);
  const auto n_recent = static_cast<int64_t>(read.recent_keys.size()) / dim;
  recent_keys.reach(n_recent);
  for (int64_t row = 0; row < n_recent; ++row) recent_keys.set(row, read.recent_keys.data() + row * dim);
  const Floats queries = bank.keys().coordinates(store.ops, read.queries.data(), n);
  const auto one = [&](int64_t i, Pool* shared) {
    Reader(bank, read, recent_keys, queries.data() + i * store.options.dim, i, shared)
        .run(out.data() + i * bank.values().dim(), bound.empty() ? nullptr : bound.data() + i);
  };
  if (n == 1)
    one(0, &pool);
  else
    pool.threads.for_each(n, [&](int64_t i, int) { one(i, nullptr); });
}

}  // namespace vx
