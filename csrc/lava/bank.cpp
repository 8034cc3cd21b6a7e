#include "lava/bank.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "common/errors.h"
#include "lava/maintain.h"

namespace vx {
namespace {

constexpr int64_t kBatch = 64;
constexpr int64_t kMaxDim = 4096, kMaxSlots = int64_t{1} << 30, kMaxLists = 65536;
// Below this many blocks of 64 lists waking other threads costs more than the work.
constexpr int64_t kBlocksPerShare = 4;

[[noreturn]] void fail(const char* op, const std::string& rule, const std::string& value) {
  throw ArgumentError(std::string("[") + op + "] " + rule + ", got " + value);
}

void check_size(const char* name, int64_t value, int64_t largest) {
  if (value < 1 || value > largest)
    fail("lava_bank", std::string(name) + " must be from 1 to " + std::to_string(largest), std::to_string(value));
}

void check_length(const char* op, const char* name, size_t got, size_t wanted) {
  if (got != wanted)
    fail(op, std::string(name) + " must have " + std::to_string(wanted) + " elements", std::to_string(got));
}

const BankOptions& checked(const BankOptions& o) {
  check_size("dim", o.dim, kMaxDim);
  check_size("value_dim", o.value_dim, kMaxDim);
  check_size("capacity", o.capacity, kMaxSlots);
  check_size("nlist", o.n_lists, kMaxLists);
  if (!(o.ema >= 0.0 && o.ema <= 1.0)) fail("lava_bank", "ema must be from 0 to 1", std::to_string(o.ema));
  if (!(o.half_life > 0.0)) fail("lava_bank", "half_life must be above 0 positions", std::to_string(o.half_life));
  return o;
}

BankOptions stored(BankOptions options, const Basis& keys, const Basis& values) {
  options.dim = keys.rank();
  options.value_dim = values.rank();
  return options;
}

double priority(const BankOptions& o, float importance, int64_t position) {
  return static_cast<double>(importance) + static_cast<double>(position) / o.half_life;
}

}  // namespace

const LavaOps& lava_ops(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return avx512::kLavaOps;
  if (level == Simd::avx2) return avx2::kLavaOps;
#elif defined(__aarch64__)
  if (level == Simd::neon) return neon::kLavaOps;
#endif
  (void)level;
  return scalar::kLavaOps;
}

void check_magnitudes(const char* op, const char* name, std::span<const float> values, int64_t width) {
  // One pass that a compiler makes vectors of; the place is looked for only where there is one.
  bool fits = true;
  for (const float x : values) fits = fits && std::fabs(x) <= kLavaLargest;
  if (fits) return;
  const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !(std::fabs(x) <= kLavaLargest); });
  const int64_t at = bad - values.begin();
  fail(op, std::string(name) + " must be finite and at most 65504 in magnitude",
       std::to_string(*bad) + " at [" + std::to_string(at / width) + ", " + std::to_string(at % width) + "]");
}

LavaBank::LavaBank(const BankOptions& options, Simd level, std::vector<float> key_basis, std::vector<float> value_basis)
    : keys_("key_basis", std::move(key_basis), checked(options).dim),
      values_("value_basis", std::move(value_basis), options.value_dim),
      store_(stored(options, keys_, values_), lava_ops(level)) {}

void LavaBank::check(const BankRows& rows, size_t n_ids) const {
  constexpr const char* kOp = "insert";
  check_length(kOp, "keys", rows.keys.size(), n_ids * static_cast<size_t>(keys_.dim()));
  check_length(kOp, "values", rows.values.size(), n_ids * static_cast<size_t>(values_.dim()));
  check_length(kOp, "positions", rows.positions.size(), n_ids);
  check_length(kOp, "importance", rows.importance.size(), n_ids);
  check_magnitudes(kOp, "keys", rows.keys, keys_.dim());
  check_magnitudes(kOp, "values", rows.values, values_.dim());
  check_magnitudes(kOp, "importance", rows.importance, 1);
  for (const int64_t position : rows.positions)
    if (position < 0 || position > int64_t{1} << 52)
      fail(kOp, "positions must be from 0 to 2^52", std::to_string(position));
}

void LavaBank::insert(Pool& pool, const BankRows& rows, std::span<int64_t> ids) {
  check(rows, ids.size());
  const auto n = static_cast<int64_t>(ids.size());
  const std::vector<float> keys = keys_.coordinates(store_.ops, rows.keys.data(), n),
                           values = values_.coordinates(store_.ops, rows.values.data(), n);
  check_magnitudes("insert", "keys in their basis", keys, keys_.rank());
  check_magnitudes("insert", "values in their basis", values, values_.rank());
  const BankRows stored_rows{keys, values, rows.positions, rows.importance};
  const std::unique_lock lock(mutex_);
  for (int64_t first = 0; first < n; first += kBatch) {
    const auto start = std::chrono::steady_clock::now();
    insert_batch(pool, stored_rows, first, std::min(kBatch, n - first), ids.data() + first);
    maintain(store_, std::min(kBatch, n - first));
    const std::chrono::duration<double> pause = std::chrono::steady_clock::now() - start;
    longest_pause_s_ = std::max(longest_pause_s_, pause.count());
  }
}

void LavaBank::insert_batch(Pool& pool, const BankRows& rows, int64_t first, int64_t n, int64_t* ids) {
  const BankOptions& o = store_.options;
  const auto count = static_cast<size_t>(n);
  std::vector<float> keys(count * static_cast<size_t>(o.dim)), value(static_cast<size_t>(o.value_dim));
  std::vector<uint16_t> units(count * static_cast<size_t>(store_.key_units)),
      value_units(static_cast<size_t>(store_.value_units));
  std::vector<float> scales(count);
  for (int64_t i = 0; i < n; ++i) {
    uint16_t* of_key = units.data() + i * store_.key_units;
    const float scale = encode(o.contents, Use::key, rows.keys.data() + (first + i) * o.dim, o.dim, of_key);
    scales[static_cast<size_t>(i)] = scale;
    store_.decode_key(of_key, scale, keys.data() + i * o.dim);
  }
  if (store_.counters().n_alive == 0) {
    store_.add_list(keys.data());
    store_.refresh();
  }

  const int64_t n_blocks = store_.n_lane_blocks();
  std::vector<float> best(static_cast<size_t>(n_blocks * n), -std::numeric_limits<float>::infinity());
  std::vector<int32_t> nearest(best.size(), -1);
  const auto assign = [&](int64_t block, int) {
    store_.ops.assign(store_.directions().block(block), store_.bias() + block * kLavaLanes, keys.data(), n, o.dim,
                      static_cast<int32_t>(block * kLavaLanes), best.data() + block * n, nearest.data() + block * n);
  };
  if (n_blocks < 2 * kBlocksPerShare)
    for (int64_t block = 0; block < n_blocks; ++block) assign(block, 0);
  else
    pool.threads.for_each(n_blocks, assign);

  for (int64_t i = 0; i < n; ++i) {
    int64_t winner = i;
    for (int64_t block = 1; block < n_blocks; ++block)
      if (best[static_cast<size_t>(block * n + i)] > best[static_cast<size_t>(winner)]) winner = block * n + i;
    const int32_t to = nearest[static_cast<size_t>(winner)];
    if (store_.counters().n_live == o.capacity) erase(store_.lowest());
    const int32_t id = store_.take_slot();
    const float scale =
        encode(o.contents, Use::value, rows.values.data() + (first + i) * o.value_dim, o.value_dim, value_units.data());
    store_.decode_value(value_units.data(), scale, value.data());
    store_.set_value(id, value_units.data(), scale);
    Slot& slot = store_.change_slot(id);
    slot.position = rows.positions[static_cast<size_t>(first + i)];
    slot.importance = rows.importance[static_cast<size_t>(first + i)];
    slot.priority = priority(o, slot.importance, slot.position);
    store_.enter_order(id);
    const float* key = keys.data() + i * o.dim;
    store_.put(to, id, units.data() + i * store_.key_units, scales[static_cast<size_t>(i)], key, value.data());
    List& list = store_.change_list(to);
    const auto rate = static_cast<float>(std::max(1.0 / list.head.count, o.ema));
    for (int64_t j = 0; j < o.dim; ++j) list.centroid[j] += rate * (key[j] - list.centroid[j]);
    ids[i] = id;
  }
  store_.refresh();
}

void LavaBank::erase(int32_t id) {
  std::vector<float> key(static_cast<size_t>(store_.options.dim)), value(static_cast<size_t>(store_.options.value_dim));
  store_.key_of(id, key.data());
  store_.value_of(id, value.data());
  store_.take_out(id, key.data(), value.data());
  store_.release_slot(id);
}

void LavaBank::check_ids(std::span<const int64_t> ids, const char* op) const {
  for (const int64_t id : ids)
    if (!store_.is_live(id)) fail(op, "ids must be of slots in use", std::to_string(id));
}

void LavaBank::remove(std::span<const int64_t> ids) {
  const std::unique_lock lock(mutex_);
  check_ids(ids, "remove");
  std::vector<int64_t> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    fail("remove", "ids must differ", std::to_string(*twice) + " twice");
  for (const int64_t id : ids) erase(static_cast<int32_t>(id));
  store_.refresh();
}

void LavaBank::set_importance(std::span<const int64_t> ids, std::span<const float> importance) {
  check_length("set_importance", "importance", importance.size(), ids.size());
  check_magnitudes("set_importance", "importance", importance, 1);
  const std::unique_lock lock(mutex_);
  check_ids(ids, "set_importance");
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<int32_t>(ids[i]);
    Slot& slot = store_.change_slot(id);
    slot.importance = importance[i];
    slot.priority = priority(store_.options, slot.importance, slot.position);
    store_.reorder(id);
  }
}

int64_t LavaBank::begin() {
  const std::unique_lock lock(mutex_);
  return store_.begin();
}

void LavaBank::commit(int64_t mark) {
  const std::unique_lock lock(mutex_);
  store_.commit(mark);
}

void LavaBank::rollback(int64_t mark) {
  const std::unique_lock lock(mutex_);
  store_.rollback(mark);
}

BankStats LavaBank::stats() const {
  const std::shared_lock lock(mutex_);
  const Counters& c = store_.counters();
  return {c.n_live, c.n_alive, c.n_splits, c.n_merges, c.n_moves, longest_pause_s_};
}

int64_t LavaBank::n_bytes() const {
  const std::shared_lock lock(mutex_);
  return store_.n_bytes();
}

}  // namespace vx
