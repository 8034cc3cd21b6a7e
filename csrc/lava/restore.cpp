#include <algorithm>

#include "lava/state.h"

namespace vx {

// Slots are put where they were, then what the lists knew of them replaces what putting them there made of it.
void Store::restore(const BankState& s, const std::vector<std::vector<int32_t>>& members) {
  const int64_t d = options.dim, dv = options.value_dim;
  const auto n_lists = static_cast<int32_t>(members.size());
  for (int32_t i = 0; i < n_lists; ++i) add_list(&s.centroids[static_cast<size_t>(i * d)]);
  for (size_t id = 0; id < s.lists.size(); ++id) {
    const int32_t taken = take_slot();
    Slot& slot = change_slot(taken);
    slot.position = s.positions[id];
    slot.importance = s.importance[id];
    slot.priority = static_cast<double>(slot.importance) + static_cast<double>(slot.position) / options.half_life;
    enter_order(taken);
    set_value(taken, s.values.data() + static_cast<int64_t>(id) * value_units, s.value_scales[id]);
  }
  std::for_each(s.free_slots.rbegin(), s.free_slots.rend(), [this](int32_t id) { release_slot(id); });
  std::vector<float> key(static_cast<size_t>(d)), value(static_cast<size_t>(dv));
  for (int32_t i = 0; i < n_lists; ++i) {
    const auto of = static_cast<size_t>(i);
    for (const int32_t id : members[of]) {
      const uint16_t* units = s.keys.data() + id * key_units;
      const float scale = s.key_scales[static_cast<size_t>(id)];
      decode_key(units, scale, key.data());
      value_of(id, value.data());
      put(i, id, units, scale, key.data(), value.data());
    }
    List& list = change_list(i);
    list.head.no_split_below = s.no_split_below[of];
    list.head.split_gain = s.split_gains[of];
    list.head.merge_cost = s.merge_costs[of];
    list.head.merge_with = s.merge_with[of];
    list.head.n_stirred = s.n_stirred[of];
    list.head.key_radius = s.key_radii[of];
    list.head.value_radius = s.value_radii[of];
    std::copy_n(s.key_anchors.begin() + i * d, d, list.key_anchor);
    std::copy_n(s.value_anchors.begin() + i * dv, dv, list.value_anchor);
    std::copy_n(s.key_sums.begin() + i * d, d, list.key_sum);
    std::copy_n(s.value_sums.begin() + i * dv, dv, list.value_sum);
    if (s.is_alive[of] == 0) drop_list(i);
  }
  Counters& c = change_counters();
  for (size_t i = 0; i < s.jobs.size() / 4; ++i)
    c.jobs[c.n_jobs++] = {s.jobs[4 * i], s.jobs[4 * i + 1], s.jobs[4 * i + 2], s.jobs[4 * i + 3]};
  c.n_splits = s.history[0];
  c.n_merges = s.history[1];
  c.n_moves = s.history[2];
  c.next_refined = s.history[3];
  c.credit = s.history[4];
  refresh();
}

}  // namespace vx
