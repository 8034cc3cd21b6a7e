#include "lava/query.h"

#include <algorithm>
#include <cmath>

namespace vx {
namespace {

// Largest level of a query such that the sum of dim products with bytes stays within 32 bits; with 2-bit codes the
// query is bytes itself.
int32_t most_levels(Contents kind, int64_t dim) {
  return kind == Contents::bit2 ? 127 : static_cast<int32_t>(std::min<int64_t>(32767, INT32_MAX / (127 * dim)));
}

}  // namespace

PreparedQuery::PreparedQuery(Contents kind, const float* x, int64_t dim) : values_(x) {
  if (kind == Contents::fp16) return;
  float largest = 0.0f;
  for (int64_t j = 0; j < dim; ++j) largest = std::max(largest, std::fabs(x[j]));
  const auto levels = static_cast<float>(most_levels(kind, dim));
  scale_ = largest / levels;
  const auto level = [&](int64_t j) -> int32_t {
    if (j >= dim || scale_ == 0.0f) return 0;
    // To nearest, ties to even, without a call: a sum of this size has no bits below 1.
    constexpr float kToInteger = 12582912.0f;
    return static_cast<int32_t>(std::clamp((x[j] / scale_ + kToInteger) - kToInteger, -levels, levels));
  };
  const bool is_2bit = kind == Contents::bit2;
  pairs_.resize(static_cast<size_t>(units_of(kind, dim) * (is_2bit ? 4 : 1)));
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int64_t j = is_2bit ? at / 4 * 8 + at % 4 : 2 * at;
    const int32_t low = level(j), high = level(is_2bit ? j + 4 : j + 1);
    pairs_[i] = is_2bit
                    ? (low & 0xff) | (high & 0xff) << 8
                    : static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
    if (is_2bit) offset_ -= 3 * (low + high);
  }
}

double PreparedQuery::rounding(Contents kind, int64_t dim) {
  return kind == Contents::fp16 ? 0.0 : 0.5 / static_cast<double>(most_levels(kind, dim));
}

void PreparedQuery::score(const Store& store, const KeyBlock& block, float* out, const KeyBlock* next) const {
  LavaQuery query = this->query();
  if (next != nullptr) query.ahead = next->units();
  const auto kernel = store.options.contents == Contents::fp16   ? store.ops.score_half
                      : store.options.contents == Contents::int8 ? store.ops.score_int8
                                                                 : store.ops.score_2bit;
  kernel(block.units(), block.scales, query, store.key_units, out);
}

}  // namespace vx
