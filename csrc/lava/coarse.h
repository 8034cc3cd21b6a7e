// Centroids as bytes, a quarter of their size: a query finds the few lists that may be among its best without reading
// all of the others in full.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/pool.h"
#include "ops/lava_kernels.h"

namespace vx {

class CoarseCentroids {
 public:
  explicit CoarseCentroids(int64_t dim);

  // Makes lists 0..n - 1 exist.
  void reach(int64_t n);
  void set(int64_t i, const float* centroid);
  int64_t n_bytes() const;

  // Of one query with lists 0..64 n_blocks - 1, off by their rounding to bytes.
  std::vector<float> scores(const LavaOps& ops, const float* query, int64_t n_blocks) const;

  // Of one query; bounds of what score_float gives.
  struct Bounds {
    std::unique_ptr<float[]> lower, upper;  // [64] for every 64 lists
  };
  Bounds bounds(const LavaOps& ops, Pool* pool, const float* query, int64_t n_blocks) const;  // pool may be null

 private:
  int64_t dim_, units_;
  std::vector<std::unique_ptr<uint16_t[]>> blocks_;  // [units][64]
  std::vector<float> scales_;
  // How far a list's score may be off: for a query of length 1, and for one whose rounding has length 1.
  std::vector<float> errors_, lengths_;
};

}  // namespace vx
