// Lists are those of k-means by direction: what is as large as possible is the sum over all keys of key . direction of
// its list, which is the sum over lists of |sum of its keys|. A list is cut in two where it is and the lists around it
// are looked at for slots that now score higher elsewhere, as in SPFresh's LIRE (arXiv:2410.14452); with no list left
// the two that lose the least by it become one first.
#include "lava/maintain.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lava/list_keys.h"
#include "lava/query.h"
#include "lava/top_k.h"
#include "lava/vectors.h"

namespace vx {
namespace {

constexpr int64_t kBlocksAtOnce = 4;                // of keys that one step learns from
constexpr int64_t kMostMoves = 16;                  // slots that go to other lists in one step
constexpr int64_t kMostLooks = 32;                  // blocks that one step of a reassignment looks at
constexpr int64_t kMostTightened = 8 * kLavaLanes;  // slots of a list whose radii are found anew
constexpr int64_t kNeighbours = 4;                  // lists that are looked at after a split
constexpr int64_t kAmong = 32;                      // lists between which refinement chooses
constexpr int64_t kLimit = 4;        // a list is at most that many times as long as it would be if all were equal
constexpr int64_t kEarly = 4;        // there may be that many times as many lists as slots need in the end
constexpr int64_t kStirredPart = 8;  // what a split gains is found again when that part of the slots came or went
constexpr double kWorth = 1.3;       // a split must gain that much more than the merge before it loses
// Work is counted in products of an element of a key with that of a direction; a row pays for some.
constexpr int64_t kCreditPerRow = 1 << 16;
constexpr int64_t kMostCredit = 64 * kCreditPerRow;
constexpr int64_t kMoveCost = 250, kDecodeCost = 10, kMeansCost = 32, kSlotCost = 1000, kRadiusCost = 24;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

int64_t blocks_of(const Store& store, int32_t list) {
  return (store.list(list).head.count + kLavaLanes - 1) / kLavaLanes;
}

bool is_alive(const Store& store, int32_t list) { return store.list(list).head.is_alive != 0; }

void push_job(Store& store, Job job, bool is_next = false) {
  Counters& c = store.change_counters();
  if (c.n_jobs == Counters::kMaxJobs) return;  // it would only have made lists better
  if (is_next) c.first_job = (c.first_job + Counters::kMaxJobs - 1) % Counters::kMaxJobs;
  c.jobs[is_next ? c.first_job : (c.first_job + c.n_jobs) % Counters::kMaxJobs] = job;
  ++c.n_jobs;
}

// The n_wanted lists whose directions are nearest to that of a list, the nearest first.
std::vector<int32_t> neighbours(const Store& store, int32_t list, int64_t n_wanted) {
  const Floats scores = store.coarse().scores(store.ops, store.direction(list), store.n_lane_blocks());
  TopK nearest(n_wanted);
  for (int64_t block = 0; block < store.n_lane_blocks(); ++block)
    for (uint64_t lanes = store.ops.at_least(&scores[at(block * kLavaLanes)], nearest.threshold()); lanes != 0;
         lanes &= lanes - 1) {
      const auto i = static_cast<int32_t>(block * kLavaLanes + __builtin_ctzll(lanes));
      if (i < store.counters().n_lists && i != list && store.needs()[at(i)].count >= 0)
        nearest.offer({scores[at(i)], i});
    }
  std::vector<int32_t> lists;
  for (const Scored& one : nearest.sorted()) lists.push_back(one.id);
  return lists;
}

double length(const double* a, int64_t dim) {
  double sum = 0.0;
  for (int64_t j = 0; j < dim; ++j) sum += a[j] * a[j];
  return std::sqrt(sum);
}

// What the sum of scores loses when two lists become one.
double merge_cost(const Store& store, int32_t a, int32_t b) {
  const int64_t dim = store.options.dim;
  const double *x = store.list(a).key_sum, *y = store.list(b).key_sum;
  std::vector<double> both(at(dim));
  for (int64_t j = 0; j < dim; ++j) both[at(j)] = x[j] + y[j];
  return std::max(0.0, length(x, dim) + length(y, dim) - length(both.data(), dim));
}

void centre(Store& store, int32_t i) {
  List& list = store.change_list(i);
  if (list.head.count == 0) return;
  for (int64_t j = 0; j < store.options.dim; ++j)
    list.centroid[j] = static_cast<float>(list.key_sum[j] / list.head.count);
}

void set_needs(Store& store, int32_t i, double split_gain, double cost, int32_t with) {
  ListHead& head = store.change_list(i).head;
  head.split_gain = split_gain;
  head.merge_cost = cost;
  head.merge_with = with;
}

void forget_needs(Store& store, int32_t i) { set_needs(store, i, 0.0, std::numeric_limits<double>::infinity(), -1); }

// Two halves of what a split learns from: blocks from all over the list.
Halves halves_of(const Store& store, int32_t list, bool is_even) {
  const int64_t n = blocks_of(store, list), step = (n + kBlocksAtOnce - 1) / kBlocksAtOnce;
  const ListKeys keys(store, list, 0, std::max<int64_t>(1, step), kBlocksAtOnce);
  Halves halves = two_means(store.ops, keys, store.options.dim, is_even);
  halves.gain *= static_cast<double>(store.list(list).head.count) / static_cast<double>(keys.n_keys());
  return halves;
}

// A second list, for the slots of this one that score higher with it; they follow as a job.
void cut(Store& store, int32_t list, const Halves& halves) {
  const int64_t dim = store.options.dim;
  const int larger = halves.counts[1] > halves.counts[0] ? 1 : 0;
  const auto mean = [&](int side) {
    Floats a = halves.sums[side];
    for (float& x : a) x /= static_cast<float>(halves.counts[side]);
    return a;
  };
  List& old = store.change_list(list);
  const Floats kept = mean(larger);
  std::copy_n(kept.begin(), dim, old.centroid);
  old.head.no_split_below = old.head.count + 1;
  const int32_t fresh = store.add_list(mean(1 - larger).data());
  forget_needs(store, list);
  ++store.change_counters().n_splits;
  store.refresh();
  push_job(store, {list, fresh, fresh, store.list(list).head.count}, true);
  for (const int32_t other : neighbours(store, fresh, kNeighbours))
    if (other != list) push_job(store, {other, list, fresh, store.list(other).head.count});
  for (const int32_t half : {list, fresh}) push_job(store, {half, Job::kRefine, Job::kRefine, 0});
  for (const int32_t half : {list, fresh}) push_job(store, {half, Job::kRadii, Job::kRadii, 0});
}

int64_t merge_work(const BankOptions& o, int64_t n_slots) {
  return n_slots * kSlotCost + o.dim * kLavaLanes * kDecodeCost;
}

// The shorter one goes to the end of the other. Returns the work.
int64_t merge(Store& store, int32_t a, int32_t b) {
  const bool is_shorter = store.list(a).head.count < store.list(b).head.count;
  const int32_t from = is_shorter ? a : b, to = is_shorter ? b : a;
  const int64_t n = store.list(from).head.count;
  store.append(from, to);
  store.drop_list(from);
  centre(store, to);
  forget_needs(store, to);
  ++store.change_counters().n_merges;
  push_job(store, {to, Job::kRefine, Job::kRefine, 0}, true);
  return merge_work(store.options, n);
}

// Slots of a list that score higher with list a or b than with it go there, from its end on, a few in one go. Returns
// the work.
int64_t reassign(Store& store, Job job) {
  if (!is_alive(store, job.list) || store.list(job.list).head.count == 0) return 0;
  const int64_t dim = store.options.dim;
  std::vector<PreparedQuery> queries;
  std::vector<int32_t> targets;
  std::vector<Floats> between;
  for (const int32_t other : {job.a, job.b}) {
    if (other == job.list || !is_alive(store, other) || (!targets.empty() && targets.front() == other)) continue;
    Floats direction(store.direction(other), store.direction(other) + dim);
    for (int64_t j = 0; j < dim; ++j) direction[at(j)] -= store.direction(job.list)[j];
    between.push_back(std::move(direction));
    targets.push_back(other);
  }
  for (const Floats& direction : between) queries.emplace_back(store.options.contents, direction.data(), dim);
  const ListHead& head = store.list(job.list).head;
  const int64_t left = std::min(job.left, head.count);
  // The block with the last slot that was not looked at yet.
  int32_t b = head.last;
  int64_t number = (head.count - 1) / kLavaLanes;
  for (; number > (left - 1) / kLavaLanes; --number) b = store.block(b).previous;
  std::vector<std::pair<int32_t, int32_t>> moves;
  int64_t n_blocks = 0, looked_to = left;
  for (; b >= 0 && n_blocks < kMostLooks && static_cast<int64_t>(moves.size()) < kMostMoves; --number, ++n_blocks) {
    const KeyBlock& block = store.block(b);
    float scores[2][kLavaLanes];
    for (size_t i = 0; i < queries.size(); ++i) queries[i].score(store, block, scores[i]);
    int64_t lane = std::min(kLavaLanes, left - number * kLavaLanes);
    while (--lane >= 0 && static_cast<int64_t>(moves.size()) < kMostMoves) {
      float best = 0.0f;
      int32_t target = -1;
      for (size_t i = 0; i < queries.size(); ++i)
        if (scores[i][lane] > best) {
          best = scores[i][lane];
          target = targets[i];
        }
      if (target >= 0) moves.emplace_back(block.ids[lane], target);
    }
    looked_to = number * kLavaLanes + lane + 1;
    b = block.previous;
  }
  for (const auto& [id, to] : moves) store.move(id, to);
  job.left = static_cast<int32_t>(looked_to);
  if (job.left > 0) {
    push_job(store, job, true);
  } else {
    centre(store, job.list);
    for (const int32_t to : targets) centre(store, to);
  }
  return dim * (n_blocks * kLavaLanes * 2 * static_cast<int64_t>(queries.size()) +
                static_cast<int64_t>(moves.size()) * kMoveCost);
}

// A step of k-means for one list: its slots go to the nearest of the lists around it, a few in one go, and its centroid
// to their mean; and what it would be worth to split or merge it. Returns the work.
int64_t refine(Store& store, int32_t list) {
  const int64_t dim = store.options.dim, n = store.list(list).head.count, n_blocks = blocks_of(store, list);
  if (n == 0) return 0;
  const int64_t pass = store.counters().next_refined / std::max(1, store.counters().n_lists);
  const int64_t n_rounds = std::min<int64_t>((n_blocks + kBlocksAtOnce - 1) / kBlocksAtOnce, kMostLooks);
  const ListKeys keys(store, list, pass % n_rounds * kBlocksAtOnce, 1, kBlocksAtOnce);
  // The list itself comes first: it keeps what scores as high with another.
  std::vector<int32_t> among = neighbours(store, list, kAmong - 1);
  double cost = std::numeric_limits<double>::infinity();
  int32_t with = -1;
  for (size_t i = 0; i < std::min<size_t>(among.size(), 4); ++i)
    if (const double other = merge_cost(store, list, among[i]); other < cost) {
      cost = other;
      with = among[i];
    }
  among.insert(among.begin(), list);
  Floats directions(among.size() * at(dim)), scores(among.size() * kLavaLanes);
  for (size_t i = 0; i < among.size(); ++i) std::copy_n(store.direction(among[i]), dim, &directions[i * at(dim)]);
  std::vector<std::pair<int32_t, int32_t>> moves;
  bool is_done = true;
  for (size_t b = 0; b < keys.n_blocks(); ++b) {
    store.ops.score_float(keys.lanes(b), directions.data(), static_cast<int64_t>(among.size()), dim, scores.data());
    float best[kLavaLanes];
    int32_t nearest[kLavaLanes] = {};
    std::copy_n(scores.begin(), kLavaLanes, best);
    for (size_t i = 1; i < among.size(); ++i)
      for (size_t lane = 0; lane < kLavaLanes; ++lane) {
        const float score = scores[i * kLavaLanes + lane];
        nearest[lane] = score > best[lane] ? static_cast<int32_t>(i) : nearest[lane];
        best[lane] = score > best[lane] ? score : best[lane];
      }
    for (int64_t lane = 0; lane < keys.n_lanes(b); ++lane) {
      if (nearest[lane] == 0) continue;
      is_done = static_cast<int64_t>(moves.size()) < kMostMoves;
      if (is_done) moves.emplace_back(keys.ids(b)[lane], among[at(nearest[lane])]);
    }
  }
  double gain = store.list(list).head.split_gain;
  const bool is_stirred = store.list(list).head.n_stirred * kStirredPart >= n;
  if (is_stirred && keys.n_keys() > 1) {
    gain = two_means(store.ops, keys, dim, false).gain * static_cast<double>(n) / static_cast<double>(keys.n_keys());
    store.change_list(list).head.n_stirred = 0;
  }
  for (const auto& [id, to] : moves) store.move(id, to);
  if (store.options.ema == 0.0) centre(store, list);
  set_needs(store, list, gain, cost, with);
  if (!is_done) push_job(store, {list, Job::kRefine, Job::kRefine, 0});
  return dim * (static_cast<int64_t>(keys.n_blocks() * kLavaLanes *
                                     (among.size() + kDecodeCost + (is_stirred ? kMeansCost : 0))) +
                static_cast<int64_t>(moves.size()) * kMoveCost + store.counters().n_lists);
}

// Anchors become the means, radii the largest distances from them. A longer list keeps the ones that it has.
int64_t tighten(Store& store, int32_t i) {
  const int64_t d = store.options.dim, dv = store.options.value_dim, n = store.list(i).head.count;
  if (!is_alive(store, i) || n == 0 || n > kMostTightened) return 0;
  List& list = store.change_list(i);
  for (int64_t j = 0; j < d; ++j) list.key_anchor[j] = static_cast<float>(list.key_sum[j] / list.head.count);
  for (int64_t j = 0; j < dv; ++j) list.value_anchor[j] = static_cast<float>(list.value_sum[j] / list.head.count);
  const ListKeys keys(store, i, 0, 1, kMostTightened / kLavaLanes);
  double key_square = 0.0, value_radius = 0.0;
  Floats value(at(dv));
  for (size_t b = 0; b < keys.n_blocks(); ++b) {
    double squares[kLavaLanes] = {};
    for (int64_t j = 0; j < d; ++j)
      for (int64_t lane = 0; lane < kLavaLanes; ++lane) {
        const double off =
            static_cast<double>(keys.lanes(b)[j * kLavaLanes + lane]) - static_cast<double>(list.key_anchor[j]);
        squares[lane] += off * off;
      }
    for (int64_t lane = 0; lane < keys.n_lanes(b); ++lane) {
      key_square = std::max(key_square, squares[lane]);
      store.value_of(keys.ids(b)[lane], value.data());
      value_radius = std::max(value_radius, distance(value.data(), list.value_anchor, dv));
    }
  }
  list.head.key_radius = std::sqrt(key_square);
  list.head.value_radius = value_radius;
  return n * (d + dv) * kRadiusCost;
}

struct Needs {
  int32_t too_long = -1, split = -1, merge = -1;  // the longest; that gains most; that costs least
};

Needs needs_of(const Store& store) {
  const int64_t limit = longest_list(store.options);
  const std::vector<ListNeeds>& all = store.needs();
  const auto n = store.counters().n_lists;
  Needs found;
  for (int32_t i = 0; i < n; ++i) {
    const ListNeeds& one = all[at(i)];
    if (one.count > limit && one.count >= store.list(i).head.no_split_below &&
        (found.too_long < 0 || one.count > all[at(found.too_long)].count))
      found.too_long = i;
    if (one.count > 1 && one.split_gain > 0.0f && (found.split < 0 || one.split_gain > all[at(found.split)].split_gain))
      found.split = i;
  }
  const int32_t kept = found.too_long >= 0 ? found.too_long : found.split;
  for (int32_t i = 0; i < n; ++i) {
    const ListNeeds& one = all[at(i)];
    if (one.count < 0 || i == kept) continue;
    if (one.count == 0) return {found.too_long, found.split, i};
    if (!(one.merge_cost < (found.merge < 0 ? kInfinity : all[at(found.merge)].merge_cost))) continue;
    if (store.list(i).head.merge_with != kept) found.merge = i;
  }
  return found;
}

// Whether the list that is cheapest to merge can be, and now costs less than `most`; if not, it is looked at again.
bool may_merge(Store& store, int32_t list, double most) {
  const ListHead& head = store.list(list).head;
  if (head.count == 0) return true;
  const int32_t with = head.merge_with;
  if (!is_alive(store, with)) {
    set_needs(store, list, head.split_gain, std::numeric_limits<double>::infinity(), -1);
    push_job(store, {list, Job::kRefine, Job::kRefine, 0});
    return false;
  }
  double cost = merge_cost(store, list, with);
  if (head.count + store.list(with).head.count > longest_list(store.options) * 3 / 4)
    cost = std::numeric_limits<double>::infinity();
  set_needs(store, list, head.split_gain, cost, with);
  return cost < most;
}

int64_t merge_away(Store& store, int32_t list) {
  if (store.list(list).head.count > 0) return merge(store, list, store.list(list).head.merge_with);
  store.drop_list(list);
  ++store.change_counters().n_merges;
  return 0;
}

// The most pressing step; its work, 0 where there is nothing to do but refine.
int64_t structural_step(Store& store) {
  const BankOptions& o = store.options;
  const Counters& c = store.counters();
  const int64_t per_list = std::max(kLavaLanes, o.capacity / o.n_lists / kEarly);
  const int64_t n_wanted = std::clamp<int64_t>(c.n_live / per_list, 1, o.n_lists);
  const int64_t means = kBlocksAtOnce * kLavaLanes * o.dim * (kDecodeCost + kMeansCost) + c.n_lists * o.dim;
  const double infinity = std::numeric_limits<double>::infinity();
  const Needs needs = needs_of(store);
  const auto count = [&](int32_t list) -> int64_t { return store.list(list).head.count; };

  if (needs.merge >= 0 && (count(needs.merge) == 0 ? c.n_alive > 1 : c.n_alive > 2 * n_wanted)) {
    if (!may_merge(store, needs.merge, infinity)) return o.dim;
    return o.dim + merge_away(store, needs.merge);
  }
  const int32_t list = needs.too_long >= 0 ? needs.too_long : needs.split;
  if (list < 0) return 0;
  const bool is_full = c.n_alive == o.n_lists || (needs.too_long < 0 && c.n_alive >= n_wanted);
  if (is_full && needs.merge < 0) return 0;
  const double pays = needs.too_long >= 0 ? infinity : store.list(list).head.split_gain / kWorth;
  if (is_full && !(store.list(needs.merge).head.merge_cost < pays)) return 0;
  if (is_full && !may_merge(store, needs.merge, pays)) return o.dim;
  const Halves halves = halves_of(store, list, needs.too_long >= 0);
  ListHead& head = store.change_list(list).head;
  head.split_gain = halves.gain;
  if (halves.gain == 0.0) {
    head.no_split_below = 2 * head.count;
    return means;
  }
  if (is_full && needs.too_long < 0 && count(needs.merge) > 0 &&
      !(halves.gain > kWorth * store.list(needs.merge).head.merge_cost))
    return means;
  const int64_t merged = is_full ? merge_away(store, needs.merge) : 0;
  cut(store, list, halves);
  return means + merged;
}

int64_t job_step(Store& store) {
  Counters& c = store.change_counters();
  const Job job = c.jobs[c.first_job];
  c.first_job = (c.first_job + 1) % Counters::kMaxJobs;
  --c.n_jobs;
  if (job.a >= 0) return reassign(store, job);
  if (job.a == Job::kRadii) return tighten(store, job.list);
  return is_alive(store, job.list) ? refine(store, job.list) : 0;
}

}  // namespace

int64_t longest_list(const BankOptions& o) {
  return std::max<int64_t>(2 * kLavaLanes, kLimit * ((o.capacity + o.n_lists - 1) / o.n_lists));
}

int64_t longest_step(const BankOptions& o) {
  const int64_t keys = kBlocksAtOnce * kLavaLanes, means = kDecodeCost + kMeansCost;
  const int64_t look = o.dim * (keys * (kAmong + means) + kMostMoves * kMoveCost + o.n_lists);
  const int64_t cut_and_merge = o.dim * (keys * means + o.n_lists + 1) + merge_work(o, longest_list(o) * 3 / 8);
  const int64_t reassign = o.dim * (kMostLooks * kLavaLanes * 4 + kMostMoves * kMoveCost);
  const int64_t radii = kMostTightened * (o.dim + o.value_dim) * kRadiusCost;
  return std::max({look, cut_and_merge, reassign, radii}) + o.dim * kLavaLanes;
}

void maintain(Store& store, int64_t n_rows) {
  Counters& c = store.change_counters();
  c.credit = std::min(c.credit + n_rows * kCreditPerRow, kMostCredit);
  bool may_change = true;  // lists, after more than refinement
  for (int32_t n_refined = 0; c.credit > 0 && c.n_alive > 0 && n_refined < c.n_lists;) {
    const bool has_job = c.n_jobs > 0;
    int64_t work = has_job ? job_step(store) : (may_change ? structural_step(store) : 0);
    may_change = has_job || work > 0;
    if (!may_change) {
      const auto list = static_cast<int32_t>(c.next_refined++ % c.n_lists);
      ++n_refined;
      if (!is_alive(store, list)) continue;
      work = refine(store, list);
    }
    c.credit -= work + store.options.dim * kLavaLanes;
    store.refresh();
  }
}

}  // namespace vx
