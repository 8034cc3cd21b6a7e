// Activation rows as the integer kernels read them.
#pragma once

#include <cstdint>
#include <vector>

namespace vx {

// n_rows rows, each filled up with zeros to whole groups of 32 columns.
struct IntRows {
  const float* scaled;  // x[col] times IntLayout::unshift of the column's place
  const float* sums;    // of each group, unscaled, one chain of additions
  int64_t stride, sums_stride;

  IntRows from_col(int64_t col) const { return {scaled + col, sums + col / 32, stride, sums_stride}; }
};

struct IntRowsBuffer {
  std::vector<float> scaled, sums;
  int64_t stride = 0, sums_stride = 0;

  bool empty() const { return stride == 0; }
  IntRows rows() const { return {scaled.data(), sums.data(), stride, sums_stride}; }
  // bits: 8 or 4. x: [n_rows, n_cols].
  void prepare(int bits, const float* x, int64_t n_rows, int64_t n_cols);
};

}  // namespace vx
