// Who among the residents should make room for a tile that leaves the ring. Knows how tiles are used, nothing of
// memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <random>
#include <utility>
#include <vector>

#include "c3/recent_ghost.h"

namespace vx {

// Time is a clock of accessed bytes. Two rules compete in simulations on a sample of the tiles, and the residents
// follow the one that would miss fewer bytes:
//   steady  a tile is expected again after max(mean interval, age). It displaces the resident expected latest (of a
//           random few) only when it is expected much sooner. A cyclic scan, where every tile is expected after one
//           sweep, displaces nobody; a tile that was never seen before does not either.
//   recent  it displaces the resident used least recently: LRU. But none of those that come back at a steady interval
//           and are not overdue: so a scan that is a little too long does not push out what it needs next.
// Where prefixes are kept, LRU over whole tiles is simulated too: it shows when access is so skewed that prefixes of
// tiles that are seldom used cost more than they save.
// A sample stands for all, after "Efficient MRC Construction with SHARDS" (Waldspurger et al., FAST 2015).
//
// Thread rules: used() from any thread; victim() and swapped() from one thread at a time.
class Adaptation {
 public:
  // bytes: by tile id, what a tile takes as a resident, without a kept prefix. resident: who is now. sweep_bytes: of
  // one declared sweep. stored_bytes: by tile id, with its prefix. budget_bytes: for whole tiles, 0 where no prefix is
  // kept.
  Adaptation(std::vector<uint64_t> bytes, const std::vector<bool>& resident, uint64_t sweep_bytes,
             std::vector<uint64_t> stored_bytes, uint64_t budget_bytes);

  void used(int64_t tile);
  // The resident to displace for a tile that would be evicted otherwise, or -1. fits: whether that one could be
  // displaced now.
  int64_t victim(int64_t tile, const std::function<bool(int64_t)>& fits);
  void swapped(int64_t victim, int64_t tile);
  // The tile's last interval was close to the one before.
  bool regular(int64_t tile) const { return uses_[static_cast<size_t>(tile)].regular.load(std::memory_order_relaxed); }
  // Kept prefixes have cost more than to read the budget anew without them.
  bool prefixes_lose() const { return prefixes_lose_.load(std::memory_order_relaxed); }
  bool follows_recency() const { return recent_.load(std::memory_order_relaxed); }

 private:
  struct Use {
    std::atomic<uint64_t> last{0}, last_interval{0}, interval{0};  // on the clock, the third a mean; 0: none yet
    std::atomic<uint64_t> period{0};  // an interval that came three times running, until two do not fit it
    std::atomic<uint32_t> alike{0};   // intervals running that were like the one before them
    std::atomic<bool> regular{false};
  };
  uint64_t expected(int64_t tile, uint64_t now) const;
  bool much_sooner(int64_t tile, int64_t resident, uint64_t now) const;
  bool due(int64_t resident, uint64_t now) const;
  void sample(int64_t tile, bool seen_before, uint64_t now);
  int64_t steady_victim(int64_t tile, const std::function<bool(int64_t)>& fits);
  int64_t recent_victim(int64_t tile, const std::function<bool(int64_t)>& fits);

  const std::vector<uint64_t> bytes_, stored_bytes_;
  const uint64_t sweep_bytes_;
  std::unique_ptr<Use[]> uses_;
  std::atomic<uint64_t> clock_{0};
  std::atomic<bool> recent_{false}, prefixes_lose_{false};

  std::vector<int64_t> residents_;
  std::vector<int64_t> place_;                                           // of a tile in residents_, or -1
  using Aged = std::pair<uint64_t, int64_t>;                             // last use when it was queued, tile
  std::priority_queue<Aged, std::vector<Aged>, std::greater<>> by_age_;  // an entry may be out of date
  std::mt19937 random_;

  std::mutex sample_mutex_;
  uint64_t sample_stride_ = 1;
  double decay_per_byte_ = 0;
  // What each rule would hold of the sample, and the bytes it missed, of which older ones count less.
  std::vector<int64_t> steady_, steady_place_;  // the latter in the former, or -1
  uint64_t steady_bytes_ = 0;
  std::unique_ptr<RecentGhost> recent_ghost_, whole_ghost_;  // the second where prefixes are kept
  double steady_missed_ = 0, recent_missed_ = 0;
  double prefix_loss_ = 0;  // bytes missed with kept prefixes beyond those of whole tiles
  std::mt19937 sample_random_;
};

}  // namespace vx
