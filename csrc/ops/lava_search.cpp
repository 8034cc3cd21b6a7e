#include "ops/lava_search.h"

#include <limits>
#include <mutex>
#include <string>

#include "ops/lava_checks.h"
#include "ops/lava_scan.h"

namespace vx {

void lava_search(Pool& pool, const LavaBank& bank, std::span<const float> queries, int64_t n_probe, int64_t k,
                 std::span<int64_t> ids, std::span<float> scores) {
  constexpr const char* kOp = "lava_search";
  const std::shared_lock lock(bank.mutex());
  const Store& store = bank.store();
  const int64_t n = check_queries(kOp, bank, queries);
  check_probes(kOp, store.options, n_probe);
  check_k(kOp, k);
  check_size(kOp, "ids", ids.size(), static_cast<size_t>(n * k));
  check_size(kOp, "scores", scores.size(), static_cast<size_t>(n * k));
  const std::vector<float> coordinates = bank.keys().coordinates(store.ops, queries.data(), n);
  const auto one = [&](int64_t i, Pool* shared) {
    LavaScan scan(store, shared, coordinates.data() + i * store.options.dim, n_probe);
    const std::vector<Scored> best = scan.top(k);
    for (int64_t j = 0; j < k; ++j) {
      const bool is_found = j < static_cast<int64_t>(best.size());
      const auto at = static_cast<size_t>(i * k + j);
      ids[at] = is_found ? best[static_cast<size_t>(j)].id : -1;
      scores[at] = is_found ? best[static_cast<size_t>(j)].score : -std::numeric_limits<float>::infinity();
    }
  };
  if (n == 1)
    one(0, &pool);
  else
    pool.threads.for_each(n, [&](int64_t i, int) { one(i, nullptr); });
}

}  // namespace vx
