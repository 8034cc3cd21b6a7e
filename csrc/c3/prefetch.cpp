// The part of the pager that runs ahead of the sweep: what to read next, and how it finds back when the sweep jumps.
#include <algorithm>

#include "c3/paged_tile.h"
#include "c3/pager.h"

namespace vx {
namespace {

constexpr int kInOrder = 16;          // missing tiles used one after the other that make a sweep
constexpr int kJumpy = 4 * kInOrder;  // a jump weighs kInOrder uses in order: more than four are no sweep
constexpr size_t kRemakeShare = 16;   // listing the missing tiles anew costs each displacement that many steps

}  // namespace

// A sweep acquire has come to this ring tile.
void Pager::note_use(int64_t id) {
  PagedTile& t = tiles_[id];
  if (!prefetches_ || t.rank < 0) return;
  t.trusted = t.trusted || adaptation_ == nullptr || adaptation_.load()->regular(id);
  const Ring::Slot& slot = (*ring_)[t.slot];
  uint64_t now = slot.turn;
  if (slot.wanted) {
    ring_->unwant(t.slot);
  } else {
    const SweepCursor::Place place = cursor_->place(t.rank);
    if (place.where == SweepCursor::Where::far) resync(id, place.turn);
    if (place.where == SweepCursor::Where::ahead) cursor_->mark_served(place.turn);
    now = place.turn;
  }
  // Two workers may come to neighbours in either order.
  if (now > used_turn_) n_in_order_ = now <= used_turn_ + 2 ? n_in_order_ + 1 : 0;
  if (n_in_order_ > 0 && jumpiness_ > 0) --jumpiness_;
  used_turn_ = std::max(used_turn_, now);
  swept_ = swept_ || t.position < last_position_;
  last_position_ = t.position;
  for (int s = 0; s < ring_->size(); ++s)
    if ((*ring_)[s].wanted && cursor_->passed((*ring_)[s].turn, now)) {
      tiles_[(*ring_)[s].tile].trusted = false;
      drop_wanted(s);
    }
  slots_changed();
}

void Pager::drop_wanted(int slot) {
  ring_->unwant(slot);
  const PagedTile& t = tiles_[(*ring_)[slot].tile];
  if (t.status == TileStatus::ready && t.pins == 0) ring_->let_go(slot);
}

// Makes the slot reusable that the sweep wants last, if it wants any that was read. Whoever pins another slot may wait
// for what an acquire without a slot is about to do: workers share the pin of a tile that they share.
void Pager::give_up_read_ahead() {
  int last = -1;
  for (int s = 0; s < ring_->size(); ++s) {
    const Ring::Slot& slot = (*ring_)[s];
    if (!slot.wanted || tiles_[slot.tile].status != TileStatus::ready || tiles_[slot.tile].pins > 0) continue;
    if (last < 0 || slot.turn > (*ring_)[last].turn) last = s;
  }
  if (last >= 0) drop_wanted(last);
}

// The sweep goes on at this tile, far from what was read ahead: prefetch from there.
void Pager::resync(int64_t id, uint64_t turn) {
  // Where nothing is read ahead, the sweep leaves the cursor behind without a jump.
  if (turn <= used_turn_ || turn > used_turn_ + 2) {
    n_in_order_ = 0;
    jumpiness_ = std::min(jumpiness_ + kInOrder, 2 * kJumpy);
  }
  // Tiles that it jumped over will be jumped over again; those it turned back before will not.
  const int64_t position = tiles_[id].position;
  for (int s = 0; s < ring_->size(); ++s)
    if ((*ring_)[s].wanted) {
      PagedTile& ahead = tiles_[(*ring_)[s].tile];
      if (ahead.position < position && ahead.position > last_position_) ahead.trusted = false;
      drop_wanted(s);
    }
  cursor_->jump_behind(turn);
  anchor_turn_ = used_turn_ = turn;
  anchor_position_ = static_cast<uint64_t>(tiles_[id].position);
  if (n_filled_ < n_resident_tiles_) {
    fill_left_ = fill_.size();
    const auto at = std::lower_bound(fill_.begin(), fill_.end(), tiles_[id].position,
                                     [&](int64_t fill, int64_t position) { return tiles_[fill].position < position; });
    fill_next_ = static_cast<size_t>(at - fill_.begin()) % std::max<size_t>(fill_.size(), 1);
  }
  slots_changed();
}

bool Pager::ring_prefetch_possible() const {
  if (!prefetches_ || prefetch_pauses() || cursor_->empty() || ring_->n_wanted() >= max_wanted_) return false;
  if (cursor_->next() > cursor_->horizon(used_turn_)) return false;
  // What follows recency or jumps seldom follows the sweep: most of what is read ahead would not be used.
  if ((follows_recency() || jumpiness_ > kJumpy) && n_in_order_ < kInOrder) return false;
  const PagedTile& next = tiles_[missing_[cursor_->next_rank()]];
  if (next.status == TileStatus::failed) return false;  // until an acquire was told
  return next.slot < 0 || !(*ring_)[next.slot].wanted;
}

// Gives the next missing tile that is not here a slot and returns it, or -1: nothing to do, or no slot.
int64_t Pager::pick_ring_prefetch() {
  if (!urgent_.empty() && !(prefetch_turn_ && n_waiting_for_prefetch_ > 0)) return -1;
  const uint64_t start = cursor_->next();
  int64_t picked = -1;
  while (picked < 0 && ring_prefetch_possible() && cursor_->next() < start + missing_.size()) {
    const uint64_t turn = cursor_->next();
    const int64_t id = missing_[cursor_->next_rank()];
    PagedTile& t = tiles_[id];
    const bool served = cursor_->take_served(turn);
    if (!served && !t.resident && t.trusted && t.status == TileStatus::absent) {
      if (!ring_->has_slot()) break;
      assign_slot(id);
      ring_->want(t.slot, turn);
      prefetch_turn_ = false;
      picked = id;
    } else if (!served && t.slot >= 0) {
      ring_->keep(t.slot);  // still here, from a lookup or the sweep before
      ring_->want(t.slot, turn);
    }
    cursor_->advance();
  }
  if (cursor_->next() != start) slots_changed();
  return picked;
}

// The next tile of the sweep that the plan made resident and that was never read, or -1.
int64_t Pager::next_fill() {
  if (follows_recency()) return -1;
  for (; fill_left_ > 0; --fill_left_, fill_next_ = (fill_next_ + 1) % fill_.size())
    if (const PagedTile& t = tiles_[fill_[fill_next_]]; t.resident && t.status == TileStatus::absent)
      return fill_[fill_next_];
  return -1;
}

bool Pager::fill_comes_first(int64_t fill_tile) const {
  if (cursor_->empty() || cursor_->next() >= anchor_turn_ + missing_.size()) return true;
  const auto distance = [&](int64_t id) {
    return (static_cast<uint64_t>(tiles_[id].position) + sweep_.size() - anchor_position_) % sweep_.size();
  };
  return distance(fill_tile) < distance(missing_[cursor_->next_rank()]);
}

// Where residents changed, missing_ is made anew after a sweep, or sooner when they are many.
bool Pager::displacements_matter() const {
  return n_displaced_ > 0 && (swept_ || n_displaced_ * kRemakeShare >= missing_.size());
}

void Pager::follow_displacements() {
  if (!displacements_matter()) return;
  n_displaced_ = 0;
  swept_ = false;
  for (int s = 0; s < ring_->size(); ++s)
    if ((*ring_)[s].wanted) drop_wanted(s);
  list_missing();
  cursor_ = std::make_unique<SweepCursor>(static_cast<int64_t>(missing_.size()), std::max(max_wanted_, 0));
  const auto next = std::upper_bound(missing_.begin(), missing_.end(), last_position_,
                                     [&](int64_t position, int64_t id) { return position < tiles_[id].position; });
  cursor_->jump_behind(missing_.size() + static_cast<uint64_t>(next - missing_.begin()) - 1);
  anchor_turn_ = used_turn_ = cursor_->next() - 1;
  slots_changed();
}

void Pager::list_missing() {
  missing_.clear();
  for (int64_t id : sweep_) {
    PagedTile& t = tiles_[id];
    t.rank = t.resident ? -1 : static_cast<int64_t>(missing_.size());
    if (!t.resident) missing_.push_back(id);
  }
}

int64_t Pager::pick_prefetch() {
  if (prefetch_pauses()) return -1;
  follow_displacements();
  const int64_t fill_tile = next_fill();
  int64_t picked = -1;
  if (fill_tile < 0 || !fill_comes_first(fill_tile)) picked = pick_ring_prefetch();
  if (picked < 0) picked = fill_tile;
  if (picked >= 0) begin_loading(picked, true);
  return picked;
}

// False only where pick_prefetch would find nothing: a thread that wakes in vain takes a core from the kernels.
bool Pager::prefetch_may_find_work() const {
  if (prefetch_pauses()) return false;
  if (displacements_matter()) return true;
  if (fill_left_ > 0 && !follows_recency()) return true;
  if (!urgent_.empty() && !(prefetch_turn_ && n_waiting_for_prefetch_ > 0)) return false;
  return ring_prefetch_possible() && ring_->has_slot();
}

// One thread at a time: it wakes the next one when it leaves work behind.
void Pager::wake_prefetch() {
  if (io_wake_under_way_ || n_idle_io_threads_ == 0 || !prefetch_may_find_work()) return;
  io_wake_under_way_ = true;
  io_work_.notify_one();
}

void Pager::prefetch_loop() {
  std::unique_lock lock(mutex_);
  while (!closed_) {
    const int64_t id = pick_prefetch();
    if (id < 0) {
      ++n_idle_io_threads_;
      io_work_.wait(lock);
      --n_idle_io_threads_;
      io_wake_under_way_ = false;
      continue;
    }
    wake_prefetch();
    lock.unlock();
    std::exception_ptr error = load(id);
    lock.lock();
    finish_loading(id, std::move(error));
  }
}

}  // namespace vx
