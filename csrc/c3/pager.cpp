#include "c3/pager.h"

#include <algorithm>
#include <chrono>

#include "c3/paged_tile.h"
#include "c3/tile_index.h"
#include "common/errors.h"

namespace vx {
namespace {

constexpr int kMaxIoThreads = 64;

void require(bool holds, const std::string& rule) {
  if (!holds) throw ArgumentError("[pager] " + rule);
}

}  // namespace

// What an acquire without a slot waits for: nothing yet, the prefetcher that is about to read its tile, or its turn in
// the queue. Others decide by that, so every change wakes them.
class Pager::Wait {
 public:
  explicit Wait(Pager* pager) : pager_(pager) {}
  ~Wait() { leave(); }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  bool queued() const { return for_ == For::turn; }
  bool is_next() const { return queued() && pager_->urgent_.front() == ticket_; }
  void for_prefetch() {
    if (for_ != For::nothing) return;
    for_ = For::prefetch;
    ++pager_->n_waiting_for_prefetch_;
    pager_->slots_changed();
  }
  void for_turn() {
    leave();
    for_ = For::turn;
    ticket_ = pager_->next_ticket_++;
    pager_->urgent_.push_back(ticket_);
    pager_->slots_changed();
  }
  void leave() {
    if (for_ == For::nothing) return;
    if (for_ == For::prefetch) --pager_->n_waiting_for_prefetch_;
    if (for_ == For::turn) pager_->urgent_.remove(ticket_);
    for_ = For::nothing;
    pager_->slots_changed();
  }

 private:
  enum class For { nothing, prefetch, turn };

  Pager* pager_;
  For for_ = For::nothing;
  uint64_t ticket_ = 0;
};

class Pager::StallTimer {
 public:
  explicit StallTimer(Pager* pager) : pager_(pager) {}
  ~StallTimer() {
    const auto elapsed = std::chrono::steady_clock::now() - start_;
    pager_->stall_ns_ += static_cast<uint64_t>(std::chrono::nanoseconds(elapsed).count());
  }
  StallTimer(const StallTimer&) = delete;
  StallTimer& operator=(const StallTimer&) = delete;

 private:
  Pager* pager_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

PinnedTile::~PinnedTile() {
  if (pager_ != nullptr) pager_->release(tile_);
}

Pager::Pager(uint64_t budget_bytes, PolicyKind policy, int prefetch_depth, int io_threads)
    : budget_bytes_(budget_bytes),
      policy_(make_policy(policy)),
      prefetch_depth_(prefetch_depth),
      n_io_threads_(io_threads) {
  require(prefetch_depth >= 0, "prefetch_depth must not be negative, got " + std::to_string(prefetch_depth));
  require(io_threads >= 1 && io_threads <= kMaxIoThreads,
          "io_threads must be between 1 and 64, got " + std::to_string(io_threads));
}

Pager::~Pager() { close(); }

int Pager::add_file(const std::string& path, IoMode preferred) {
  require(!started_, "files are added before start");
  files_.push_back(std::make_unique<ShardFile>(path, preferred));
  return static_cast<int>(files_.size()) - 1;
}

int Pager::add_matrix(const std::string& name, int file, uint64_t base_offset, const uint64_t* index, int64_t n_tiles) {
  require(!started_, "matrices are added before start");
  require(file >= 0 && file < static_cast<int>(files_.size()), "unknown file " + std::to_string(file));
  const ShardFile& shard = *files_[file];
  TileIndex parsed = parse_tile_index(shard.path(), name, shard.bytes(), base_offset, index, n_tiles);
  const int64_t first_tile = static_cast<int64_t>(stored_bytes_.size());
  for (const TileEntry& e : parsed.tiles) {
    stored_bytes_.push_back(e.stored_bytes());
    prefix_bytes_.push_back(e.residual_bytes > 0 ? align_up(e.prefix_bytes) : 0);
  }
  matrices_.push_back({name, file, parsed.rows, parsed.cols, std::move(parsed.tiles), first_tile});
  return static_cast<int>(matrices_.size()) - 1;
}

const Matrix& Pager::matrix(int handle) const {
  require(handle >= 0 && handle < static_cast<int>(matrices_.size()), "unknown matrix " + std::to_string(handle));
  return matrices_[handle];
}

uint64_t Pager::minimum_budget() const { return vx::minimum_budget(stored_bytes_); }

uint64_t Pager::total_bytes() const {
  uint64_t total = 0;
  for (uint64_t bytes : stored_bytes_) total += bytes;
  return total;
}

void Pager::start(const std::vector<int>& sweep, const std::vector<int>& drafted) {
  require(!started_ && !closed_, "start is called once, before close");
  for (int handle : sweep) {
    static_cast<void>(matrix(handle));
    require(std::count(sweep.begin(), sweep.end(), handle) == 1,
            "a matrix is in the sweep once, got " + matrices_[handle].name + " again");
  }
  if (budget_bytes_ < minimum_budget()) {
    const uint64_t largest = *std::max_element(stored_bytes_.begin(), stored_bytes_.end());
    throw BudgetTooSmall("a budget of " + std::to_string(budget_bytes_) + " bytes is below the minimum of " +
                         std::to_string(minimum_budget()) + " bytes for this model (its largest tile has " +
                         std::to_string(largest) + " bytes)");
  }
  for (int handle : drafted)
    require(std::count(sweep.begin(), sweep.end(), handle) == 1, "a drafted matrix is in the sweep");
  for (int handle : sweep) {
    const bool is_drafted = std::count(drafted.begin(), drafted.end(), handle) > 0;
    for (size_t i = 0; i < matrices_[handle].tiles.size(); ++i) {
      sweep_.push_back(matrices_[handle].first_tile + static_cast<int64_t>(i));
      if (is_drafted) drafted_.push_back(sweep_.back());
    }
  }
  tiles_ = std::make_unique<PagedTile[]>(stored_bytes_.size());
  plan_residency(true);
  started_.store(true, std::memory_order_release);
  if (prefetches_)
    for (int i = 0; i < n_io_threads_; ++i) io_threads_.emplace_back([this] { prefetch_loop(); });
}

int64_t Pager::tile_id(int handle, int64_t tile) const {
  require(started_.load(std::memory_order_acquire), "acquire before start");
  const Matrix& m = matrix(handle);
  if (tile < 0 || tile >= static_cast<int64_t>(m.tiles.size()))
    throw ArgumentError("[pager] " + m.name + " has no tile " + std::to_string(tile));
  return m.first_tile + tile;
}

PinnedTile Pager::acquire(int handle, int64_t tile, Access access) {
  const int64_t id = tile_id(handle, tile);
  if (Adaptation* adaptation = adaptation_.load(std::memory_order_acquire)) adaptation->used(id);
  return acquire_id(id, access);
}

PinnedTile Pager::acquire_id(int64_t id, Access access) {
  PagedTile& t = tiles_[id];
  if (t.fast.load(std::memory_order_relaxed) == FastPath::locked) return acquire_slow(id, access);
  // close() sets closed_ and then waits for pins, so one of the two sees the other.
  t.pins.fetch_add(1);
  const FastPath fast = t.fast.load();
  if (fast == FastPath::locked || closed_.load()) {
    undo_fast_pin(&t);
    return acquire_slow(id, access);
  }
  // Not where it was locked since: who did will see the pin and put back what was there.
  FastPath first = FastPath::prefetched;
  count_served(fast == first && t.fast.compare_exchange_strong(first, FastPath::ready));
  return pinned(&t);
}

PinnedTile Pager::acquire_prefix(int handle, int64_t tile) {
  const int64_t id = tile_id(handle, tile);
  if (tiles_[id].fast.load(std::memory_order_relaxed) == FastPath::locked && prefix_bytes_[id] > 0) {
    std::lock_guard lock(mutex_);
    if (closed_) throw ArgumentError("[pager] is closed");
    const PagedTile& t = tiles_[id];
    if (t.prefix_kept && t.prefix_loaded) {
      ++prefix_pins_;
      count_served(false);
      return PinnedTile(this, nullptr, {&matrix(handle).tiles[tile], t.prefix, nullptr});
    }
  }
  return acquire_id(id, Access::lookup);
}

PinnedTile Pager::acquire_slow(int64_t id, Access access) {
  struct Inside {
    explicit Inside(Pager* p) : pager(p) { ++pager->n_inside_; }
    ~Inside() {
      if (--pager->n_inside_ == 0) pager->left_.notify_all();
    }
    Pager* pager;
  };
  PagedTile& t = tiles_[id];
  std::unique_lock lock(mutex_);
  const Inside inside(this);
  Wait wait(this);
  yield_prefixes();
  for (;;) {
    if (closed_) throw ArgumentError("[pager] is closed");
    switch (t.status) {
      case TileStatus::failed:
        throw_failure(id, false);
      case TileStatus::ready:
        claim(id, access);
        // A resident tile may have become ready between the look at fast and the lock.
        count_served(std::exchange(t.prefetched, false) ||
                     (t.resident && t.fast.exchange(FastPath::ready) == FastPath::prefetched));
        return pinned(&t);
      case TileStatus::loading: {
        claim(id, access);
        wait.leave();
        const bool by_prefetch = std::exchange(t.prefetched, false);
        {
          const StallTimer stall(this);
          loaded_.wait(lock, [&] { return t.status != TileStatus::loading; });
        }
        if (t.status == TileStatus::failed) throw_failure(id, true);
        count_served(by_prefetch);
        return pinned(&t);
      }
      case TileStatus::absent:
        break;
    }
    if (t.resident || take_slot_on_demand(id, access, &wait)) {
      wait.leave();
      return load_on_demand(id, access, &lock);
    }
    const StallTimer stall(this);
    slots_.wait(lock);
  }
}

PinnedTile Pager::load_on_demand(int64_t id, Access access, std::unique_lock<std::mutex>* lock) {
  begin_loading(id, false);
  claim(id, access);
  std::exception_ptr error;
  lock->unlock();
  {
    const StallTimer stall(this);
    error = load(id);
  }
  lock->lock();
  finish_loading(id, error);
  if (error) throw_failure(id, true);
  ++page_faults_;
  return pinned(&tiles_[id]);
}

// True when the tile was given a slot; otherwise the caller waits.
bool Pager::take_slot_on_demand(int64_t id, Access access, Wait* wait) {
  PagedTile& t = tiles_[id];
  if (!wait->queued()) {
    if (access == Access::sweep && t.rank >= 0 && prefetches_) {
      const SweepCursor::Place place = cursor_->place(t.rank);
      if (place.where == SweepCursor::Where::far) resync(id, place.turn);
      if (place.where == SweepCursor::Where::ahead && t.trusted && ring_prefetch_possible()) {
        wait->for_prefetch();
        return false;
      }
    }
    wait->for_turn();
  }
  const bool prefetch_first = prefetch_turn_ && n_waiting_for_prefetch_ > 0 && ring_prefetch_possible();
  if (!wait->is_next() || prefetch_first) return false;
  if (!ring_->has_slot()) give_up_read_ahead();
  if (!ring_->has_slot()) return false;
  assign_slot(id);
  prefetch_turn_ = true;
  return true;
}

void Pager::assign_slot(int64_t id) {
  int64_t evicted = ring_->leaver();
  if (evicted >= 0) take_over_a_frame(evicted);
  const int slot = ring_->take(id, &evicted);
  if (evicted >= 0) {
    PagedTile& old = tiles_[evicted];
    old.status = TileStatus::absent;
    old.prefetched = false;
    old.slot = -1;
    ++evictions_;
  }
  if (ring_->touch(slot)) charge(slot_bytes_);
  PagedTile& t = tiles_[id];
  t.slot = slot;
  place(id, arena_.data() + static_cast<uint64_t>(slot) * slot_bytes_);
}

void Pager::charge(uint64_t bytes) {
  held_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, held_bytes_);
}

// Takes a pin for an acquire; the tile is ready, or loading for somebody.
void Pager::claim(int64_t id, Access access) {
  PagedTile& t = tiles_[id];
  ++t.pins;
  if (t.slot < 0) return;
  ring_->keep(t.slot);
  if (access == Access::sweep) note_use(id);
}

void Pager::count_served(bool by_prefetch) {
  (by_prefetch ? prefetch_hits_ : hits_).fetch_add(1, std::memory_order_relaxed);
}

PinnedTile Pager::pinned(PagedTile* t) {
  const int64_t id = t - tiles_.get();
  const Matrix& m = matrices_[t->matrix];
  const TileEntry& e = m.tiles[id - m.first_tile];
  return PinnedTile(this, t, {&e, t->prefix, t->residual});
}

void Pager::release(PagedTile* t) {
  if (t == nullptr) {
    --prefix_pins_;
    return;
  }
  if (t->resident) {
    t->pins.fetch_sub(1);
    return;
  }
  std::lock_guard lock(mutex_);
  if (--t->pins == 0 && !(*ring_)[t->slot].wanted) {
    ring_->let_go(t->slot);
    slots_changed();
  }
}

void Pager::slots_changed() {
  slots_.notify_all();
  wake_prefetch();
}

Counters Pager::counters() const {
  std::lock_guard lock(mutex_);
  Counters c{};
  c.page_faults = page_faults_;
  c.prefetch_hits = prefetch_hits_;
  c.hits = hits_;
  c.bytes_compressed_read = bytes_read_;
  c.evictions = evictions_;
  c.stall_s = static_cast<double>(stall_ns_) * 1e-9;
  c.resident_bytes = resident_bytes_;
  c.held_bytes = held_bytes_;
  c.peak_bytes = peak_bytes_;
  c.budget_bytes = budget_bytes_;
  c.total_bytes = total_bytes();
  c.n_tiles = static_cast<int64_t>(stored_bytes_.size());
  c.n_resident_tiles = n_resident_tiles_;
  c.n_kept_prefixes = n_kept_prefixes_;
  c.follows_recency = follows_recency();
  for (const auto& file : files_)
    if (file->mode() == IoMode::buffered) c.io_mode = IoMode::buffered;
  return c;
}

void Pager::reset_counters() {
  std::lock_guard lock(mutex_);
  hits_ = prefetch_hits_ = page_faults_ = bytes_read_ = stall_ns_ = 0;
  evictions_ = 0;
  peak_bytes_ = held_bytes_;
}

void Pager::close() {
  std::lock_guard one_close(close_mutex_);
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    slots_.notify_all();
    io_work_.notify_all();
    left_.wait(lock, [&] { return n_inside_ == 0; });
  }
  for (std::thread& t : io_threads_) t.join();
  io_threads_.clear();
  for (size_t id = 0; tiles_ && id < stored_bytes_.size(); ++id)
    while (tiles_[id].pins != 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  while (prefix_pins_ != 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  std::lock_guard lock(mutex_);
  arena_.release();
  held_bytes_ = resident_bytes_ = 0;
}

}  // namespace vx
