// The space in which a bank stores vectors: their coordinates in an orthonormal basis, of fewer dimensions or rotated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lava/lane_matrix.h"

namespace vx {

class Basis {
 public:
  // rows [rank, dim], orthonormal; empty for the space itself. Throws ArgumentError naming the basis.
  Basis(const char* name, std::vector<float> rows, int64_t dim);

  bool is_trivial() const { return rows_.empty(); }
  int64_t dim() const { return dim_; }
  int64_t rank() const { return rank_; }
  const std::vector<float>& rows() const { return rows_; }

  // Coordinates [n, rank] of vectors [n, dim]; each is one chain over dim.
  std::vector<float> coordinates(const LavaOps& ops, const float* x, int64_t n) const;
  // out[j] = the vector [dim] with these coordinates; each element is one chain over rank.
  void expand(const LavaOps& ops, const float* coordinates, float* out) const;

 private:
  std::vector<float> rows_;
  int64_t dim_, rank_;
  LaneMatrix across_, down_;  // rows and columns side by side
};

}  // namespace vx
