// What the pager promises: the right bytes, never more memory than the budget, always an answer, exact counters.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "c3/pager.h"
#include "c3/policy.h"
#include "common/errors.h"
#include "tests/check.h"
#include "tests/pager_runs.h"
#include "tests/tile_files.h"

namespace {

using namespace vx;
using namespace vx::test;

const std::vector<int> kSweep = {0, 1, 2, 3, 4, 5};
constexpr int kEmbedding = 6;

VX_TEST(sweeps_serve_the_right_bytes_at_every_budget) {
  const Watchdog watchdog;
  const auto file = make_model();
  const uint64_t least = minimum_budget(*file), total = total_bytes(*file);
  for (uint64_t budget : {least, least + 5000, total / 2, total * 3 / 4, total - 1, total, total * 2})
    for (int n_threads : {1, 2, 8})
      for (int depth : {0, 1, 4, 16}) {
        Pager pager(budget, PolicyKind::stable, depth, 2);
        file->add_to(&pager);
        pager.start(kSweep);
        uint64_t n = 0;
        for (int i = 0; i < 3; ++i) n += run_sweep(*file, &pager, kSweep, n_threads);
        check_sums(pager, n);
        VX_CHECK(pager.counters().held_bytes > 0);
      }
}

VX_TEST(random_access_stays_inside_the_budget) {
  const Watchdog watchdog;
  const auto file = make_model();
  const uint64_t least = minimum_budget(*file), total = total_bytes(*file);
  for (PolicyKind policy : {PolicyKind::stable, PolicyKind::lru})
    for (uint64_t budget : {least, total / 2, total})
      for (int n_threads : {1, 3, 8}) {
        Pager pager(budget, policy, 4, 3);
        file->add_to(&pager);
        pager.start(kSweep);
        std::atomic<int> wrong{0}, over{0};
        const auto work = [&](int seed) {
          std::mt19937 random(seed);
          for (int i = 0; i < 300; ++i) {
            const int handle = static_cast<int>(random() % 7);
            const int64_t tile = static_cast<int64_t>(random() % file->matrices()[handle].n_tiles());
            const auto pin = pager.acquire(handle, tile, random() % 3 == 0 ? Access::lookup : Access::sweep);
            wrong += !file->equal(handle, tile, pin.view());
            over += pager.counters().held_bytes > budget;
          }
        };
        std::vector<std::thread> threads;
        for (int i = 0; i < n_threads; ++i) threads.emplace_back(work, i + 1);
        for (auto& t : threads) t.join();
        VX_CHECK_EQ(wrong.load(), 0);
        VX_CHECK_EQ(over.load(), 0);
        check_sums(pager, 300 * n_threads);
      }
}

VX_TEST(everything_fits) {
  const Watchdog watchdog;
  const auto file = make_model();
  for (PolicyKind policy : {PolicyKind::stable, PolicyKind::lru}) {
    Pager pager(total_bytes(*file), policy, 4, 2);
    file->add_to(&pager);
    pager.start(kSweep);
    run_sweep(*file, &pager, kSweep, 2);
    for (int64_t t = 0; t < file->matrices()[kEmbedding].n_tiles(); ++t)
      VX_CHECK(file->equal(kEmbedding, t, pager.acquire(kEmbedding, t, Access::lookup).view()));
    Counters c = pager.counters();
    VX_CHECK_EQ(c.bytes_compressed_read, c.total_bytes);
    VX_CHECK_EQ(c.resident_bytes, c.total_bytes);
    VX_CHECK_EQ(c.held_bytes, c.total_bytes);
    VX_CHECK_EQ(c.n_resident_tiles, c.n_tiles);
    pager.reset_counters();
    const uint64_t n = run_sweep(*file, &pager, kSweep, 2);
    c = pager.counters();
    VX_CHECK_EQ(c.hits, n);
    VX_CHECK_EQ(c.bytes_compressed_read, 0u);
  }
}

VX_TEST(a_budget_below_the_minimum_is_named) {
  const auto file = make_model();
  const uint64_t least = minimum_budget(*file);
  Pager pager(least - 1, PolicyKind::stable, 4, 2);
  file->add_to(&pager);
  VX_CHECK_THROWS(pager.start(kSweep), vx::BudgetTooSmall,
                  VX_CHECK(std::string(error.what()).find(std::to_string(least)) != std::string::npos));
}

VX_TEST(corrupt_bytes_name_their_tile) {
  const Watchdog watchdog;
  for (bool in_residual : {false, true})
    for (int depth : {0, 4})  // read by acquire, read by a prefetch thread
      for (int percent : {35, 100}) {
        auto file = make_model();
        const uint64_t budget = std::max(total_bytes(*file) * percent / 100, minimum_budget(*file));
        const vx::test::FileMatrix& m = file->matrices()[1];
        const uint64_t offset = m.base_offset + m.index[3 * 8 + in_residual];
        file->flip(offset + 77, 4);
        Pager pager(budget, PolicyKind::stable, depth, 2);
        file->add_to(&pager);
        pager.start(kSweep);
        for (int again = 0; again < 3; ++again)
          VX_CHECK_THROWS(pager.acquire(1, 3, Access::sweep), vx::CorruptTile, {
            VX_CHECK(error.file == file->path());
            VX_CHECK(error.tensor == m.name);
            VX_CHECK_EQ(error.tile, int64_t{3});
            VX_CHECK_EQ(error.offset, offset);
          });
        VX_CHECK_THROWS(run_sweep(*file, &pager, kSweep, 1), vx::CorruptTile, {});
        // The disk got better: the next read must not remember.
        file->flip(offset + 77, 4);
        for (int tries = 0; tries < 2; ++tries) {
          try {
            static_cast<void>(pager.acquire(1, 3, Access::sweep));
          } catch (const vx::CorruptTile&) {
            VX_CHECK_EQ(tries, 0);  // what a prefetch had found before
          }
        }
        run_sweep(*file, &pager, kSweep, 2);
      }
}

VX_TEST(many_workers_survive_failing_reads) {
  const Watchdog watchdog;
  auto file = make_model();
  const uint64_t least = minimum_budget(*file);
  for (size_t at = 3 * 4096; at < file->bytes().size(); at += 20 * 4096) file->bytes()[at] ^= 1;
  file->write();
  Pager pager(least, PolicyKind::stable, 4, 2);
  file->add_to(&pager);
  pager.start(kSweep);
  const auto steps = sweep_steps(*file, kSweep);
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> failed{0}, served{0}, wrong{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < 5 * steps.size();) {
      const auto [handle, tile] = steps[i % steps.size()];
      try {
        const auto pin = pager.acquire(handle, tile, i % 7 == 0 ? Access::lookup : Access::sweep);
        wrong += !file->equal(handle, tile, pin.view());
        ++served;
      } catch (const vx::CorruptTile&) {
        ++failed;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back(work);
  for (auto& t : threads) t.join();
  VX_CHECK(failed > 0);
  VX_CHECK_EQ(wrong.load(), uint64_t{0});
  check_sums(pager, served);
}

VX_TEST(a_truncated_file_is_a_corrupt_tile) {
  const Watchdog watchdog;
  for (vx::IoMode mode : {vx::IoMode::direct, vx::IoMode::buffered}) {
    auto file = make_model();
    Pager pager(minimum_budget(*file), PolicyKind::stable, 4, 2);
    file->add_to(&pager, mode);
    VX_CHECK_EQ(truncate(file->path().c_str(), static_cast<off_t>(file->matrices()[4].base_offset + 5000)), 0);
    pager.start(kSweep);
    run_sweep(*file, &pager, {0, 1, 2, 3}, 1);
    VX_CHECK_THROWS(run_sweep(*file, &pager, {4}, 1), vx::CorruptTile, {
      VX_CHECK(error.tensor == file->matrices()[4].name);
      VX_CHECK(std::string(error.what()).find("truncated") != std::string::npos);
    });
  }
}

VX_TEST(a_file_may_end_inside_the_last_block) {
  const Watchdog watchdog;
  auto file = make_model();
  const vx::test::FileMatrix& last = file->matrices().back();
  file->bytes().resize(last.base_offset + last.index[last.index.size() - 8 + 1] + last.tiles.back().residual.size());
  file->write();
  for (vx::IoMode mode : {vx::IoMode::direct, vx::IoMode::buffered}) {
    Pager pager(minimum_budget(*file), PolicyKind::stable, 4, 2);
    file->add_to(&pager, mode);
    pager.start(kSweep);
    VX_CHECK(mode == vx::IoMode::direct || pager.counters().io_mode == vx::IoMode::buffered);
    const int64_t tile = last.n_tiles() - 1;
    VX_CHECK(file->equal(kEmbedding, tile, pager.acquire(kEmbedding, tile, Access::lookup).view()));
  }
}

VX_TEST(verify_reads_past_the_cache) {
  auto file = make_model();
  {
    Pager pager(1 << 20, PolicyKind::stable, 4, 2);
    file->add_to(&pager);
    for (int handle = 0; handle < 7; ++handle) pager.verify(handle);
  }
  file->flip(file->matrices()[4].base_offset + file->matrices()[4].index[1] + 9, 1);
  Pager pager(1 << 20, PolicyKind::stable, 4, 2);
  file->add_to(&pager);
  pager.verify(3);
  VX_CHECK_THROWS(pager.verify(4), vx::CorruptTile, VX_CHECK_EQ(error.tile, int64_t{0}));
}

VX_TEST(lookups_leave_the_sweep_alone) {
  const Watchdog watchdog;
  const auto file = make_model();
  Pager pager(minimum_budget(*file), PolicyKind::stable, 4, 2);
  file->add_to(&pager);
  pager.start(kSweep);
  run_sweep(*file, &pager, kSweep, 1);
  pager.reset_counters();
  const auto steps = sweep_steps(*file, kSweep);
  std::mt19937 random(5);
  uint64_t n_lookups = 0;
  for (int sweep = 0; sweep < 3; ++sweep)
    for (const auto& [handle, tile] : steps) {
      if (random() % 4 == 0) {
        const int64_t row_tile = static_cast<int64_t>(random() % file->matrices()[kEmbedding].n_tiles());
        const auto pin = pager.acquire(kEmbedding, row_tile, Access::lookup);
        VX_CHECK(file->equal(kEmbedding, row_tile, pin.view()));
        ++n_lookups;
      }
      VX_CHECK(file->equal(handle, tile, pager.acquire(handle, tile, Access::sweep).view()));
    }
  const Counters c = pager.counters();
  check_sums(pager, n_lookups + 3 * steps.size());
  VX_CHECK(c.page_faults <= n_lookups);  // the sweep itself was read ahead all the time
  const uint64_t before = pager.counters().hits;
  static_cast<void>(pager.acquire(kEmbedding, 0, Access::lookup));
  static_cast<void>(pager.acquire(kEmbedding, 0, Access::lookup));
  VX_CHECK(pager.counters().hits > before);  // the second one finds it
}

VX_TEST(a_pin_does_not_keep_its_holder_from_another_tile) {
  const Watchdog watchdog;
  const auto file = make_model();
  for (int depth : {1, 4, 16}) {
    Pager pager(minimum_budget(*file), PolicyKind::stable, depth, 2);
    file->add_to(&pager);
    pager.start(kSweep);
    const auto steps = sweep_steps(*file, kSweep);
    for (size_t i = 0; i < 3 * steps.size(); ++i) {
      const auto [handle, tile] = steps[i % steps.size()];
      const auto held = pager.acquire(handle, tile, Access::sweep);
      const auto [other, far] = steps[(i + steps.size() / 2) % steps.size()];
      VX_CHECK(file->equal(other, far, pager.acquire(other, far, Access::lookup).view()));
      VX_CHECK(file->equal(handle, tile, held.view()));
    }
  }
}

VX_TEST(concurrent_lookups_and_sweeps_all_end) {
  const Watchdog watchdog;
  const auto file = make_model();
  Pager pager(minimum_budget(*file), PolicyKind::stable, 4, 1);
  file->add_to(&pager);
  pager.start(kSweep);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> n_lookups{0};
  std::vector<std::thread> lookups;
  for (int i = 0; i < 5; ++i)
    lookups.emplace_back([&, i] {
      std::mt19937 random(i);
      while (!stop) {
        static_cast<void>(pager.acquire(kEmbedding, random() % file->matrices()[kEmbedding].n_tiles(), Access::lookup));
        ++n_lookups;
      }
    });
  uint64_t n = 0;
  for (int i = 0; i < 5; ++i) n += run_sweep(*file, &pager, kSweep, 3);
  stop = true;
  for (auto& t : lookups) t.join();
  check_sums(pager, n + n_lookups);
}

VX_TEST(a_sweep_may_restart_anywhere) {
  const Watchdog watchdog;
  const auto file = make_model();
  const uint64_t least = minimum_budget(*file), total = total_bytes(*file);
  for (uint64_t budget : {least, total / 2, total * 9 / 10}) {
    Pager pager(budget, PolicyKind::stable, 4, 2);
    file->add_to(&pager);
    pager.start(kSweep);
    uint64_t n = 0;
    for (int i = 0; i < 10; ++i) {
      n += run_sweep(*file, &pager, {0, 1, 2}, 2);        // stopped in the middle
      n += run_sweep(*file, &pager, {0, 1, 2, 3, 4}, 1);  // without the head
      n += run_sweep(*file, &pager, {4, 1}, 4);           // out of order
    }
    check_sums(pager, n);
    for (int i = 0; i < 6; ++i) run_sweep(*file, &pager, kSweep, 1);
    pager.reset_counters();
    for (int i = 0; i < 3; ++i) run_sweep(*file, &pager, kSweep, 1);
    // It found its way back, but for residents that still change places after all that.
    VX_CHECK(pager.counters().page_faults <= 6u);
  }
}

VX_TEST(an_abandoned_sweep_costs_one_page_fault) {
  const Watchdog watchdog;
  TileFile file;
  for (int i = 0; i < 5; ++i) file.add({64 * 40, 64, 1});
  file.write();
  Pager pager(total_bytes(file) / 4, PolicyKind::stable, 4, 2);
  file.add_to(&pager);
  pager.start({0, 1, 2, 3, 4});
  for (int i = 0; i < 4; ++i) {
    run_sweep(file, &pager, {0, 1, 2, 3}, 1);  // a prefill chunk: the head is not needed
    VX_CHECK(pager.counters().page_faults <= static_cast<uint64_t>(i));
  }
}

VX_TEST(closing_in_flight) {
  const Watchdog watchdog;
  const auto file = make_model();
  for (int i = 0; i < 60; ++i) {
    const uint64_t budget = i % 2 ? total_bytes(*file) : minimum_budget(*file);
    Pager pager(budget, PolicyKind::stable, 4, 3);
    file->add_to(&pager);
    pager.start(kSweep);
    std::vector<std::thread> workers;
    for (int w = 0; w < 3 && i % 3; ++w)
      workers.emplace_back([&, w] {
        try {
          for (int k = 0; k < 100000; ++k)
            for (const auto& [handle, tile] : sweep_steps(*file, kSweep)) {
              const auto pin = pager.acquire(handle, tile, w ? Access::sweep : Access::lookup);
              VX_CHECK(file->equal(handle, tile, pin.view()));
            }
        } catch (const vx::ArgumentError&) {
        }
      });
    std::this_thread::sleep_for(std::chrono::microseconds(37 * i));
    pager.close();
    for (auto& t : workers) t.join();
    VX_CHECK_THROWS(pager.acquire(0, 0, Access::sweep), vx::ArgumentError, {});
    VX_CHECK_EQ(pager.counters().held_bytes, 0u);
  }
}

VX_TEST(wrong_calls_are_refused) {
  const auto file = make_model();
  VX_CHECK_THROWS(Pager(1, PolicyKind::stable, -1, 2), vx::ArgumentError, {});
  VX_CHECK_THROWS(Pager(1, PolicyKind::stable, 4, 0), vx::ArgumentError, {});
  Pager pager(total_bytes(*file), PolicyKind::stable, 4, 2);
  VX_CHECK_THROWS(pager.add_file("/nowhere/shard"), vx::MachineFailure, {});
  file->add_to(&pager);
  VX_CHECK_THROWS(pager.acquire(0, 0, Access::sweep), vx::ArgumentError, {});
  VX_CHECK_THROWS(pager.start({0, 1, 0}), vx::ArgumentError, {});
  VX_CHECK_THROWS(pager.start({99}), vx::ArgumentError, {});
  pager.start(kSweep);
  VX_CHECK_THROWS(pager.start(kSweep), vx::ArgumentError, {});
  VX_CHECK_THROWS(pager.acquire(0, 999, Access::sweep), vx::ArgumentError, {});
  VX_CHECK_THROWS(pager.acquire(-1, 0, Access::sweep), vx::ArgumentError, {});
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
