#include "lava/query.h"

#include <algorithm>
#include <cmath>

namespace vx {
namespace {

// Largest level of a query such that the sum of dim products with bytes stays within 32 bits.
int32_t most_levels(int64_t dim) { return static_cast<int32_t>(std::min<int64_t>(32767, INT32_MAX / (127 * dim))); }

}  // namespace

PreparedQuery::PreparedQuery(Contents kind, const float* x, int64_t dim) : values_(x) {
  if (kind == Contents::fp16) return;
  float largest = 0.0f;
  for (int64_t j = 0; j < dim; ++j) largest = std::max(largest, std::fabs(x[j]));
  const auto levels = static_cast<float>(most_levels(dim));
  scale_ = largest / levels;
  const auto level = [&](int64_t j) -> uint32_t {
    if (j >= dim || scale_ == 0.0f) return 0;
    const float nearest = std::clamp(std::nearbyint(x[j] / scale_), -levels, levels);
    return static_cast<uint32_t>(static_cast<int32_t>(nearest)) & 0xffff;
  };
  pairs_.resize(static_cast<size_t>(units_of(kind, dim)));
  for (size_t u = 0; u < pairs_.size(); ++u) {
    const auto j = static_cast<int64_t>(2 * u);
    pairs_[u] = static_cast<int32_t>(level(j) | level(j + 1) << 16);
  }
}

void PreparedQuery::score(const Store& store, const KeyBlock& block, float* out) const {
  const LavaQuery query{values_, pairs_.data(), scale_};
  const auto kernel = store.options.contents == Contents::fp16 ? store.ops.score_half : store.ops.score_int8;
  kernel(block.units(), block.scales, query, store.key_units, out);
}

}  // namespace vx
