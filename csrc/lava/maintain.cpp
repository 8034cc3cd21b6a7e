// Splits follow SPFresh's LIRE (arXiv:2410.14452): a list is cut in two where it is, and the lists around it are looked
// at for slots that now lie nearer to another list.
#include "lava/maintain.h"

#include <algorithm>
#include <limits>

#include "lava/query.h"
#include "lava/vectors.h"

namespace vx {
namespace {

constexpr int64_t kSample = 256;            // keys from which the two halves of a split are learned
constexpr int kRounds = 4;                  // of 2-means
constexpr int64_t kNeighbours = 4;          // lists that are looked at after a split, or take what a merge leaves
constexpr int64_t kMergeBelow = 8;          // a list is merged below this part of the mean length
constexpr int64_t kRefineAmong = 8;         // lists that a slot may go to when its list is refined
constexpr int64_t kCreditPerRow = 1 << 14;  // elements of keys that may be looked at for each new row
constexpr int64_t kMostCredit = 1 << 20;
// A slot that moves or is decoded costs as much as that many looks.
constexpr int64_t kMoveCost = 16, kDecodeCost = 4;

using Floats = std::vector<float>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

std::vector<int32_t> ids_of(const Store& store, int32_t list) {
  std::vector<int32_t> ids;
  const ListHead& head = store.list(list).head;
  int64_t left = head.count;
  for (int32_t b = head.first; b >= 0; b = store.block(b).next, left -= kLavaLanes) {
    const KeyBlock& block = store.block(b);
    ids.insert(ids.end(), block.ids, block.ids + std::min(left, kLavaLanes));
  }
  return ids;
}

// Scores of all slots of a list, in its order.
Floats scores_of(const Store& store, int32_t list, const Floats& query) {
  const PreparedQuery prepared(store.options.contents, query.data(), store.options.dim);
  const ListHead& head = store.list(list).head;
  Floats scores(at((head.count + kLavaLanes - 1) / kLavaLanes * kLavaLanes));
  float* out = scores.data();
  for (int32_t b = head.first; b >= 0; b = store.block(b).next, out += kLavaLanes)
    prepared.score(store, store.block(b), out);
  scores.resize(at(head.count));
  return scores;
}

void push_job(Store& store, Job job) {
  Counters& c = store.change_counters();
  if (c.n_jobs == Counters::kMaxJobs) return;  // it would only have made lists better
  c.jobs[(c.first_job + c.n_jobs++) % Counters::kMaxJobs] = job;
}

// The n_wanted lists nearest to `centroid`, without lists a and b.
std::vector<int32_t> neighbours(const Store& store, const Floats& centroid, int32_t a, int32_t b, int64_t n_wanted) {
  std::vector<std::pair<float, int32_t>> nearest;
  float scores[kLavaLanes];
  for (int64_t block = 0; block < store.n_lane_blocks(); ++block) {
    store.ops.score_float(store.centroids().block(block), centroid.data(), 1, store.options.dim, scores);
    for (int64_t lane = 0; lane < kLavaLanes; ++lane) {
      const int64_t i = block * kLavaLanes + lane;
      if (i >= store.counters().n_lists || i == a || i == b || store.list(static_cast<int32_t>(i)).head.is_alive == 0)
        continue;
      nearest.emplace_back(-(scores[lane] + store.bias()[i]), static_cast<int32_t>(i));
    }
  }
  const size_t n = std::min(nearest.size(), at(n_wanted));
  std::partial_sort(nearest.begin(), nearest.begin() + static_cast<std::ptrdiff_t>(n), nearest.end());
  std::vector<int32_t> lists;
  for (size_t i = 0; i < n; ++i) lists.push_back(nearest[i].second);
  return lists;
}

// Keys [n, dim] and where they fall: on the side of `second` where key . direction > threshold.
struct Halves {
  Floats direction;
  float threshold = 0.0f;
};

Halves between(const Floats& first, const Floats& second) {
  const auto dim = static_cast<int64_t>(first.size());
  Halves halves{Floats(first.size())};
  for (size_t j = 0; j < first.size(); ++j) halves.direction[j] = second[j] - first[j];
  halves.threshold = 0.5f * (dot(second.data(), second.data(), dim) - dot(first.data(), first.data(), dim));
  return halves;
}

// 2-means of a sample, from the key farthest from the mean and the one farthest from that; false where keys are equal.
bool two_means(const Floats& keys, int64_t n, int64_t dim, Floats mean, Halves& halves) {
  const auto farthest = [&](const Floats& from) {
    int64_t best = 0;
    float best_distance = -1.0f;
    for (int64_t i = 0; i < n; ++i) {
      const float* key = &keys[at(i * dim)];
      const float distance = dot(key, key, dim) - 2.0f * dot(key, from.data(), dim);
      if (i == 0 || distance > best_distance) {
        best = i;
        best_distance = distance;
      }
    }
    return Floats(&keys[at(best * dim)], &keys[at(best * dim)] + dim);
  };
  Floats sides[2];
  sides[0] = farthest(mean);
  sides[1] = farthest(sides[0]);
  for (int round = 0; round < kRounds; ++round) {
    if (sides[0] == sides[1]) return false;
    halves = between(sides[0], sides[1]);
    std::vector<double> sums[2] = {std::vector<double>(at(dim)), std::vector<double>(at(dim))};
    int64_t counts[2] = {};
    for (int64_t i = 0; i < n; ++i) {
      const float* key = &keys[at(i * dim)];
      const int side = dot(key, halves.direction.data(), dim) > halves.threshold ? 1 : 0;
      ++counts[side];
      for (int64_t j = 0; j < dim; ++j) sums[side][at(j)] += static_cast<double>(key[j]);
    }
    if (counts[0] == 0 || counts[1] == 0) break;
    for (int side = 0; side < 2; ++side)
      for (int64_t j = 0; j < dim; ++j)
        sides[side][at(j)] = static_cast<float>(sums[side][at(j)] / static_cast<double>(counts[side]));
  }
  halves = between(sides[0], sides[1]);
  return sides[0] != sides[1];
}

void centre(Store& store, int32_t i) {
  List& list = store.change_list(i);
  for (int64_t j = 0; j < store.options.dim; ++j)
    list.centroid[j] = static_cast<float>(list.key_sum[j] / std::max(1, list.head.count));
}

void split(Store& store, int32_t list) {
  const int64_t dim = store.options.dim;
  const std::vector<int32_t> ids = ids_of(store, list);
  const auto n = static_cast<int64_t>(ids.size()), n_sample = std::min(n, kSample);
  Floats keys(at(n_sample * dim));
  for (int64_t i = 0; i < n_sample; ++i) store.key_of(ids[at(i * n / n_sample)], &keys[at(i * dim)]);
  Floats mean(at(dim));
  const List& old = store.list(list);
  for (int64_t j = 0; j < dim; ++j) mean[at(j)] = static_cast<float>(old.key_sum[j] / static_cast<double>(n));
  const Floats old_centroid(old.centroid, old.centroid + dim);

  Halves halves;
  bool has_two = two_means(keys, n_sample, dim, mean, halves);
  Floats scores;
  if (has_two) {
    scores = scores_of(store, list, halves.direction);
    const auto above = [&] {
      return std::count_if(scores.begin(), scores.end(), [&](float s) { return s > halves.threshold; });
    };
    if (std::min<int64_t>(above(), n - above()) < n / 8) {
      // A few keys far from the rest would leave a list that is as long: cut at the median.
      Floats sorted = scores;
      std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.end());
      halves.threshold = sorted[at(n / 2)];
    }
    has_two = above() > 0 && above() < n;
  }
  if (!has_two) {
    store.change_list(list).head.no_split_below = static_cast<int32_t>(2 * n);
    return;
  }
  const int64_t n_above = std::count_if(scores.begin(), scores.end(), [&](float s) { return s > halves.threshold; });
  const bool moves_above = 2 * n_above <= n;  // the smaller side goes
  const int32_t fresh = store.add_list(mean.data());
  for (int64_t i = 0; i < n; ++i)
    if ((scores[at(i)] > halves.threshold) == moves_above) store.move(ids[at(i)], fresh);
  centre(store, list);
  centre(store, fresh);
  ++store.change_counters().n_splits;
  store.refresh();

  const std::vector<int32_t> near = neighbours(store, old_centroid, list, fresh, kNeighbours);
  for (const int32_t other : near) push_job(store, {other, list, fresh});
  if (near.size() >= 2)
    for (const int32_t half : {list, fresh}) push_job(store, {half, near[0], near[1]});
  for (const int32_t half : {list, fresh}) push_job(store, {half, -1, -1});
}

// Slots of a list that lie nearer to one of the others than to it go there.
void reassign(Store& store, int32_t list, const std::vector<int32_t>& others) {
  const auto is_alive = [&](int32_t i) { return store.list(i).head.is_alive != 0; };
  if (!is_alive(list) || store.list(list).head.count == 0) return;
  const auto centroid = [&](int32_t i) {
    return Floats(store.list(i).centroid, store.list(i).centroid + store.options.dim);
  };
  const std::vector<int32_t> ids = ids_of(store, list);
  Floats best(ids.size(), 0.0f);
  std::vector<int32_t> target(ids.size(), -1);
  for (const int32_t other : others) {
    if (other == list || !is_alive(other)) continue;
    const Halves halves = between(centroid(list), centroid(other));
    const Floats scores = scores_of(store, list, halves.direction);
    for (size_t i = 0; i < ids.size(); ++i)
      if (scores[i] - halves.threshold > best[i]) {
        best[i] = scores[i] - halves.threshold;
        target[i] = other;
      }
  }
  for (size_t i = 0; i < ids.size(); ++i)
    if (target[i] >= 0) store.move(ids[i], target[i]);
}

// A step of k-means for one list: its slots go to the nearest of the lists around it, its centroid to their mean.
void refine(Store& store, int32_t list) {
  const Floats centroid(store.list(list).centroid, store.list(list).centroid + store.options.dim);
  reassign(store, list, neighbours(store, centroid, list, list, kRefineAmong));
  if (store.list(list).head.count > 0) centre(store, list);
}

// Anchors become the means, radii the largest distances from them.
void tighten(Store& store, int32_t i) {
  if (store.list(i).head.is_alive == 0 || store.list(i).head.count == 0) return;
  const int64_t d = store.options.dim, dv = store.options.value_dim;
  List& list = store.change_list(i);
  for (int64_t j = 0; j < d; ++j) list.key_anchor[j] = static_cast<float>(list.key_sum[j] / list.head.count);
  for (int64_t j = 0; j < dv; ++j) list.value_anchor[j] = static_cast<float>(list.value_sum[j] / list.head.count);
  list.head.key_radius = list.head.value_radius = 0.0;
  Floats key(at(d)), value(at(dv));
  for (const int32_t id : ids_of(store, i)) {
    store.key_of(id, key.data());
    store.value_of(id, value.data());
    list.head.key_radius = std::max(list.head.key_radius, distance(key.data(), list.key_anchor, d));
    list.head.value_radius = std::max(list.head.value_radius, distance(value.data(), list.value_anchor, dv));
  }
}

// The slots of a list go to the nearest of the lists around it.
void merge(Store& store, int32_t list) {
  const int64_t dim = store.options.dim;
  const Floats centroid(store.list(list).centroid, store.list(list).centroid + dim);
  const std::vector<int32_t> near = neighbours(store, centroid, list, list, kNeighbours);
  Floats key(at(dim));
  for (const int32_t id : ids_of(store, list)) {
    store.key_of(id, key.data());
    int32_t best = near.front();
    float best_score = -std::numeric_limits<float>::infinity();
    for (const int32_t other : near) {
      const float score = dot(key.data(), store.list(other).centroid, dim) + store.bias()[other];
      if (score > best_score) {
        best_score = score;
        best = other;
      }
    }
    store.move(id, best);
  }
  store.drop_list(list);
  ++store.change_counters().n_merges;
}

struct Extremes {
  int32_t longest = -1, shortest = -1;  // of those that are to be split; of all
};

Extremes extremes(const Store& store) {
  const int64_t limit = longest_list(store.options);
  Extremes found;
  for (int32_t i = 0; i < store.counters().n_lists; ++i) {
    const ListHead& head = store.list(i).head;
    if (head.is_alive == 0) continue;
    const bool is_long = head.count > limit && head.count >= head.no_split_below;
    if (is_long && (found.longest < 0 || head.count > store.list(found.longest).head.count)) found.longest = i;
    if (found.shortest < 0 || head.count < store.list(found.shortest).head.count) found.shortest = i;
  }
  return found;
}

}  // namespace

int64_t longest_list(const BankOptions& o) {
  return std::max<int64_t>(kLavaLanes, (3 * o.capacity + 2 * o.n_lists - 1) / (2 * o.n_lists));
}

void maintain(Store& store, int64_t n_rows) {
  Counters& c = store.change_counters();
  c.credit = std::min(c.credit + n_rows * kCreditPerRow, kMostCredit);
  const auto count = [&](int32_t list) -> int64_t { return store.list(list).head.count; };
  for (int32_t n_refined = 0; c.credit > 0 && c.n_alive > 0 && n_refined < c.n_lists;) {
    const Extremes found = extremes(store);
    const int64_t shortest = count(found.shortest), mean = c.n_live / c.n_alive;
    const bool is_full = c.n_alive == store.options.n_lists;
    int64_t looks = 0;
    if (found.longest >= 0 && !is_full) {
      looks = count(found.longest) * kMoveCost;
      split(store, found.longest);
    } else if (found.longest >= 0 && found.shortest != found.longest && 4 * shortest <= count(found.longest)) {
      looks = shortest * kMoveCost;
      merge(store, found.shortest);
    } else if (c.n_jobs > 0) {
      const Job job = c.jobs[c.first_job];
      c.first_job = (c.first_job + 1) % Counters::kMaxJobs;
      --c.n_jobs;
      looks = count(job.list) * (job.a >= 0 ? 2 : kDecodeCost);
      if (job.a >= 0)
        reassign(store, job.list, {job.a, job.b});
      else
        tighten(store, job.list);
    } else if (c.n_alive > 1 && shortest * kMergeBelow < mean) {
      looks = shortest * kMoveCost;
      merge(store, found.shortest);
    } else {
      const auto list = static_cast<int32_t>(c.next_refined++ % c.n_lists);
      ++n_refined;
      if (c.n_alive == 1 || store.list(list).head.is_alive == 0) continue;
      looks = count(list) * kRefineAmong + c.n_lists;
      refine(store, list);
    }
    c.credit -= (looks + kLavaLanes) * store.options.dim;
    store.refresh();
  }
}

}  // namespace vx
