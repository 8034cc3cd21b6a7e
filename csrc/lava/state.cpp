#include "lava/state.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "common/errors.h"

namespace vx {
namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

[[noreturn]] void fail(const std::string& rule, const std::string& value) {
  throw ArgumentError("[lava_bank] a saved bank's " + rule + ", got " + value);
}

template <class T>
void check_length(const char* name, const std::vector<T>& values, int64_t wanted) {
  if (static_cast<int64_t>(values.size()) != wanted)
    fail(std::string(name) + " must have " + std::to_string(wanted) + " elements", std::to_string(values.size()));
}

template <class T>
void check_finite(const char* name, const std::vector<T>& values, T least, T largest) {
  for (const T x : values)
    if (!(x >= least && x <= largest)) fail(std::string(name) + " must be finite and in range", std::to_string(x));
}

void check_halfs(const char* name, const std::vector<uint16_t>& units) {
  for (const uint16_t unit : units)
    if ((unit & 0x7c00) == 0x7c00) fail(std::string(name) + " must be finite", "the half " + std::to_string(unit));
}

// Slots of each list in their order.
std::vector<std::vector<int32_t>> check_places(const BankState& s, int64_t n_lists) {
  const auto n = static_cast<int64_t>(s.lists.size());
  std::vector<std::vector<int32_t>> members(at(n_lists));
  for (int64_t i = 0; i < n; ++i) {
    const int32_t list = s.lists[at(i)];
    if (list < -1 || list >= n_lists || (list >= 0 && s.is_alive[at(list)] == 0))
      fail("slots must be in lists that exist", "list " + std::to_string(list));
    if (list >= 0) members[at(list)].push_back(-1);
  }
  std::vector<bool> is_free(at(n), true);
  for (int64_t i = 0; i < n; ++i) {
    if (s.lists[at(i)] < 0) continue;
    is_free[at(i)] = false;
    auto& places = members[at(s.lists[at(i)])];
    const int32_t place = s.places[at(i)];
    if (place < 0 || at(place) >= places.size() || places[at(place)] >= 0)
      fail("places must number the slots of each list", std::to_string(place));
    places[at(place)] = static_cast<int32_t>(i);
  }
  check_length("free_slots", s.free_slots, std::count(is_free.begin(), is_free.end(), true));
  for (const int32_t id : s.free_slots) {
    if (id < 0 || id >= n || !is_free[at(id)]) fail("free_slots must be the free slots, each once", std::to_string(id));
    is_free[at(id)] = false;
  }
  return members;
}

void check(const BankOptions& o, const Store& store, const BankState& s) {
  const auto n = static_cast<int64_t>(s.lists.size()), lists = static_cast<int64_t>(s.is_alive.size());
  if (n > o.capacity) fail("slots must fit its capacity " + std::to_string(o.capacity), std::to_string(n));
  if (lists > o.n_lists) fail("lists must be at most nlist " + std::to_string(o.n_lists), std::to_string(lists));
  check_length("places", s.places, n);
  check_length("positions", s.positions, n);
  check_length("importance", s.importance, n);
  check_length("key_scales", s.key_scales, n);
  check_length("value_scales", s.value_scales, n);
  check_length("keys", s.keys, n * store.key_units);
  check_length("values", s.values, n * store.value_units);
  check_length("no_split_below", s.no_split_below, lists);
  check_length("split_gains", s.split_gains, lists);
  check_length("merge_costs", s.merge_costs, lists);
  check_length("merge_with", s.merge_with, lists);
  check_length("n_stirred", s.n_stirred, lists);
  check_length("centroids", s.centroids, lists * o.dim);
  check_length("key_anchors", s.key_anchors, lists * o.dim);
  check_length("value_anchors", s.value_anchors, lists * o.value_dim);
  check_length("key_sums", s.key_sums, lists * o.dim);
  check_length("value_sums", s.value_sums, lists * o.value_dim);
  check_length("key_radii", s.key_radii, lists);
  check_length("value_radii", s.value_radii, lists);
  check_length("history", s.history, 5);
  check_finite<int64_t>("positions", s.positions, 0, int64_t{1} << 52);
  check_finite<int64_t>("history", s.history, -(int64_t{1} << 52), int64_t{1} << 52);
  if (s.history[3] < 0) fail("next list to refine must not be negative", std::to_string(s.history[3]));
  check_finite("importance", s.importance, -kLavaLargest, kLavaLargest);
  check_finite("key_scales", s.key_scales, 0.0f, kLavaLargest);
  check_finite("value_scales", s.value_scales, 0.0f, kLavaLargest);
  for (const auto& [name, values] :
       {std::pair{"centroids", &s.centroids}, {"key_anchors", &s.key_anchors}, {"value_anchors", &s.value_anchors}})
    check_finite(name, *values, -2 * kLavaLargest, 2 * kLavaLargest);
  for (const auto& [name, values] : {std::pair{"key_sums", &s.key_sums}, {"value_sums", &s.value_sums}})
    check_finite(name, *values, -1e15, 1e15);
  for (const auto& [name, values] : {std::pair{"key_radii", &s.key_radii}, {"value_radii", &s.value_radii}})
    check_finite(name, *values, 0.0, 1e15);
  check_finite("split_gains", s.split_gains, 0.0, 1e15);
  check_finite("merge_costs", s.merge_costs, 0.0, std::numeric_limits<double>::infinity());
  check_finite<int32_t>("n_stirred", s.n_stirred, 0, 1 << 30);
  check_finite<int32_t>("merge_with", s.merge_with, -1, static_cast<int32_t>(lists) - 1);
  for (int64_t i = 0; i < lists; ++i)
    if (s.merge_with[at(i)] == i || (s.merge_with[at(i)] < 0 && std::isfinite(s.merge_costs[at(i)])))
      fail("lists must be merged with others",
           "list " + std::to_string(i) + " with " + std::to_string(s.merge_with[at(i)]));
  if (o.contents == Contents::fp16) {
    check_halfs("keys", s.keys);
    check_halfs("values", s.values);
  }
  const auto n_jobs = static_cast<int64_t>(s.jobs.size() / 4);
  check_length("jobs", s.jobs, 4 * std::min<int64_t>(n_jobs, Counters::kMaxJobs));
  for (int64_t i = 0; i < n_jobs; ++i) {
    const int32_t *job = &s.jobs[at(4 * i)], last = static_cast<int32_t>(lists) - 1;
    const bool is_pair = job[1] >= 0 && job[1] <= last && job[2] >= 0 && job[2] <= last;
    if (job[0] < 0 || job[0] > last || job[3] < 0 ||
        !(is_pair || (job[1] == job[2] && (job[1] == Job::kRadii || job[1] == Job::kRefine))))
      fail("jobs must name lists that exist", std::to_string(job[0]));
  }
}

}  // namespace

BankState bank_state(const LavaBank& bank) {
  const std::shared_lock lock(bank.mutex());
  const Store& store = bank.store();
  const BankOptions& o = store.options;
  const Counters& c = store.counters();
  BankState s;
  s.keys.resize(at(c.n_slots * store.key_units));
  s.values.resize(at(c.n_slots * store.value_units));
  s.key_scales.resize(at(c.n_slots));
  s.places.assign(at(c.n_slots), -1);
  for (int64_t id = 0; id < c.n_slots; ++id) {
    const Slot& slot = store.slot(id);
    const bool is_live = slot.list >= 0;
    s.lists.push_back(slot.list);
    s.positions.push_back(is_live ? slot.position : 0);
    s.importance.push_back(is_live ? slot.importance : 0.0f);
    s.value_scales.push_back(is_live ? slot.value_scale : 0.0f);
    if (!is_live) continue;
    s.key_scales[at(id)] = store.key_scale_of(id);
    store.key_units_of(id, &s.keys[at(id * store.key_units)]);
    std::copy_n(store.value_row(id), store.value_units, &s.values[at(id * store.value_units)]);
  }
  for (int32_t i = 0; i < c.n_lists; ++i) {
    const List& list = store.list(i);
    s.is_alive.push_back(list.head.is_alive);
    s.no_split_below.push_back(list.head.no_split_below);
    s.split_gains.push_back(list.head.split_gain);
    s.merge_costs.push_back(list.head.merge_cost);
    s.merge_with.push_back(list.head.merge_with);
    s.n_stirred.push_back(list.head.n_stirred);
    s.key_radii.push_back(list.head.key_radius);
    s.value_radii.push_back(list.head.value_radius);
    s.centroids.insert(s.centroids.end(), list.centroid, list.centroid + o.dim);
    s.key_anchors.insert(s.key_anchors.end(), list.key_anchor, list.key_anchor + o.dim);
    s.value_anchors.insert(s.value_anchors.end(), list.value_anchor, list.value_anchor + o.value_dim);
    s.key_sums.insert(s.key_sums.end(), list.key_sum, list.key_sum + o.dim);
    s.value_sums.insert(s.value_sums.end(), list.value_sum, list.value_sum + o.value_dim);
    int32_t place = 0;
    for (int32_t b = list.head.first; b >= 0; b = store.block(b).next)
      for (int64_t lane = 0; lane < kLavaLanes && place < list.head.count; ++lane)
        s.places[at(store.block(b).ids[lane])] = place++;
  }
  for (int32_t id = c.free_slot; id >= 0; id = store.slot(id).heap_at) s.free_slots.push_back(id);
  for (int32_t i = 0; i < c.n_jobs; ++i) {
    const Job& job = c.jobs[(c.first_job + i) % Counters::kMaxJobs];
    s.jobs.insert(s.jobs.end(), {job.list, job.a, job.b, job.left});
  }
  s.key_basis = bank.keys().rows();
  s.value_basis = bank.values().rows();
  s.history = {c.n_splits, c.n_merges, c.n_moves, c.next_refined, c.credit};
  return s;
}

std::unique_ptr<LavaBank> make_bank(const BankOptions& options, Simd level, const BankState& s) {
  auto bank = std::make_unique<LavaBank>(options, level, s.key_basis, s.value_basis);
  Store& store = bank->store();
  check(store.options, store, s);
  const auto n_lists = static_cast<int64_t>(s.is_alive.size());
  const auto members = check_places(s, n_lists);
  store.restore(s, members);
  return bank;
}

}  // namespace vx
