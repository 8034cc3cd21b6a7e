// The part of the pager that carries out a plan: which tile has which memory, at the start and when the plan changes.
#include <algorithm>
#include <utility>

#include "c3/paged_tile.h"
#include "c3/pager.h"

namespace vx {

// Nothing is pinned, being read or unlocked. Failures stay; all else is absent then.
void Pager::plan_residency(bool keeps_prefixes) {
  const ResidencyPlan plan =
      policy_->plan({budget_bytes_, stored_bytes_, prefix_bytes_, sweep_, drafted_, prefetch_depth_, keeps_prefixes});

  slot_bytes_ = plan.slot_bytes;
  if (arena_.bytes() == 0)
    arena_ = Arena(plan.n_slots > 0 ? budget_bytes_ : plan.resident_bytes);  // any other plan finds room in it
  else
    arena_.empty();
  ring_ = std::make_unique<Ring>(plan.n_slots);
  held_bytes_ = resident_bytes_ = 0;
  n_resident_tiles_ = n_kept_prefixes_ = n_filled_ = 0;
  uint8_t* next = arena_.data() + static_cast<uint64_t>(plan.n_slots) * slot_bytes_;
  std::vector<uint64_t> passing(stored_bytes_.size());
  for (size_t handle = 0; handle < matrices_.size(); ++handle)
    for (size_t i = 0; i < matrices_[handle].tiles.size(); ++i) {
      const size_t id = static_cast<size_t>(matrices_[handle].first_tile) + i;
      PagedTile& tile = tiles_[id];
      if (tile.status != TileStatus::failed) tile.status = TileStatus::absent;
      tile.prefix_loaded = tile.prefix_charged = tile.prefetched = false;
      tile.slot = -1;
      tile.frame = {};
      tile.matrix = static_cast<int>(handle);
      tile.resident = plan.resident[id];
      tile.prefix_kept = plan.prefix_kept[id];
      passing[id] = passing_bytes(static_cast<int64_t>(id));
      if (tile.prefix_kept) tile.prefix = std::exchange(next, next + prefix_bytes_[id]);
      if (tile.resident) {
        tile.frame = {next, passing[id], false};
        place(static_cast<int64_t>(id), std::exchange(next, next + passing[id]));
      }
      n_resident_tiles_ += tile.resident;
      n_kept_prefixes_ += tile.prefix_kept;
    }
  fill_.clear();
  uint64_t sweep_bytes = 0;
  for (size_t i = 0; i < sweep_.size(); ++i) {
    tiles_[sweep_[i]].position = static_cast<int64_t>(i);
    sweep_bytes += passing[sweep_[i]];
    if (tiles_[sweep_[i]].resident) fill_.push_back(sweep_[i]);
  }
  list_missing();
  if (plan.adapts && plan.n_slots > 0 && n_resident_tiles_ > 0) {
    const uint64_t whole_budget = n_kept_prefixes_ > 0 ? budget_bytes_ : 0;
    adaptations_.push_back(
        std::make_unique<Adaptation>(std::move(passing), plan.resident, sweep_bytes, stored_bytes_, whole_budget));
    adaptation_.store(adaptations_.back().get(), std::memory_order_release);
  }
  prefetches_ = plan.prefetch && prefetch_depth_ > 0;
  max_wanted_ = std::min(prefetch_depth_, plan.n_slots - 1);
  cursor_ = std::make_unique<SweepCursor>(static_cast<int64_t>(missing_.size()), std::max(max_wanted_, 0));
  anchor_turn_ = used_turn_ = cursor_->next();
  anchor_position_ = 0;
  n_in_order_ = 0;
  n_displaced_ = 0;
  swept_ = false;
  fill_next_ = 0;
  fill_left_ = fill_.size();
}

// True when every tile is locked and nobody has a pin or reads: nothing changes then until the mutex is released.
bool Pager::lock_unused_tiles() {
  if (n_loading_ > 0 || prefix_pins_ > 0) return false;
  const size_t n = stored_bytes_.size();
  std::vector<FastPath> was(n);
  for (size_t id = 0; id < n; ++id) {
    was[id] = tiles_[id].fast.exchange(FastPath::locked);
    if (tiles_[id].pins == 0) continue;
    for (size_t locked = 0; locked <= id; ++locked) tiles_[locked].fast.store(was[locked]);
    return false;
  }
  return true;
}

// Where kept prefixes lose, whole tiles share the budget from now on. All that was read is read anew, in any moment in
// which nothing is in use; prefetching pauses for a while, so that there is one.
void Pager::yield_prefixes() {
  if (n_kept_prefixes_ == 0 || closed_ || adaptation_ == nullptr || !adaptation_.load()->prefixes_lose()) return;
  if (++n_yield_tries_ == 1 || n_yield_tries_ == kPausedTries + 1) slots_changed();
  // To look costs a walk over all tiles.
  if (n_yield_tries_ > kPausedTries && n_yield_tries_ % kPausedTries != 0) return;
  if (!lock_unused_tiles()) return;
  n_yield_tries_ = 0;
  plan_residency(false);
  slots_changed();
}

}  // namespace vx
