#include "ops/lava_bound.h"

#include <algorithm>
#include <cmath>

#include "lava/query.h"
#include "lava/vectors.h"

namespace vx {
namespace {

// Halves of the last bits that a chain of dim steps, or a query of 16 bits, puts on a score.
double score_error(const Store& store, double query, double key) {
  const auto dim = static_cast<double>(store.options.dim);
  const double chain = (dim + 8.0) * 0x1p-24;
  return query * key * (chain + std::sqrt(dim) * PreparedQuery::rounding(store.options.contents, store.options.dim));
}

double norm(const float* a, int64_t n) {
  double sum = 0.0;
  for (int64_t j = 0; j < n; ++j) sum += static_cast<double>(a[j]) * static_cast<double>(a[j]);
  return std::sqrt(sum);
}

}  // namespace

float lava_bound(const LavaBank& bank, const LavaRead& read, const LavaReadState& state,
                 const std::vector<LavaTail>& tails, const std::vector<int32_t>& used, const float* out) {
  const Store& store = bank.store();
  const int64_t d = store.options.dim, dv = store.options.value_dim, full = bank.values().dim();
  const double query = norm(state.query, bank.keys().dim()), scale = static_cast<double>(state.scale);
  double farthest = 0.0, longest_key = 0.0;  // distance of a value from out; length of a key
  std::vector<float> row(static_cast<size_t>(std::max(d, dv))), expanded(static_cast<size_t>(full));
  const auto from_out = [&](const float* stored) {
    bank.values().expand(store.ops, stored, expanded.data());
    return distance(expanded.data(), out, full);
  };
  for (const int32_t id : used) {
    store.value_of(id, row.data());
    farthest = std::max(farthest, from_out(row.data()));
    store.key_of(id, row.data());
    longest_key = std::max(longest_key, norm(row.data(), d));
  }
  for (int64_t i = state.recent_begin; i < state.recent_end; ++i) {
    farthest = std::max(farthest, distance(read.recent_values.data() + i * full, out, full));
    longest_key = std::max(longest_key, norm(read.recent_keys.data() + i * bank.keys().dim(), bank.keys().dim()));
  }
  double error = 0.0, least = state.read_mass;
  for (const LavaTail& tail : tails) {
    const List& list = store.list(tail.list);
    for (int64_t j = 0; j < d; ++j) row[static_cast<size_t>(j)] = static_cast<float>(list.key_sum[j] / list.head.count);
    const double key_radius = list.head.key_radius + distance(row.data(), list.key_anchor, d);
    longest_key = std::max(longest_key, norm(row.data(), d) + key_radius);
    const double spread = list.head.value_radius + distance(list.value_mean, list.value_anchor, dv);
    const double away = from_out(list.value_mean);
    const double low = tail.mass;
    const double most = scale * (static_cast<double>(tail.mean_score) + query * key_radius);
    const double high = tail.is_exact ? low : list.head.count * std::exp2(most - static_cast<double>(state.shift));
    const double estimate = read.has_tail ? tail.mass : 0.0;
    const double worst = std::max(high - estimate, estimate - low);
    farthest = std::max(farthest, spread + away);
    least += low;
    if (spread > 0.0) error += high * spread;
    if (away > 0.0) error += std::max(0.0, worst) * away;
  }
  const double tight = error > 0.0 && least > 0.0 ? error / least : (error > 0.0 ? farthest : 0.0);
  const double in_scores = scale * 0.6931471805599453 * score_error(store, query, longest_key);
  const double rounding = farthest > 0.0 ? std::expm1(2.0 * in_scores) * farthest : 0.0;
  return static_cast<float>(std::min(tight + rounding, farthest) + 1e-5 * (norm(out, full) + farthest));
}

}  // namespace vx
