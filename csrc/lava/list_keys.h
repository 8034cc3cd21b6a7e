// Keys of a list as floats, for what maintenance learns from them.
#pragma once

#include <cstdint>
#include <vector>

#include "lava/store.h"

namespace vx {

class ListKeys {
 public:
  // At most n_blocks of the list's blocks, from the one numbered `first` on, every `step`-th.
  ListKeys(const Store& store, int32_t list, int64_t first, int64_t step, int64_t n_blocks);

  size_t n_blocks() const { return blocks_.size(); }
  int64_t n_keys() const { return n_keys_; }
  int64_t n_lanes(size_t i) const { return blocks_[i].n; }
  const int32_t* ids(size_t i) const { return blocks_[i].keys->ids; }
  // [dim, 64], lanes of no key included.
  const float* lanes(size_t i) const { return &values_[i * block_size_]; }

 private:
  struct Block {
    const KeyBlock* keys;
    int64_t n;
  };
  size_t block_size_;
  int64_t n_keys_ = 0;
  std::vector<Block> blocks_;
  std::vector<float> values_;
};

// Two directions that cut keys apart: a key belongs to the side where it scores higher, to the first on ties.
struct Halves {
  std::vector<float> sums[2];  // of the keys on each side
  int64_t counts[2] = {};
  double gain = 0.0;  // by how much the keys' scores with the directions of their sums grow in sum
};

// 2-means of the keys by direction, from halves along the axis in which they differ most. gain = 0 where the keys are
// equal or all on one side. `is_even`: no side gets less than an eighth.
Halves two_means(const LavaOps& ops, const ListKeys& keys, int64_t dim, bool is_even);

// a[j] / |a|, or zeros.
std::vector<float> direction_of(const float* a, int64_t dim);

}  // namespace vx
