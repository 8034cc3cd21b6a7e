// The part of the pager in which a tile that leaves the ring takes the place of a resident one.
#include <cstring>
#include <utility>

#include "c3/paged_tile.h"
#include "c3/pager.h"

namespace vx {

// Gives back a pin that an acquire took before it saw that the tile was locked. Who looked at the pins in between took
// it for somebody's, and left what the last pin has to do.
void Pager::undo_fast_pin(PagedTile* t) {
  std::lock_guard lock(mutex_);
  if (--t->pins == 0 && t->slot >= 0 && t->status == TileStatus::ready && !(*ring_)[t->slot].wanted) {
    ring_->let_go(t->slot);
    slots_changed();
  }
}

bool Pager::can_make_room(int64_t id, int64_t victim) const {
  const PagedTile& t = tiles_[victim];
  const bool settled = t.status == TileStatus::ready || t.status == TileStatus::absent;
  return settled && t.pins == 0 && t.frame.bytes >= passing_bytes(id);
}

bool Pager::follows_recency() const { return adaptation_ != nullptr && adaptation_.load()->follows_recency(); }

// The tile of a reusable slot becomes resident in the frame of another, where the evidence is clear. Its slot is free
// then. Not sooner than it would be evicted: so the slots hold what was used last, and all memory serves recency.
bool Pager::take_over_a_frame(int64_t id) {
  if (adaptation_ == nullptr || closed_ || tiles_[id].prefetched) return false;  // read ahead in vain is no evidence
  const int64_t victim = adaptation_.load()->victim(id, [&](int64_t one) { return can_make_room(id, one); });
  if (victim < 0) return false;
  PagedTile &t = tiles_[id], &old = tiles_[victim];
  const FastPath was = old.fast.exchange(FastPath::locked);
  if (old.pins != 0) {  // an acquire of it was faster
    old.fast.store(was);
    return false;
  }
  const uint64_t bytes = passing_bytes(id);
  if (old.status == TileStatus::ready) {
    resident_bytes_ -= passing_bytes(victim);
    ++evictions_;
  } else {
    ++n_filled_;
  }
  old.status = TileStatus::absent;
  old.resident = old.prefetched = false;
  t.frame = std::exchange(old.frame, Frame{});
  if (!std::exchange(t.frame.charged, true)) charge(t.frame.bytes);
  std::memcpy(t.frame.memory, arena_.data() + static_cast<uint64_t>(t.slot) * slot_bytes_, bytes);
  place(id, t.frame.memory);
  ring_->clear(std::exchange(t.slot, -1));
  t.resident = true;
  resident_bytes_ += bytes;
  t.fast.store(FastPath::ready);
  adaptation_.load()->swapped(victim, id);
  ++n_displaced_;
  return true;
}

}  // namespace vx
