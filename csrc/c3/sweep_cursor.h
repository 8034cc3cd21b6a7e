// Where the prefetcher stands in the endless sequence of missing tiles: the non-resident tiles of the sweep, over and
// over. The turn of a tile is its place in that sequence, so one tile has turns rank, rank + n, rank + 2n ...
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>

namespace vx {

class SweepCursor {
 public:
  // n_missing: tiles a sweep misses. ahead: most tiles that are prefetched before they are used.
  SweepCursor(int64_t n_missing, int ahead)
      : n_(static_cast<uint64_t>(n_missing)),
        reorder_(std::clamp<uint64_t>(n_ / 4, 1, kReorder)),
        reach_(kReorder + static_cast<uint64_t>(ahead)),
        behind_(std::min(n_ / 2, reorder_ + static_cast<uint64_t>(ahead))),
        next_(n_) {}

  bool empty() const { return n_ == 0; }
  uint64_t next() const { return next_; }  // turn to prefetch next
  int64_t next_rank() const { return static_cast<int64_t>(next_ % n_); }
  void advance() { ++next_; }
  // The last turn worth looking at when the sweep has come to `now`: tiles may be passed over on the way.
  uint64_t horizon(uint64_t now) const { return now + reach_; }

  // ahead: the prefetcher is about to come there. behind: it was there, a worker is late or the tile was dropped. far:
  // the sweep went on somewhere else.
  enum class Where { ahead, behind, far };
  struct Place {
    Where where;
    uint64_t turn;
  };
  Place place(int64_t rank) const {
    const uint64_t ahead = (static_cast<uint64_t>(rank) + n_ - next_ % n_) % n_;
    if (ahead <= reorder_) return {Where::ahead, next_ + ahead};
    if (n_ - ahead <= behind_) return {Where::behind, next_ + ahead - n_};
    return {Where::far, next_ + ahead};
  }
  void jump_behind(uint64_t turn) {
    next_ = turn + 1;
    served_.clear();
  }

  // A turn whose use did not wait for the prefetcher, which then must skip it.
  void mark_served(uint64_t turn) { served_.insert(turn); }
  bool take_served(uint64_t turn) { return served_.erase(turn) > 0; }

  // A tile wanted for `turn` was passed over when the sweep has come to `now`.
  bool passed(uint64_t turn, uint64_t now) const { return turn + reorder_ < now; }

 private:
  // Workers take tiles in sweep order but arrive out of order by as many as there are workers.
  static constexpr uint64_t kReorder = 16;

  uint64_t n_, reorder_, reach_, behind_, next_;
  std::set<uint64_t> served_;
};

}  // namespace vx
