// Residents make room when access is skewed, and for nobody when it is a scan.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "c3/pager.h"
#include "tests/check.h"
#include "tests/pager_runs.h"
#include "tests/tile_files.h"

namespace {

using namespace vx;
using namespace vx::test;

constexpr int64_t kTiles = 600;

void make_file(TileFile* file) {
  file->add({64 * kTiles, 64, 1});
  file->write();
}

// Bytes that a policy reads for the second half of a trace of tiles, as misses of declared-sweep accesses.
uint64_t bytes_read(const TileFile& file, PolicyKind policy, int percent, const std::vector<int64_t>& trace) {
  Pager pager(total_bytes(file) * static_cast<uint64_t>(percent) / 100, policy, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  for (size_t i = 0; i < trace.size(); ++i) {
    if (i == trace.size() / 2) pager.reset_counters();
    const auto pin = pager.acquire(0, trace[i], Access::sweep);
    if (i % 16 == 0) VX_CHECK(file.equal(0, trace[i], pin.view()));
  }
  check_sums(pager, trace.size() - trace.size() / 2);
  return pager.counters().bytes_compressed_read;
}

// Four layers of 150 experts; each token keeps six of its ten of the token before.
std::vector<int64_t> expert_trace(int n_tokens) {
  std::mt19937 random(3);
  std::vector<std::vector<int64_t>> active(4);
  std::vector<int64_t> trace;
  for (int token = 0; token < n_tokens; ++token)
    for (int64_t layer = 0; layer < 4; ++layer) {
      auto& now = active[static_cast<size_t>(layer)];
      std::shuffle(now.begin(), now.end(), random);
      now.resize(std::min<size_t>(now.size(), 6));
      while (now.size() < 10) {
        const int64_t tile = layer * 150 + static_cast<int64_t>(random() % 150);
        if (std::find(now.begin(), now.end(), tile) == now.end()) now.push_back(tile);
      }
      std::sort(now.begin(), now.end());
      trace.insert(trace.end(), now.begin(), now.end());
    }
  return trace;
}

VX_TEST(experts_are_cached_as_well_as_by_recency) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  const auto trace = expert_trace(2000);
  for (int percent : {12, 25, 50, 75}) {
    const uint64_t lru = bytes_read(file, PolicyKind::lru, percent, trace);
    const uint64_t stable = bytes_read(file, PolicyKind::stable, percent, trace);
    // 75 % holds all prefixes, also those of experts that are seldom used: that costs some hits.
    VX_CHECK(static_cast<double>(stable) <= (percent < 75 ? 1.005 : 1.02) * static_cast<double>(lru));
  }
}

VX_TEST(an_early_exit_shifts_residents_to_the_layers_that_run) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  std::vector<int64_t> trace;
  std::mt19937 random(4);
  for (int sweep = 0; sweep < 80; ++sweep)
    for (int64_t t = 0; t < (random() % 5 == 0 ? kTiles : kTiles / 2); ++t) trace.push_back(t);
  const uint64_t tile = total_bytes(file) / kTiles;
  // A fixed subset of a quarter hits a quarter; the lower half alone deserves the room.
  const uint64_t fixed = tile * trace.size() / 2 * 3 / 4;
  VX_CHECK(bytes_read(file, PolicyKind::stable, 25, trace) < fixed * 95 / 100);
}

// Two models of 225 and 375 tiles take turns of eight sweeps: the one that runs deserves the room.
VX_TEST(models_that_take_turns_are_cached_as_well_as_by_recency) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  std::vector<int64_t> trace;
  for (int turn = 0; turn < 12; ++turn)
    for (int sweep = 0; sweep < 8; ++sweep)
      for (int64_t t = turn % 2 ? 225 : 0; t < (turn % 2 ? kTiles : 225); ++t) trace.push_back(t);
  for (int percent : {50, 75}) {
    const uint64_t lru = bytes_read(file, PolicyKind::lru, percent, trace);
    const uint64_t stable = bytes_read(file, PolicyKind::stable, percent, trace);
    VX_CHECK(static_cast<double>(stable) <= 1.02 * static_cast<double>(lru));
  }
}

// The budget holds all prefixes, and all of the tiles that are used, but not both.
VX_TEST(kept_prefixes_go_where_few_tiles_are_used) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  const uint64_t budget = total_bytes(file) * 3 / 4;
  Pager pager(budget, PolicyKind::stable, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  VX_CHECK_EQ(pager.counters().n_kept_prefixes, kTiles);
  uint64_t n_acquired = 0, over = 0;
  const auto sweep = [&] {
    for (int64_t t = 0; t < kTiles * 2 / 3; ++t, ++n_acquired) {
      const auto pin = pager.acquire(0, t, Access::sweep);
      VX_CHECK(file.equal(0, t, pin.view()));
      over += pager.counters().held_bytes > budget;
    }
  };
  for (int i = 0; i < 60; ++i) sweep();
  check_sums(pager, n_acquired);
  VX_CHECK_EQ(over, 0u);
  VX_CHECK_EQ(pager.counters().n_kept_prefixes, int64_t{0});
  pager.reset_counters();
  for (int i = 0; i < 4; ++i) sweep();
  VX_CHECK_EQ(pager.counters().bytes_compressed_read, 0u);
  VX_CHECK(file.equal(0, 1, pager.acquire_prefix(0, 1).view()));  // there is none alone now
}

VX_TEST(kept_prefixes_stay_while_one_is_lent) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  Pager pager(total_bytes(file) * 3 / 4, PolicyKind::stable, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  const auto sweeps = [&](int n) {
    for (int i = 0; i < n; ++i)
      for (int64_t t = 0; t < kTiles * 2 / 3; ++t)
        VX_CHECK(file.equal(0, t, pager.acquire(0, t, Access::sweep).view()));
  };
  sweeps(1);
  {
    const auto lent = pager.acquire_prefix(0, 7);
    sweeps(60);
    VX_CHECK_EQ(pager.counters().n_kept_prefixes, kTiles);
    const auto& prefix = file.matrices()[0].tiles[7].prefix;
    VX_CHECK(lent.view().residual == nullptr && std::memcmp(lent.view().prefix, prefix.data(), prefix.size()) == 0);
  }
}

// Tiles drawn independently, popular ones more often, in no order that reading ahead could follow.
VX_TEST(popular_tiles_are_cached_better_than_by_recency) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  std::vector<double> popularity;
  for (int64_t t = 0; t < kTiles; ++t) popularity.push_back(1.0 / static_cast<double>(1 + t * 37 % kTiles));
  std::discrete_distribution<int64_t> draw(popularity.begin(), popularity.end());
  std::mt19937 random(6);
  std::vector<int64_t> trace;
  for (int i = 0; i < 60000; ++i) trace.push_back(draw(random));
  for (int percent : {25, 50}) {
    const uint64_t lru = bytes_read(file, PolicyKind::lru, percent, trace);
    const uint64_t stable = bytes_read(file, PolicyKind::stable, percent, trace);
    VX_CHECK(static_cast<double>(stable) <= 0.9 * static_cast<double>(lru));
  }
}

VX_TEST(kept_prefixes_go_among_workers) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  const uint64_t budget = total_bytes(file) * 3 / 4;
  Pager pager(budget, PolicyKind::stable, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  std::atomic<int> wrong{0}, over{0};
  std::atomic<uint64_t> n_acquired{0};
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 8000; ++i, ++n_acquired) {
      // One follows the sweep, so that tiles are read ahead.
      const int64_t tile = (seed % 3 == 0 ? i : static_cast<int64_t>(random())) % (kTiles * 2 / 3);
      if (i % 4 == 0 && seed % 3 != 0) {
        const auto pin = pager.acquire_prefix(0, tile);
        const auto& prefix = file.matrices()[0].tiles[static_cast<size_t>(tile)].prefix;
        wrong += std::memcmp(pin.view().prefix, prefix.data(), prefix.size()) != 0;
      } else {
        const auto pin = pager.acquire(0, tile, seed % 3 == 0 ? Access::sweep : Access::lookup);
        wrong += !file.equal(0, tile, pin.view());
      }
      over += pager.counters().held_bytes > budget;
    }
  };
  for (unsigned round = 0; round < 8 && pager.counters().n_kept_prefixes > 0; ++round) {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; ++i) threads.emplace_back(work, 10 * round + i + 1);
    for (auto& t : threads) t.join();
  }
  VX_CHECK_EQ(wrong.load(), 0);
  VX_CHECK_EQ(over.load(), 0);
  VX_CHECK_EQ(pager.counters().n_kept_prefixes, int64_t{0});
  check_sums(pager, n_acquired);
}

VX_TEST(scans_displace_nobody) {
  const Watchdog watchdog;
  TileFile file;
  make_file(&file);
  Pager pager(total_bytes(file) / 2, PolicyKind::stable, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  std::mt19937 random(5);
  uint64_t hits = 0;
  for (int sweep = 0; sweep < 30; ++sweep) {
    pager.reset_counters();
    for (int64_t t = 0; t < (random() % 8 == 0 ? kTiles - 40 : kTiles); ++t)  // a prefill chunk leaves out the head
      static_cast<void>(pager.acquire(0, t, Access::sweep));
    hits = pager.counters().hits;
  }
  VX_CHECK(!pager.counters().follows_recency);
  VX_CHECK(hits + 40 >= static_cast<uint64_t>(pager.counters().n_resident_tiles));
}

VX_TEST(displacement_races_with_pins) {
  const Watchdog watchdog;
  const auto file = make_model();
  const uint64_t least = minimum_budget(*file), total = total_bytes(*file);
  for (uint64_t budget : {least + (total - least) / 3, total / 2, total * 9 / 10}) {
    Pager pager(budget, PolicyKind::stable, 4, 2);
    file->add_to(&pager);
    pager.start({0, 1, 2, 3, 4, 5});
    const auto steps = sweep_steps(*file, {0, 1, 2, 3, 4, 5, 6});
    std::atomic<int> wrong{0}, over{0};
    const auto work = [&](unsigned seed) {
      std::mt19937 random(seed);
      for (int i = 0; i < 3000; ++i) {
        // A hot window that moves.
        const size_t step = (static_cast<size_t>(i / 300) * 17 + random() % 12) % steps.size();
        const auto pin = pager.acquire(steps[step].first, steps[step].second, Access::sweep);
        wrong += !file->equal(steps[step].first, steps[step].second, pin.view());
        over += pager.counters().held_bytes > budget;
      }
    };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(work, i + 1);
    for (auto& t : threads) t.join();
    VX_CHECK_EQ(wrong.load(), 0);
    VX_CHECK_EQ(over.load(), 0);
    check_sums(pager, 4 * 3000);
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
