// What the policies promise: which bytes stay, and how many a sweep reads beside the best possible.
#include <cmath>
#include <cstring>
#include <vector>

#include "c3/pager.h"
#include "c3/policy.h"
#include "tests/check.h"
#include "tests/pager_runs.h"
#include "tests/tile_files.h"

namespace {

using namespace vx;
using namespace vx::test;

// A sweep finds at most budget bytes in RAM, so no policy reads less than the rest of its bytes, Belady's included.
VX_TEST(cyclic_sweeps_read_what_the_budget_cannot_hold) {
  const Watchdog watchdog;
  TileFile file;
  for (int i = 0; i < 5; ++i) file.add({64 * 180, 256, 1});
  file.write();
  const std::vector<int> sweep = {0, 1, 2, 3, 4};
  const uint64_t total = total_bytes(file), tile = total / 900;
  for (int percent : {25, 50, 75, 90}) {
    Pager pager(total * percent / 100, PolicyKind::stable, 4, 2);
    file.add_to(&pager);
    pager.start(sweep);
    run_sweep(file, &pager, sweep, 1);
    pager.reset_counters();
    for (int i = 0; i < 4; ++i) run_sweep(file, &pager, sweep, 1);
    const Counters c = pager.counters();
    const uint64_t missing = total - total * percent / 100;
    VX_CHECK(c.bytes_compressed_read >= 4 * (missing - tile));
    // The last sweep also reads ahead for a fifth one.
    VX_CHECK(c.bytes_compressed_read <= 4 * missing * 102 / 100 + 4 * tile);
    VX_CHECK_EQ(c.page_faults, 0u);
    VX_CHECK_EQ(c.hits, 4 * static_cast<uint64_t>(c.n_resident_tiles));
    VX_CHECK_EQ(c.n_kept_prefixes, percent < 50 ? int64_t{0} : c.n_tiles);
    check_sums(pager, 4 * 900);
  }
}

VX_TEST(kept_prefixes_are_read_once_and_lent_alone) {
  const Watchdog watchdog;
  TileFile file;
  file.add({64 * 100, 128, 1});
  file.add({64 * 10, 64, 1, 0, vx::Codec::raw});
  file.write();
  const uint64_t total = total_bytes(file);
  Pager pager(total * 6 / 10, PolicyKind::stable, 0, 2);  // nothing is read ahead: bytes are exact
  file.add_to(&pager);
  pager.start({0, 1});
  // Not read yet: the whole tile comes.
  VX_CHECK(file.equal(0, 0, pager.acquire_prefix(0, 0).view()));
  run_sweep(file, &pager, {0, 1}, 2);
  run_sweep(file, &pager, {0, 1}, 2);
  const Counters before = pager.counters();
  VX_CHECK(before.n_kept_prefixes > 0);
  int64_t n_alone = 0;
  for (int64_t t = 0; t < 100; ++t) {
    const auto pin = pager.acquire_prefix(0, t);
    const auto& prefix = file.matrices()[0].tiles[t].prefix;
    VX_CHECK(std::memcmp(pin.view().prefix, prefix.data(), prefix.size()) == 0);
    n_alone += pin.view().residual == nullptr;
  }
  // Residents are lent whole: they need no lock.
  VX_CHECK(n_alone > 0 && n_alone >= before.n_kept_prefixes - before.n_resident_tiles);
  const Counters after = pager.counters();
  VX_CHECK_EQ(after.bytes_compressed_read, before.bytes_compressed_read);
  VX_CHECK_EQ(after.hits, before.hits + 100);
  VX_CHECK(file.equal(1, 0, pager.acquire_prefix(1, 0).view()));  // raw: there is no residual to leave out
}

// Drafts between the tiles of a sweep: it finds what was read ahead for it, as if there were none.
VX_TEST(prefixes_are_lent_beside_the_sweep) {
  const Watchdog watchdog;
  TileFile file;
  for (int i = 0; i < 3; ++i) file.add({64 * 120, 256, 1});
  file.write();
  const std::vector<int> sweep = {0, 1, 2};
  const uint64_t total = total_bytes(file), tile = total / 360;
  for (int percent : {60, 80}) {
    Pager pager(total * percent / 100, PolicyKind::stable, 4, 2);
    file.add_to(&pager);
    pager.start(sweep);
    run_sweep(file, &pager, sweep, 1);
    pager.reset_counters();
    const auto draft = [&](int matrix, int64_t t) {
      const auto pin = pager.acquire_prefix(matrix, t);
      const auto& prefix = file.matrices()[matrix].tiles[t].prefix;
      VX_CHECK(std::memcmp(pin.view().prefix, prefix.data(), prefix.size()) == 0);
    };
    uint64_t n_drafted = 0;
    for (int i = 0; i < 4; ++i)
      for (int matrix : sweep)
        for (int64_t t = 0; t < 120; ++t) {
          for (int64_t d = 0; d < 120; d += 7, ++n_drafted) draft((matrix + 1) % 3, d);
          VX_CHECK(file.equal(matrix, t, pager.acquire(matrix, t, Access::sweep).view()));
        }
    const Counters c = pager.counters();
    const uint64_t missing = total - total * percent / 100;
    VX_CHECK_EQ(c.page_faults, 0u);
    VX_CHECK(c.bytes_compressed_read <= 4 * missing * 102 / 100 + 4 * tile);
    VX_CHECK_EQ(c.hits, n_drafted + 4 * static_cast<uint64_t>(c.n_resident_tiles));
    VX_CHECK(!c.follows_recency);
    VX_CHECK_EQ(c.n_kept_prefixes, c.n_tiles);
  }
}

VX_TEST(lru_misses_every_tile_of_a_cyclic_sweep) {
  const Watchdog watchdog;
  TileFile file;
  file.add({64 * 40, 128, 1});
  file.write();
  const uint64_t total = total_bytes(file);
  Pager pager(total * 9 / 10, PolicyKind::lru, 4, 2);
  file.add_to(&pager);
  pager.start({0});
  for (int i = 0; i < 3; ++i) run_sweep(file, &pager, {0}, 1);
  const Counters c = pager.counters();
  VX_CHECK_EQ(c.hits + c.prefetch_hits, 0u);
  VX_CHECK_EQ(c.page_faults, 120u);
  VX_CHECK_EQ(c.evictions, 120u - 36u);
  VX_CHECK_EQ(c.bytes_compressed_read, 3 * total);
  // What was used last is still there, the tile before the oldest kept one is not.
  static_cast<void>(pager.acquire(0, 39, Access::lookup));
  static_cast<void>(pager.acquire(0, 4, Access::lookup));
  VX_CHECK_EQ(pager.counters().hits, 2u);
  static_cast<void>(pager.acquire(0, 3, Access::lookup));
  VX_CHECK_EQ(pager.counters().page_faults, 121u);
}

VX_TEST(missing_tiles_are_spread_evenly) {
  std::vector<uint64_t> stored(200, 8192);
  std::vector<int64_t> sweep(200);
  for (int64_t i = 0; i < 200; ++i) sweep[i] = i;
  const auto policy = vx::make_policy(PolicyKind::stable);
  for (uint64_t percent : {20, 40, 60, 90}) {
    const vx::ResidencyPlan plan =
        policy->plan({200 * 8192 * percent / 100, stored, std::vector<uint64_t>(200, 0), sweep, {}, 4});
    VX_CHECK(plan.resident_bytes + plan.n_slots * plan.slot_bytes <= 200 * 8192 * percent / 100);
    const double share = static_cast<double>(plan.resident_bytes) / (200 * 8192);
    double kept = 0;
    for (int i = 0; i < 200; ++i) {
      kept += plan.resident[i];
      VX_CHECK(std::abs(kept - share * (i + 1)) <= 1.0);
    }
  }
}

VX_TEST(what_drafts_want_whole_stays_first_if_it_leaves_half_of_the_room) {
  const std::vector<uint64_t> stored(200, 8192), prefixes(200, 4096), none(200, 0);
  std::vector<int64_t> sweep(200);
  for (int64_t i = 0; i < 200; ++i) sweep[i] = i;
  const auto policy = vx::make_policy(PolicyKind::stable);
  const uint64_t budget = 200 * 8192 * 75 / 100;
  const auto n_whole = [&](const std::vector<uint64_t>& prefix_bytes, int64_t n_drafted) {
    const std::vector<int64_t> drafted(sweep.end() - n_drafted, sweep.end());
    const vx::ResidencyPlan plan = policy->plan({budget, stored, prefix_bytes, sweep, drafted, 4});
    VX_CHECK(plan.resident_bytes + plan.n_slots * plan.slot_bytes <= budget);
    int64_t kept = 0, n_resident = 0;
    for (int64_t t = 0; t < 200; ++t) {
      n_resident += plan.resident[t];
      kept += plan.resident[t] && t >= 200 - n_drafted;
    }
    VX_CHECK(n_resident > 90 * (prefix_bytes[0] > 0));
    return kept;
  };
  VX_CHECK_EQ(n_whole(prefixes, 40), 40);
  VX_CHECK(n_whole(prefixes, 80) < 50);  // too many: they have their share, as all
  VX_CHECK(n_whole(none, 40) < 40);      // no prefixes are kept, so drafts read it all anyway
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
