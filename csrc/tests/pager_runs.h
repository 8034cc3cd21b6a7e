// What the tests of the pager share: sweeps by several workers, and what must hold after any of them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "c3/pager.h"
#include "c3/policy.h"
#include "tests/check.h"
#include "tests/tile_files.h"

namespace vx::test {

// Ends the process when a test hangs: a deadlock must not look like patience.
class Watchdog {
 public:
  explicit Watchdog(int seconds = 120) {
    thread_ = std::thread([this, seconds] {
      std::unique_lock lock(mutex_);
      if (ended_.wait_for(lock, std::chrono::seconds(seconds), [this] { return done_; })) return;
      std::fprintf(stderr, "FAIL a test hangs\n");
      std::_Exit(3);
    });
  }
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      done_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;
};

inline uint64_t minimum_budget(const TileFile& file) {
  Pager probe(1, PolicyKind::stable, 4, 1);
  file.add_to(&probe);
  return probe.minimum_budget();
}

inline uint64_t total_bytes(const TileFile& file) {
  Pager probe(1, PolicyKind::stable, 4, 1);
  file.add_to(&probe);
  return probe.total_bytes();
}

inline void check_sums(const Pager& pager, uint64_t n_acquired) {
  const Counters c = pager.counters();
  VX_CHECK_EQ(c.hits + c.prefetch_hits + c.page_faults, n_acquired);
  VX_CHECK(c.held_bytes <= c.budget_bytes);
  VX_CHECK(c.peak_bytes <= c.budget_bytes);
  VX_CHECK(c.resident_bytes <= c.held_bytes);
  VX_CHECK(c.held_bytes <= c.peak_bytes);
}

inline std::vector<std::pair<int, int64_t>> sweep_steps(const TileFile& file, const std::vector<int>& sweep) {
  std::vector<std::pair<int, int64_t>> steps;
  for (int handle : sweep)
    for (int64_t t = 0; t < const_cast<TileFile&>(file).matrices()[handle].n_tiles(); ++t) steps.push_back({handle, t});
  return steps;
}

// One sweep by n_threads workers that take steps in order, as the kernels do. Returns the number of acquires.
inline uint64_t run_sweep(const TileFile& file, Pager* pager, const std::vector<int>& sweep, int n_threads) {
  const auto steps = sweep_steps(file, sweep);
  std::atomic<size_t> next{0};
  std::atomic<int> wrong{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < steps.size();) {
      const vx::PinnedTile pin = pager->acquire(steps[i].first, steps[i].second, Access::sweep);
      if (!file.equal(steps[i].first, steps[i].second, pin.view())) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < n_threads; ++i) threads.emplace_back(work);
  work();
  for (auto& t : threads) t.join();
  VX_CHECK_EQ(wrong.load(), 0);
  return steps.size();
}

}  // namespace vx::test
