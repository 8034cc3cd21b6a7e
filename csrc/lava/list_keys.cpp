#include "lava/list_keys.h"

#include <algorithm>
#include <cmath>

#include "lava/vectors.h"

namespace vx {
namespace {

constexpr int kAxisRounds = 2, kMeansRounds = 4;

using Floats = std::vector<float>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

// weights [n_blocks, 64]: sums[j] = sum over keys of weight * key[j].
void weighted_sums(const ListKeys& keys, const Floats& weights, int64_t dim, Floats& sums) {
  sums.assign(at(dim), 0.0f);
  for (size_t b = 0; b < keys.n_blocks(); ++b)
    for (int64_t j = 0; j < dim; ++j)
      sums[at(j)] += dot(keys.lanes(b) + j * kLavaLanes, &weights[b * kLavaLanes], kLavaLanes);
}

// 1 for every key, 0 for lanes of none.
Floats ones(const ListKeys& keys) {
  Floats weights(keys.n_blocks() * kLavaLanes, 0.0f);
  for (size_t b = 0; b < keys.n_blocks(); ++b) std::fill_n(&weights[b * kLavaLanes], keys.n_lanes(b), 1.0f);
  return weights;
}

class TwoMeans {
 public:
  TwoMeans(const LavaOps& ops, const ListKeys& keys, int64_t dim)
      : ops_(ops), keys_(keys), dim_(dim), is_key_(ones(keys)), scores_(is_key_.size()), weights_(is_key_.size()) {
    weighted_sums(keys, is_key_, dim, total_);
  }

  Halves run(bool is_even) {
    project(axis());
    Halves halves = cut();
    for (int round = 0; round < kMeansRounds; ++round) {
      if (halves.gain == 0.0) return halves;
      Floats between = direction_of(halves.sums[1].data(), dim_);
      const Floats first = direction_of(halves.sums[0].data(), dim_);
      for (size_t j = 0; j < between.size(); ++j) between[j] -= first[j];
      threshold_ = 0.0f;
      project(between);
      Halves next = cut();
      if (is_even && 8 * std::min(next.counts[0], next.counts[1]) < keys_.n_keys()) return halves;
      if (!(next.gain > halves.gain)) return halves;
      halves = std::move(next);
    }
    return halves;
  }

 private:
  void project(const Floats& direction) {
    for (size_t b = 0; b < keys_.n_blocks(); ++b)
      ops_.score_float(keys_.lanes(b), direction.data(), 1, dim_, &scores_[b * kLavaLanes]);
  }

  // The axis along which the keys lie widest, by power iteration from the key that is farthest from the mean's
  // direction; threshold_: of the mean.
  Floats axis() {
    Floats mean = total_;
    for (float& x : mean) x /= static_cast<float>(keys_.n_keys());
    project(direction_of(total_.data(), dim_));
    size_t worst = 0;
    for (size_t i = 1; i < scores_.size(); ++i)
      if (is_key_[i] > 0.0f && scores_[i] < scores_[worst]) worst = i;
    Floats along(at(dim_));
    for (int64_t j = 0; j < dim_; ++j)
      along[at(j)] =
          keys_.lanes(worst / kLavaLanes)[j * kLavaLanes + static_cast<int64_t>(worst % kLavaLanes)] - mean[at(j)];
    for (int round = 0; round < kAxisRounds; ++round) {
      project(along);
      const float middle = dot(along.data(), mean.data(), dim_);
      for (size_t i = 0; i < scores_.size(); ++i) weights_[i] = is_key_[i] * (scores_[i] - middle);
      Floats next;
      weighted_sums(keys_, weights_, dim_, next);
      float sum = 0.0f;
      for (size_t i = 0; i < weights_.size(); ++i) sum += weights_[i];
      for (size_t j = 0; j < next.size(); ++j) next[j] -= sum * mean[j];
      along = direction_of(next.data(), dim_);
    }
    threshold_ = dot(along.data(), mean.data(), dim_);
    return along;
  }

  Halves cut() {
    Halves halves;
    for (size_t i = 0; i < scores_.size(); ++i) {
      weights_[i] = scores_[i] > threshold_ ? is_key_[i] : 0.0f;
      halves.counts[1] += weights_[i] > 0.0f ? 1 : 0;
    }
    halves.counts[0] = keys_.n_keys() - halves.counts[1];
    if (halves.counts[0] == 0 || halves.counts[1] == 0) return halves;
    weighted_sums(keys_, weights_, dim_, halves.sums[1]);
    halves.sums[0] = total_;
    for (size_t j = 0; j < total_.size(); ++j) halves.sums[0][j] -= halves.sums[1][j];
    const auto length = [&](const Floats& a) { return std::sqrt(static_cast<double>(dot(a.data(), a.data(), dim_))); };
    // Keys that are equal but for roundings are not worth two lists.
    const double whole = length(total_), gain = length(halves.sums[0]) + length(halves.sums[1]) - whole;
    halves.gain = gain > 1e-4 * (length(halves.sums[0]) + length(halves.sums[1])) ? gain : 0.0;
    return halves;
  }

  const LavaOps& ops_;
  const ListKeys& keys_;
  int64_t dim_;
  Floats is_key_, scores_, weights_, total_;
  float threshold_ = 0.0f;
};

}  // namespace

std::vector<float> direction_of(const float* a, int64_t dim) {
  const float length = std::sqrt(dot(a, a, dim)), factor = length > 0.0f ? 1.0f / length : 0.0f;
  Floats direction(a, a + dim);
  for (float& x : direction) x *= factor;
  return direction;
}

ListKeys::ListKeys(const Store& store, int32_t list, int64_t first, int64_t step, int64_t n_blocks)
    : block_size_(at(store.options.dim * kLavaLanes)) {
  const ListHead& head = store.list(list).head;
  int64_t number = 0;
  for (int32_t b = head.first; b >= 0 && static_cast<int64_t>(blocks_.size()) < n_blocks; ++number) {
    const KeyBlock& block = store.block(b);
    if (number >= first && (number - first) % step == 0) {
      const int64_t n = std::min(kLavaLanes, head.count - number * kLavaLanes);
      blocks_.push_back({&block, n});
      n_keys_ += n;
    }
    b = block.next;
  }
  values_.resize(blocks_.size() * block_size_);
  for (size_t i = 0; i < blocks_.size(); ++i) store.decode_block(*blocks_[i].keys, &values_[i * block_size_]);
}

Halves two_means(const LavaOps& ops, const ListKeys& keys, int64_t dim, bool is_even) {
  return TwoMeans(ops, keys, dim).run(is_even);
}

}  // namespace vx
