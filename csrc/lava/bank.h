// The memory of a LAVA layer: keys, values, positions and importance of slots, in lists around centroids that follow
// what arrives. Several threads may read at once; a writer waits for them. Results are a function of the calls alone.
#pragma once

#include <cstdint>
#include <shared_mutex>
#include <span>

#include "common/pool.h"
#include "lava/basis.h"
#include "lava/fair_mutex.h"
#include "lava/store.h"

namespace vx {

const LavaOps& lava_ops(Simd level);

struct BankRows {
  std::span<const float> keys, values;  // [n, dim], [n, value_dim]
  std::span<const int64_t> positions;   // [n]
  std::span<const float> importance;    // [n]
};

struct BankStats {
  int64_t n_slots, n_lists, n_splits, n_merges, n_moves;
  double longest_pause_s;  // of an insert's batches of 64
};

class LavaBank {
 public:
  // Throws ArgumentError, as everything here does for an argument that breaks a rule.
  // key_basis [rank, options.dim] and value_basis: where keys and values are stored in coordinates; empty for neither.
  LavaBank(const BankOptions& options, Simd level, std::vector<float> key_basis = {},
           std::vector<float> value_basis = {});

  // Assigns batches of 64 rows to the nearest centroids, appends them in order, and does some maintenance after
  // each. A full bank gives up the slot with the lowest importance + position / half_life. ids: [n].
  void insert(Pool& pool, const BankRows& rows, std::span<int64_t> ids);
  void remove(std::span<const int64_t> ids);
  void set_importance(std::span<const int64_t> ids, std::span<const float> importance);

  int64_t begin();
  void commit(int64_t mark);
  void rollback(int64_t mark);

  BankStats stats() const;
  int64_t n_bytes() const;

  // dim() of each is that of what callers give and get.
  const Basis& keys() const { return keys_; }
  const Basis& values() const { return values_; }

  // For who holds the lock.
  const Store& store() const { return store_; }
  Store& store() { return store_; }
  FairSharedMutex& mutex() const { return mutex_; }

 private:
  void check(const BankRows& rows, size_t n_ids) const;
  void check_ids(std::span<const int64_t> ids, const char* op) const;
  void insert_batch(Pool& pool, const BankRows& rows, int64_t first, int64_t n, int64_t* ids);
  void erase(int32_t id);

  Basis keys_, values_;
  Store store_;
  mutable FairSharedMutex mutex_;
  double longest_pause_s_ = 0.0;
};

// Throws ArgumentError naming row and column where a value of [n, width] is not finite or above kLavaLargest.
void check_magnitudes(const char* op, const char* name, std::span<const float> values, int64_t width);

}  // namespace vx
