// A query as the kernels of each kind of contents want it.
#pragma once

#include <cstdint>
#include <vector>

#include "lava/contents.h"
#include "lava/store.h"

namespace vx {

class PreparedQuery {
 public:
  // x: [dim], which outlives this.
  PreparedQuery(Contents kind, const float* x, int64_t dim);

  // Scores of the 64 lanes of a block, those of no slot included, in arithmetic that is the same at every level.
  // `next`: the block that will be scored after this one, or null.
  void score(const Store& store, const KeyBlock& block, float* out, const KeyBlock* next = nullptr) const;

  // For the kernels.
  LavaQuery query() const { return {values_, pairs_.data(), scale_, offset_}; }
  float step() const { return scale_; }  // from one level of an element to the next

  // How far an element of a query is off at most, as a part of the largest.
  static double rounding(Contents kind, int64_t dim);

 private:
  const float* values_;
  std::vector<int32_t> pairs_;
  float scale_ = 1.0f;
  int32_t offset_ = 0;
};

}  // namespace vx
