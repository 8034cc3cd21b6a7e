#include "lava/coarse.h"

#include <cmath>

#include "lava/contents.h"
#include "lava/query.h"
#include "lava/vectors.h"

namespace vx {
namespace {

// Below this many blocks waking other threads costs more than the work.
constexpr int64_t kBlocksToShare = 32;
constexpr float kSlack = 1.001f;  // over the roundings of the bounds themselves

}  // namespace

CoarseCentroids::CoarseCentroids(int64_t dim) : dim_(dim), units_(units_of(Contents::int8, dim)) {}

void CoarseCentroids::reach(int64_t n) {
  while (static_cast<int64_t>(blocks_.size()) * kLavaLanes < n) {
    blocks_.push_back(std::make_unique<uint16_t[]>(static_cast<size_t>(units_ * kLavaLanes)));
    for (std::vector<float>* values : {&scales_, &errors_, &lengths_}) values->resize(blocks_.size() * kLavaLanes);
  }
}

void CoarseCentroids::set(int64_t i, const float* centroid) {
  std::vector<uint16_t> units(static_cast<size_t>(units_));
  const auto at = static_cast<size_t>(i);
  const float scale = encode(Contents::int8, Use::key, centroid, dim_, units.data());
  uint16_t* lane = blocks_[at / kLavaLanes].get() + i % kLavaLanes;
  double error = 0.0, length = 0.0;
  for (int64_t j = 0; j < dim_; ++j) {
    const auto byte = static_cast<int8_t>(units[static_cast<size_t>(j / 2)] >> 8 * (j % 2) & 0xff);
    const double off = static_cast<double>(centroid[j]) - static_cast<double>(scale) * byte;
    error += off * off;
    length += static_cast<double>(centroid[j]) * static_cast<double>(centroid[j]);
  }
  for (int64_t u = 0; u < units_; ++u) lane[u * kLavaLanes] = units[static_cast<size_t>(u)];
  scales_[at] = scale;
  // The sums in float round once an element; the products of integers are exact until they are scaled.
  const double rounding = static_cast<double>(dim_ + 4) * 0x1p-24;
  errors_[at] = kSlack * static_cast<float>(std::sqrt(error) + rounding * std::sqrt(length));
  lengths_[at] = kSlack * static_cast<float>(std::sqrt(length) + std::sqrt(error));
}

int64_t CoarseCentroids::n_bytes() const {
  return static_cast<int64_t>(blocks_.size()) * kLavaLanes * (2 * units_ + 3 * static_cast<int64_t>(sizeof(float)));
}

std::vector<float> CoarseCentroids::scores(const LavaOps& ops, const float* query, int64_t n_blocks) const {
  const PreparedQuery prepared(Contents::int8, query, dim_);
  std::vector<float> found(static_cast<size_t>(n_blocks * kLavaLanes));
  for (int64_t block = 0; block < n_blocks; ++block) {
    const auto first = static_cast<size_t>(block * kLavaLanes);
    ops.score_int8(blocks_[static_cast<size_t>(block)].get(), &scales_[first], prepared.query(), units_, &found[first]);
  }
  return found;
}

CoarseCentroids::Bounds CoarseCentroids::bounds(const LavaOps& ops, Pool* pool, const float* query,
                                                int64_t n_blocks) const {
  const PreparedQuery prepared(Contents::int8, query, dim_);
  const float length = std::sqrt(dot(query, query, dim_)) * kSlack;
  const float rounding = prepared.step() * 0.5f * std::sqrt(static_cast<float>(dim_)) * kSlack;
  const auto n = static_cast<size_t>(n_blocks * kLavaLanes);
  Bounds found{std::make_unique_for_overwrite<float[]>(n), std::make_unique_for_overwrite<float[]>(n)};
  const auto one = [&](int64_t block, int) {
    const auto first = static_cast<size_t>(block * kLavaLanes);
    float* upper = found.upper.get() + first;
    float* lower = found.lower.get() + first;
    LavaQuery with = prepared.query();
    if (block + 1 < n_blocks) with.ahead = blocks_[static_cast<size_t>(block + 1)].get();
    ops.score_int8(blocks_[static_cast<size_t>(block)].get(), scales_.data() + first, with, units_, upper);
    for (size_t lane = 0; lane < kLavaLanes; ++lane) {
      const float slack = length * errors_[first + lane] + rounding * lengths_[first + lane];
      lower[lane] = upper[lane] - slack;
      upper[lane] += slack;
    }
  };
  if (pool == nullptr || n_blocks < kBlocksToShare)
    for (int64_t block = 0; block < n_blocks; ++block) one(block, 0);
  else
    pool->threads.for_each(n_blocks, one);
  return found;
}

}  // namespace vx
