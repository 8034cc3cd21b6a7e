// Vectors side by side for the kernels: [dim, 64] for every 64 of them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/lava_kernels.h"

namespace vx {

class LaneMatrix {
 public:
  explicit LaneMatrix(int64_t dim) : dim_(dim) {}

  // Makes vectors 0..n - 1 exist.
  void reach(int64_t n) {
    while (static_cast<int64_t>(blocks_.size()) * kLavaLanes < n)
      blocks_.push_back(std::make_unique<float[]>(static_cast<size_t>(dim_ * kLavaLanes)));
  }
  // Its elements lie `stride` apart.
  void set(int64_t i, const float* values, int64_t stride = 1) {
    float* lane = blocks_[static_cast<size_t>(i / kLavaLanes)].get() + i % kLavaLanes;
    for (int64_t j = 0; j < dim_; ++j) lane[j * kLavaLanes] = values[j * stride];
  }
  const float* block(int64_t i) const { return blocks_[static_cast<size_t>(i)].get(); }
  int64_t n_bytes() const { return static_cast<int64_t>(blocks_.size()) * dim_ * kLavaLanes * 4; }

 private:
  int64_t dim_;
  std::vector<std::unique_ptr<float[]>> blocks_;
};

}  // namespace vx
