// The one owner of where weights live: tiles come from shard files into a hard byte budget of RAM and are lent out
// under counted pins.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "c3/adaptation.h"
#include "c3/arena.h"
#include "c3/policy.h"
#include "c3/ring.h"
#include "c3/shard_file.h"
#include "c3/sweep_cursor.h"
#include "c3/tile.h"

namespace vx {

// sweep: a step of the declared sweep; each missing tile is acquired once a sweep. lookup: a read at random (embedding
// rows) that leaves the sweep where it is.
enum class Access { sweep, lookup };

struct Matrix {
  std::string name;
  int file;
  int64_t rows, cols;
  std::vector<TileEntry> tiles;
  int64_t first_tile;  // id of tiles[0]; ids count through all matrices
};

// Every acquire that returned is exactly one of hits, prefetch_hits and page_faults.
struct Counters {
  uint64_t page_faults;            // acquire read the tile itself
  uint64_t prefetch_hits;          // first to use what a prefetch read, finished or in flight
  uint64_t hits;                   // the tile was here, or another acquire was reading it
  uint64_t bytes_compressed_read;  // read from disk, padding to 4096 included; verify() not counted
  uint64_t evictions;              // tiles replaced by another
  double stall_s;                  // time acquires waited for reads and slots, summed over threads
  uint64_t resident_bytes;         // of resident tiles and kept prefixes that were read
  uint64_t held_bytes;             // memory filled: resident tiles, kept prefixes and whole slots
  uint64_t peak_bytes;             // largest held_bytes
  uint64_t budget_bytes, total_bytes;
  int64_t n_tiles, n_resident_tiles;  // all; those the plan keeps once they are read
  int64_t n_kept_prefixes;            // tiles whose prefix it keeps, resident or not; 0 once these lost
  bool follows_recency;               // residents are displaced as LRU would, see Adaptation
  IoMode io_mode;                     // buffered when any file is
};

class Pager;
struct PagedTile;

// Keeps a tile where it is until destroyed. Not thread-safe itself; may be released on another thread.
class PinnedTile {
 public:
  PinnedTile(PinnedTile&& other) noexcept
      : pager_(std::exchange(other.pager_, nullptr)), tile_(other.tile_), view_(other.view_) {}
  PinnedTile& operator=(PinnedTile&& other) noexcept {
    std::swap(pager_, other.pager_);
    std::swap(tile_, other.tile_);
    std::swap(view_, other.view_);
    return *this;
  }
  ~PinnedTile();

  const TileView& view() const { return view_; }  // both ranges start at multiples of kAlignment

 private:
  friend class Pager;
  // tile: null for a pin of a kept prefix alone.
  PinnedTile(Pager* pager, PagedTile* tile, const TileView& view) : pager_(pager), tile_(tile), view_(view) {}

  Pager* pager_;
  PagedTile* tile_;
  TileView view_;
};

// States of a tile, all changed under Pager::mutex_. A tile is resident (it has a frame) or passes through a slot of
// the ring. Where the plan keeps its prefix, the first read puts that into memory of its own, where it stays; frame,
// slot, later reads and the states below are then about the residual. Where kept prefixes lose, see Adaptation, all
// tiles that are 3 become 1 at once, and the budget is planned anew without them: never while anything is 2 or 4.
//   1 absent   no bytes here
//   2 loading  one thread reads it, without the lock; pins may already be counted for those who wait
//   3 ready    bytes are checked and do not change; pins == 0
//   4 pinned   as ready with pins > 0
//   5 failed   the read failed; its error waits for an acquire; no slot
// Transitions:
//   1 -> 2  acquire (page fault: takes a pin at once) or a prefetch thread; a ring tile is given a slot
//   2 -> 2  another acquire takes a pin and waits
//   2 -> 3  a prefetch ended and nobody waits; a ring slot stays wanted until the sweep came for it
//   2 -> 4  the read ended and somebody has a pin
//   2 -> 5  the read or a check failed; the slot is free again
//   3 -> 4  acquire
//   4 -> 3  last pin released; a slot that is not wanted becomes reusable
//   3 -> 1  a reusable slot is taken for another tile (eviction), or a resident tile makes room for the one that would
//           be evicted (displacement): that one is copied from its slot into the frame and is resident from then on
//   5 -> 1  acquire throws the error; the last of those that waited for the read, where there were any
// Resident tiles go 3 <-> 4 without the lock: an acquire takes a pin and looks at PagedTile::fast again, a displacement
// locks `fast` and looks at the pins again, so one of the two steps back.
//
// No deadlock: acquires that found no slot are served in order (urgent_), the prefetcher in between when somebody waits
// for it. The first in that order takes a free or reusable slot, or the one that the sweep wants last; where all others
// are pinned it waits for a pin, whose holder must not wait for a tile itself.
//
// Thread rules: add_file, add_matrix, start and verify before start from one thread; acquire, release and counters from
// any thread. A thread holds at most one pin while it acquires. close() waits for every pin.
class Pager {
 public:
  Pager(uint64_t budget_bytes, PolicyKind policy, int prefetch_depth, int io_threads);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  int add_file(const std::string& path, IoMode preferred = IoMode::direct);
  // index: u64 [n_tiles, 8], checked against the file; base_offset: of W.c3 in the file. Returns the handle.
  int add_matrix(const std::string& name, int file, uint64_t base_offset, const uint64_t* index, int64_t n_tiles);
  const Matrix& matrix(int handle) const;
  uint64_t minimum_budget() const;
  uint64_t total_bytes() const;

  // Reads every tile of the matrix, checksum and structure, into memory of its own; only before start().
  void verify(int handle);

  // Fixes who is resident for this order of matrices and starts reading. Matrices left out can only be looked up.
  // drafted: of the sweep, those whose tiles drafts want whole where there is room, see acquire_prefix.
  void start(const std::vector<int>& sweep, const std::vector<int>& drafted = {});

  PinnedTile acquire(int handle, int64_t tile, Access access);
  // For a low-precision copy. Nothing is read or waited for where the prefix is kept and was read before, which counts
  // as a hit: the view of a tile that is not resident has no residual then. Otherwise this is a lookup of the whole
  // tile. Either leaves the sweep where it is, and residents learn nothing from it.
  PinnedTile acquire_prefix(int handle, int64_t tile);

  Counters counters() const;
  void reset_counters();  // peak_bytes starts again at held_bytes
  void close();

 private:
  friend class PinnedTile;
  class Wait;
  class StallTimer;

  int64_t tile_id(int handle, int64_t tile) const;
  PinnedTile acquire_id(int64_t id, Access access);
  PinnedTile acquire_slow(int64_t id, Access access);
  PinnedTile load_on_demand(int64_t id, Access access, std::unique_lock<std::mutex>* lock);
  PinnedTile pinned(PagedTile* tile);
  void release(PagedTile* tile);
  void claim(int64_t id, Access access);
  void count_served(bool by_prefetch);
  bool take_slot_on_demand(int64_t id, Access access, Wait* wait);
  void assign_slot(int64_t id);
  void charge(uint64_t bytes);
  void slots_changed();

  // residency.cpp
  void plan_residency(bool keeps_prefixes);
  bool lock_unused_tiles();
  void yield_prefixes();

  // loading.cpp
  void begin_loading(int64_t id, bool by_prefetch);
  uint64_t passing_bytes(int64_t id) const;
  void place(int64_t id, uint8_t* memory);
  std::exception_ptr load(int64_t id);
  void read_checked(const Matrix& matrix, int64_t tile, uint8_t* prefix, uint8_t* residual, bool has_prefix,
                    std::atomic<uint64_t>* bytes_read) const;
  void finish_loading(int64_t id, std::exception_ptr error);
  [[noreturn]] void throw_failure(int64_t id, bool has_pin);

  // displacement.cpp
  void undo_fast_pin(PagedTile* tile);
  bool take_over_a_frame(int64_t id);
  bool can_make_room(int64_t id, int64_t victim) const;
  bool follows_recency() const;

  // prefetch.cpp
  bool prefetch_pauses() const { return n_yield_tries_ > 0 && n_yield_tries_ <= kPausedTries; }
  void list_missing();
  void follow_displacements();
  void note_use(int64_t id);
  void drop_wanted(int slot);
  void give_up_read_ahead();
  void resync(int64_t id, uint64_t turn);
  bool ring_prefetch_possible() const;
  int64_t pick_ring_prefetch();
  int64_t next_fill();
  bool fill_comes_first(int64_t fill_tile) const;
  int64_t pick_prefetch();
  bool displacements_matter() const;
  bool prefetch_may_find_work() const;
  void wake_prefetch();
  void prefetch_loop();

  static constexpr int kPausedTries = 256;

  const uint64_t budget_bytes_;
  const std::unique_ptr<Policy> policy_;
  const int prefetch_depth_, n_io_threads_;
  std::vector<std::unique_ptr<ShardFile>> files_;
  std::deque<Matrix> matrices_;         // a deque: TileView points into it
  std::vector<uint64_t> stored_bytes_;  // by tile id
  std::vector<uint64_t> prefix_bytes_;  // by tile id, stored; 0 for a tile that has no residual

  // Written by start(), and while nothing is pinned or read when kept prefixes yield.
  std::atomic<bool> started_{false};
  bool prefetches_ = false;
  Arena arena_;
  uint64_t slot_bytes_ = 0;
  int64_t n_resident_tiles_ = 0, n_kept_prefixes_ = 0;
  int max_wanted_ = 0;
  std::unique_ptr<PagedTile[]> tiles_;
  std::vector<int64_t> sweep_;                            // tiles in order
  std::vector<int64_t> drafted_;                          // of the sweep, in its order
  std::vector<int64_t> fill_;                             // those that the plan makes resident
  std::atomic<Adaptation*> adaptation_{nullptr};          // null where nobody is ever displaced
  std::vector<std::unique_ptr<Adaptation>> adaptations_;  // it, and one before that an acquire may still be in

  mutable std::mutex mutex_;
  std::condition_variable loaded_, slots_, io_work_, left_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<SweepCursor> cursor_;
  std::vector<int64_t> missing_;  // non-resident tiles of the sweep, in order: rank -> tile; up to n_displaced_ late
  size_t n_displaced_ = 0;        // since missing_ was made
  std::list<uint64_t> urgent_;    // acquires that need a slot, first come first served
  uint64_t next_ticket_ = 0;
  int n_waiting_for_prefetch_ = 0;
  int n_loading_ = 0;
  int64_t n_yield_tries_ = 0;  // of kept prefixes; prefetch pauses during the first
  int n_idle_io_threads_ = 0;
  bool io_wake_under_way_ = false;
  bool prefetch_turn_ = false;
  uint64_t anchor_position_ = 0, anchor_turn_ = 0;  // where the sweep was last picked up
  int n_in_order_ = 0;                              // missing tiles that the sweep used one after the other
  int jumpiness_ = 0;                               // grows with each jump of the sweep, falls with each use in order
  bool swept_ = false;                              // a sweep ended since missing_ was made
  int64_t last_position_ = -1;                      // of a sweep use
  uint64_t used_turn_ = 0;                          // the last that it came to
  size_t fill_next_ = 0, fill_left_ = 0;
  std::unordered_map<int64_t, std::exception_ptr> failures_;
  int n_inside_ = 0;  // threads in acquire_slow
  uint64_t held_bytes_ = 0, peak_bytes_ = 0, resident_bytes_ = 0;
  int64_t n_filled_ = 0;  // resident tiles that were read
  uint64_t evictions_ = 0;

  std::atomic<bool> closed_{false};
  std::mutex close_mutex_;
  std::vector<std::thread> io_threads_;
  alignas(64) std::atomic<uint64_t> hits_{0};
  alignas(64) std::atomic<uint64_t> prefetch_hits_{0};
  std::atomic<uint64_t> page_faults_{0}, bytes_read_{0}, stall_ns_{0};
  std::atomic<int64_t> prefix_pins_{0};
};

}  // namespace vx
