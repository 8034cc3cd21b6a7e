// LAVA banks on arrays that end where their memory ends, so that the sanitizers see every read and write outside them:
// equal bits for every SIMD level and thread count, whatever was done and undone in between.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/errors.h"
#include "lava/bank.h"
#include "lava/maintain.h"
#include "lava/state.h"
#include "ops/lava_search.h"
#include "tests/check.h"

namespace {

using vx::LavaBank;
using Floats = std::vector<float>;

struct Case {
  int64_t dim, value_dim, capacity, n_lists;
  vx::Contents contents;
};

const Case kCases[] = {{1, 1, 70, 2, vx::Contents::fp16},     {17, 3, 700, 12, vx::Contents::fp16},
                       {64, 33, 800, 16, vx::Contents::fp16}, {1, 2, 70, 2, vx::Contents::int8},
                       {17, 16, 700, 12, vx::Contents::int8}, {31, 5, 900, 70, vx::Contents::int8},
                       {75, 12, 700, 12, vx::Contents::bit2}};

vx::BankOptions options(const Case& c) { return {c.dim, c.value_dim, c.capacity, c.n_lists, c.contents, 0.01, 300.0}; }

Floats draw(std::mt19937& bits, int64_t n) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Floats values(static_cast<size_t>(n));
  for (float& x : values) x = uniform(bits);
  return values;
}

void insert(LavaBank& bank, vx::Pool& pool, std::mt19937& bits, int64_t n, int64_t position) {
  const vx::BankOptions& o = bank.store().options;
  const Floats keys = draw(bits, n * o.dim), values = draw(bits, n * o.value_dim), importance = draw(bits, n);
  std::vector<int64_t> positions(static_cast<size_t>(n)), ids(positions);
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = position + static_cast<int64_t>(i);
  bank.insert(pool, {keys, values, positions, importance}, ids);
}

void remove_some(LavaBank& bank, std::mt19937& bits) {
  std::vector<int64_t> ids;
  for (int64_t id = 0; id < bank.store().counters().n_slots; ++id)
    if (bank.store().is_live(id) && bits() % 3 == 0) ids.push_back(id);
  bank.remove(ids);
}

// Fills the bank beyond its capacity, with drafts that are taken back.
void work(LavaBank& bank, vx::Pool& pool) {
  std::mt19937 bits(1), drafted(2);
  for (int64_t round = 0; round < 8; ++round) {
    insert(bank, pool, bits, 1 + bank.store().options.capacity / 6, 1000 * round);
    const int64_t mark = bank.begin();
    insert(bank, pool, drafted, 80, 1000 * round + 500);
    remove_some(bank, drafted);
    bank.rollback(mark);
    if (round % 4 == 1) remove_some(bank, bits);
  }
}

// Every slot is where its list says, blocks are full but the last, and a block decodes to its keys.
void check_lists(const LavaBank& bank) {
  const vx::Store& store = bank.store();
  const int64_t dim = store.options.dim;
  Floats lanes(static_cast<size_t>(dim * vx::kLavaLanes)), key(static_cast<size_t>(dim));
  int64_t n_slots = 0;
  for (int32_t i = 0; i < store.counters().n_lists; ++i) {
    const vx::ListHead& head = store.list(i).head;
    int64_t left = head.count;
    int32_t previous = -1;
    for (int32_t b = head.first; b >= 0; previous = b, b = store.block(b).next, left -= vx::kLavaLanes) {
      VX_CHECK(left > 0);
      VX_CHECK_EQ(store.block(b).previous, previous);
      store.decode_block(store.block(b), lanes.data());
      for (int64_t lane = 0; lane < std::min(left, vx::kLavaLanes); ++lane, ++n_slots) {
        const int32_t id = store.block(b).ids[lane];
        const vx::Slot& slot = store.slot(id);
        VX_CHECK(slot.list == i && slot.block == b && slot.lane == lane);
        store.key_of(id, key.data());
        for (int64_t j = 0; j < dim; ++j)
          VX_CHECK_EQ(lanes[static_cast<size_t>(j * vx::kLavaLanes + lane)], key[static_cast<size_t>(j)]);
      }
    }
    VX_CHECK(left <= 0);
    VX_CHECK_EQ(head.last, previous);
  }
  VX_CHECK_EQ(n_slots, store.counters().n_live);
}

struct Answers {
  std::vector<int64_t> ids;
  Floats scores, out, bound;
};

Answers ask(const LavaBank& bank, vx::Pool& pool, int64_t first, int64_t n) {
  const vx::BankOptions& o = bank.store().options;
  constexpr int64_t kQueries = 6, kBest = 20, kRecent = 70;
  std::mt19937 bits(3);
  const Floats all = draw(bits, kQueries * o.dim), keys = draw(bits, kRecent * o.dim),
               values = draw(bits, kRecent * o.value_dim), scales(static_cast<size_t>(n), 5.0f);
  const Floats queries(all.begin() + first * o.dim, all.begin() + (first + n) * o.dim);
  std::vector<int64_t> ranges;
  for (int64_t i = first; i < first + n; ++i) ranges.insert(ranges.end(), {9 * i, 70 - i});
  Answers a{std::vector<int64_t>(static_cast<size_t>(n * kBest)), Floats(static_cast<size_t>(n * kBest)),
            Floats(static_cast<size_t>(n * o.value_dim)), Floats(static_cast<size_t>(n))};
  const int64_t n_probe = std::min<int64_t>(o.n_lists, 5);
  vx::lava_search(pool, bank, queries, n_probe, kBest, a.ids, a.scores);
  vx::lava_read(pool, bank, {queries, scales, n_probe, kBest, true, keys, values, ranges}, a.out, a.bound);
  return a;
}

template <class T>
void check_bits(const std::vector<T>& got, const T* wanted, const char* what) {
  if (!got.empty() && std::memcmp(got.data(), wanted, got.size() * sizeof(T)) != 0)
    vx::test::fail(__FILE__, __LINE__, std::string("other bits: ") + what);
}

void check_state(const LavaBank& got, const vx::BankState& wanted) {
  const vx::BankState state = vx::bank_state(got);
  VX_CHECK(state.lists == wanted.lists && state.places == wanted.places && state.free_slots == wanted.free_slots);
  VX_CHECK(state.keys == wanted.keys && state.values == wanted.values && state.positions == wanted.positions);
  VX_CHECK(state.merge_with == wanted.merge_with && state.n_stirred == wanted.n_stirred);
  check_bits(state.split_gains, wanted.split_gains.data(), "gains of splits");
  check_bits(state.merge_costs, wanted.merge_costs.data(), "costs of merges");
  VX_CHECK(state.jobs == wanted.jobs && state.history == wanted.history && state.is_alive == wanted.is_alive);
  check_bits(state.centroids, wanted.centroids.data(), "centroids");
  check_bits(state.key_sums, wanted.key_sums.data(), "sums of keys");
  check_bits(state.value_sums, wanted.value_sums.data(), "sums of values");
  check_bits(state.key_radii, wanted.key_radii.data(), "radii");
}

VX_TEST(equal_bits_for_every_level_and_thread_count) {
  for (const Case& c : kCases) {
    vx::BankState wanted;
    Answers answers;
    for (const vx::Simd level : vx::simd_available())
      for (const int threads : {1, 3}) {
        vx::Pool pool(threads, level);
        LavaBank bank(options(c), level);
        work(bank, pool);
        check_lists(bank);
        const Answers got = ask(bank, pool, 0, 6);
        if (answers.out.empty()) {
          wanted = vx::bank_state(bank);
          answers = got;
        }
        check_state(bank, wanted);
        VX_CHECK(got.ids == answers.ids);
        check_bits(got.scores, answers.scores.data(), "scores");
        check_bits(got.out, answers.out.data(), "reads");
        check_bits(got.bound, answers.bound.data(), "bounds");
        for (int64_t i = 0; i < 6; ++i) {
          const Answers one = ask(bank, pool, i, 1);
          check_bits(one.scores, answers.scores.data() + i * 20, "scores of one query");
          check_bits(one.out, answers.out.data() + i * c.value_dim, "a read of one query");
        }
      }
  }
}

VX_TEST(a_bank_made_from_its_state_goes_on_as_it_did) {
  for (const Case& c : kCases) {
    const vx::Simd level = vx::simd_available().front();
    vx::Pool pool(2, level);
    LavaBank bank(options(c), level);
    work(bank, pool);
    const auto other = vx::make_bank(options(c), level, vx::bank_state(bank));
    check_state(*other, vx::bank_state(bank));
    work(bank, pool);
    work(*other, pool);
    check_state(*other, vx::bank_state(bank));
  }
}

// Keys around centres, every batch of 64 around others: lists are full of what came before.
Floats around(std::mt19937& bits, int64_t dim, int64_t batch) {
  std::mt19937 placed(static_cast<uint32_t>(batch / 4));
  const Floats centres = draw(placed, 8 * dim);
  Floats keys = draw(bits, 64 * dim);
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / dim;
    keys[i] = 0.2f * keys[i] + centres[static_cast<size_t>(row % 8 * dim + static_cast<int64_t>(i) % dim)];
  }
  return keys;
}

double sum_of_scores(const LavaBank& bank) {
  double sum = 0.0;
  for (int32_t i = 0; i < bank.store().counters().n_lists; ++i) {
    const vx::List& list = bank.store().list(i);
    double square = 0.0;
    for (int64_t j = 0; j < bank.store().options.dim; ++j) square += list.key_sum[j] * list.key_sum[j];
    if (list.head.is_alive != 0) sum += std::sqrt(square);
  }
  return sum;
}

// Work is what a step may do before the next row: bursts would be pauses.
VX_TEST(maintenance_never_owes_more_than_one_step) {
  for (const vx::Contents contents : {vx::Contents::fp16, vx::Contents::int8, vx::Contents::bit2}) {
    const vx::BankOptions o{32, 4, 20000, 16, contents, 0.0, 1e9};
    const vx::Simd level = vx::simd_available().front();
    vx::Pool pool(1, level);
    LavaBank bank(o, level);
    std::mt19937 bits(5);
    // A few rows at a time: what they pay for is less than a step.
    constexpr int64_t kRows = 8;
    std::vector<int64_t> positions(kRows), ids(kRows);
    const Floats values(kRows * 4), importance(kRows);
    int64_t n_moves = 0;
    for (int64_t batch = 0; batch < 100; ++batch) {
      const Floats keys = around(bits, o.dim, batch);
      for (int64_t row = 0; row < 64; row += kRows) {
        const std::span<const float> few(keys.data() + row * o.dim, static_cast<size_t>(kRows * o.dim));
        bank.insert(pool, {few, values, positions, importance}, ids);
        const vx::Counters& c = bank.store().counters();
        VX_CHECK(c.credit > -vx::longest_step(o));
        n_moves = c.n_moves;
      }
    }
    VX_CHECK(bank.stats().n_merges > 0 && bank.stats().n_splits > 15 && n_moves > 1000);
    check_lists(bank);
  }
}

// Lists that the first keys filled go to where later keys are: a merge costs less than the split it pays for gains.
VX_TEST(lists_go_where_the_keys_are) {
  const vx::BankOptions o{32, 1, 1 << 14, 16, vx::Contents::fp16, 0.0, 1e9};
  const vx::Simd level = vx::simd_available().front();
  vx::Pool pool(1, level);
  LavaBank bank(o, level);
  std::mt19937 bits(6);
  std::vector<int64_t> positions(64), ids(64);
  const Floats values(64), importance(64);
  for (int64_t batch = 0; batch < 64; ++batch)
    bank.insert(pool, {around(bits, o.dim, 0), values, positions, importance}, ids);
  VX_CHECK_EQ(bank.stats().n_lists, 16);
  const int64_t n_merges = bank.stats().n_merges;
  double length = 0.0;  // of all keys
  for (int64_t batch = 0; batch < 64; ++batch)
    bank.insert(pool, {around(bits, o.dim, 4), values, positions, importance}, ids);
  Floats key(static_cast<size_t>(o.dim));
  for (int64_t id = 0; id < bank.store().counters().n_slots; ++id) {
    bank.store().key_of(id, key.data());
    double square = 0.0;
    for (const float x : key) square += static_cast<double>(x) * static_cast<double>(x);
    length += std::sqrt(square);
  }
  VX_CHECK(bank.stats().n_merges > n_merges);
  // 16 lists for 16 centres: with the 16 of the first half and one for the others it would be two thirds.
  VX_CHECK(sum_of_scores(bank) > 0.95 * length);
}

VX_TEST(readers_see_the_bank_between_two_writes) {
  const Case c{16, 4, 2000, 16, vx::Contents::fp16};
  const vx::Simd level = vx::simd_available().front();
  vx::Pool pool(2, level), writing(1, level);
  LavaBank bank(options(c), level);
  std::mt19937 bits(4);
  insert(bank, writing, bits, 500, 0);
  const Answers before = ask(bank, pool, 0, 6);
  std::atomic<bool> stop{false};
  std::atomic<int> n_wrong{0};
  const int64_t mark = bank.begin();
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      while (!stop) {
        const Answers seen = ask(bank, pool, 0, 6);
        for (const float x : seen.out) n_wrong += !(x >= -1.0f && x <= 1.0f);
        for (const int64_t id : seen.ids) n_wrong += id < -1 || id >= c.capacity;
      }
    });
  for (int64_t round = 0; round < 20; ++round) {
    insert(bank, writing, bits, 150, 1000 + 150 * round);
    remove_some(bank, bits);
  }
  bank.rollback(mark);
  stop = true;
  for (std::thread& reader : readers) reader.join();
  VX_CHECK_EQ(n_wrong.load(), 0);
  check_bits(ask(bank, pool, 0, 6).out, before.out.data(), "reads after a rollback");
}

VX_TEST(sizes_that_do_not_fit_are_refused) {
  const vx::Simd level = vx::simd_available().front();
  vx::Pool pool(1, level);
  LavaBank bank(options(kCases[1]), level);
  std::vector<int64_t> ids(2), positions(2);
  const Floats keys(2 * 17), values(2 * 3), importance(2), few(5);
  VX_CHECK_THROWS(bank.insert(pool, {few, values, positions, importance}, ids), vx::ArgumentError, {});
  VX_CHECK_THROWS(bank.insert(pool, {keys, few, positions, importance}, ids), vx::ArgumentError, {});
  Floats out(3), bound, scores(2);
  const std::vector<int64_t> range{0, 1};
  const Floats one(17), scale(1);
  VX_CHECK_THROWS(vx::lava_search(pool, bank, one, 1, 3, ids, scores), vx::ArgumentError, {});
  VX_CHECK_THROWS(vx::lava_search(pool, bank, few, 1, 2, ids, scores), vx::ArgumentError, {});
  VX_CHECK_THROWS(vx::lava_read(pool, bank, {one, scale, 1, {}, true, {}, {}, range}, out, bound), vx::ArgumentError,
                  {});
  VX_CHECK_THROWS(vx::lava_read(pool, bank, {one, few, 1, {}, true, {}, {}, range}, out, bound), vx::ArgumentError, {});
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
