#include "lava/basis.h"

#include <algorithm>
#include <cmath>

#include "common/errors.h"
#include "lava/vectors.h"

namespace vx {
namespace {

[[noreturn]] void fail(const char* name, const std::string& rule, const std::string& value) {
  throw ArgumentError(std::string("[lava_bank] ") + name + " must " + rule + ", got " + value);
}

}  // namespace

Basis::Basis(const char* name, std::vector<float> rows, int64_t dim)
    : rows_(std::move(rows)), dim_(dim), rank_(dim), across_(dim), down_(dim) {
  if (rows_.empty()) return;
  const auto n = static_cast<int64_t>(rows_.size());
  if (n % dim != 0 || n / dim > dim)
    fail(name, "have from 1 to " + std::to_string(dim) + " rows of " + std::to_string(dim),
         std::to_string(n) + " elements");
  rank_ = n / dim;
  for (int64_t i = 0; i < rank_; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const float product = dot(&rows_[static_cast<size_t>(i * dim)], &rows_[static_cast<size_t>(j * dim)], dim);
      if (!(std::fabs(product - (i == j ? 1.0f : 0.0f)) <= 1e-3f))
        fail(name, "have orthonormal rows",
             std::to_string(product) + " as the product of rows " + std::to_string(j) + " and " + std::to_string(i));
    }
  down_ = LaneMatrix(rank_);
  across_.reach(rank_);
  down_.reach(dim);
  for (int64_t i = 0; i < rank_; ++i) across_.set(i, &rows_[static_cast<size_t>(i * dim)]);
  for (int64_t j = 0; j < dim; ++j) down_.set(j, &rows_[static_cast<size_t>(j)], dim);
}

std::vector<float> Basis::coordinates(const LavaOps& ops, const float* x, int64_t n) const {
  if (is_trivial()) return std::vector<float>(x, x + n * dim_);
  std::vector<float> out(static_cast<size_t>(n * rank_));
  float products[4 * kLavaLanes];
  for (int64_t first = 0; first < n; first += 4)
    for (int64_t block = 0; block * kLavaLanes < rank_; ++block) {
      const int64_t rows = std::min<int64_t>(4, n - first), lanes = std::min(kLavaLanes, rank_ - block * kLavaLanes);
      ops.score_float(across_.block(block), x + first * dim_, rows, dim_, products);
      for (int64_t i = 0; i < rows; ++i)
        std::copy_n(products + i * kLavaLanes, lanes,
                    &out[static_cast<size_t>((first + i) * rank_ + block * kLavaLanes)]);
    }
  return out;
}

void Basis::expand(const LavaOps& ops, const float* coordinates, float* out) const {
  if (is_trivial()) {
    std::copy_n(coordinates, dim_, out);
    return;
  }
  float products[kLavaLanes];
  for (int64_t block = 0; block * kLavaLanes < dim_; ++block) {
    ops.score_float(down_.block(block), coordinates, 1, rank_, products);
    std::copy_n(products, std::min(kLavaLanes, dim_ - block * kLavaLanes), out + block * kLavaLanes);
  }
}

}  // namespace vx
