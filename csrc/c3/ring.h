// The slots that non-resident tiles pass through. Knows which slot may be replaced next, nothing of threads or files;
// the pager calls it under its lock.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

namespace vx {

// A slot is free (holds nothing), busy (its tile is being read, is pinned, or is wanted) or reusable (holds a tile that
// nobody needs now, oldest use first). It is wanted from the prefetch of its tile until the sweep acquires it.
class Ring {
 public:
  struct Slot {
    int64_t tile = -1;
    uint64_t turn = 0;  // of the sweep that wants it, see SweepCursor
    bool wanted = false;
    bool touched = false;  // its memory was written once: counts as held from then on
    std::list<int>* list = nullptr;
    std::list<int>::iterator node;
  };

  explicit Ring(int n_slots) : slots_(static_cast<size_t>(n_slots)) {
    for (int i = 0; i < n_slots; ++i) {
      at(i).node = free_.insert(free_.end(), i);
      at(i).list = &free_;
    }
  }

  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  int size() const { return static_cast<int>(slots_.size()); }
  int n_wanted() const { return n_wanted_; }
  bool has_slot() const { return !free_.empty() || !reusable_.empty(); }
  const Slot& operator[](int slot) const { return slots_[static_cast<size_t>(slot)]; }

  // The tile that the next take() evicts, or -1.
  int64_t leaver() const {
    return free_.empty() && !reusable_.empty() ? slots_[static_cast<size_t>(reusable_.front())].tile : -1;
  }
  // Makes a slot busy with the tile; needs has_slot(). *evicted is the tile that was in it, or -1.
  int take(int64_t tile, int64_t* evicted) {
    const int slot = (free_.empty() ? reusable_ : free_).front();
    keep(slot);
    *evicted = at(slot).tile;
    at(slot).tile = tile;
    return slot;
  }
  // True the first time.
  bool touch(int slot) {
    const bool first = !at(slot).touched;
    at(slot).touched = true;
    return first;
  }
  void keep(int slot) { move(slot, &busy_); }
  void let_go(int slot) { move(slot, &reusable_); }
  void clear(int slot) {
    unwant(slot);
    at(slot).tile = -1;
    move(slot, &free_);
  }
  void want(int slot, uint64_t turn) {
    n_wanted_ += !at(slot).wanted;
    at(slot).wanted = true;
    at(slot).turn = turn;
  }
  void unwant(int slot) {
    n_wanted_ -= at(slot).wanted;
    at(slot).wanted = false;
  }

 private:
  Slot& at(int slot) { return slots_[static_cast<size_t>(slot)]; }
  void move(int slot, std::list<int>* to) {
    to->splice(to->end(), *at(slot).list, at(slot).node);
    at(slot).list = to;
  }

  std::vector<Slot> slots_;
  std::list<int> free_, reusable_, busy_;
  int n_wanted_ = 0;
};

}  // namespace vx
