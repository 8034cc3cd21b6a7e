// Searching a bank and attending over it. Every result has equal bits for every thread count, SIMD level and number of
// queries in a call. See python/vortex_engine/ops/lava.py.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/pool.h"
#include "lava/bank.h"

namespace vx {

// queries [n, dim]; ids, scores [n, k]: the best k slots in the n_probe lists nearest to the query, in the order (score
// descending, id ascending); -1 and -infinity where there are fewer.
void lava_search(Pool& pool, const LavaBank& bank, std::span<const float> queries, int64_t n_probe, int64_t k,
                 std::span<int64_t> ids, std::span<float> scores);

struct LavaRead {
  std::span<const float> queries;  // [n, dim]
  std::span<const float> scales;   // [n], of the scores
  int64_t n_probe;
  std::optional<int64_t> k;                           // slots that are read; none: all of the probed lists
  bool has_tail;                                      // whether the slots that are not read are estimated
  std::span<const float> recent_keys, recent_values;  // [n_recent, dim], [n_recent, value_dim]
  std::span<const int64_t> recent_range;              // [n, 2]: the recent rows that a query reads
};

// out [n, value_dim]; bound empty, or [n]: how far out is at most from exact attention over all that the bank stores.
void lava_read(Pool& pool, const LavaBank& bank, const LavaRead& read, std::span<float> out, std::span<float> bound);

}  // namespace vx
