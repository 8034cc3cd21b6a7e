// Activation rows in 8 bits, as the kernels of activation_kernels.inl.h read them.
#pragma once

#include <cstdint>
#include <vector>

#include "common/thread_pool.h"

namespace vx {

// n_rows rows in groups of 32 columns: column `col` of a group is scale * value, all values from -127 to 127.
struct ActivationRows {
  const int8_t* values;  // [group][row][32]; for int4 tiles the even columns of every eight come before the odd ones
  const float* scales;   // [group][row]
  const float* offsets;  // [group][row]: minus the sum of the values times 128 (int8 tiles) or 1/16 (int4 tiles)
  int64_t n_rows;

  ActivationRows from_group(int64_t group) const {
    return {values + group * n_rows * 32, scales + group * n_rows, offsets + group * n_rows, n_rows};
  }
  ActivationRows from_row(int64_t row) const { return {values + row * 32, scales + row, offsets + row, n_rows}; }
};

// Rounds one row: group g of it goes to values + g * n_rows * 32, scales + g * n_rows and offsets + g * n_rows.
using RoundRow = void (*)(const float* x, int64_t n_cols, int64_t n_rows, int8_t* values, float* scales,
                          float* offsets);

struct ActivationBuffer {
  std::vector<int8_t> values;
  std::vector<float> scales, offsets;
  int64_t n_rows = 0;

  bool empty() const { return n_rows == 0; }
  ActivationRows rows() const { return {values.data(), scales.data(), offsets.data(), n_rows}; }

  // x: [rows, n_cols], rows > 0; columns up to a whole group count as zeros. round_row: of the tiles' codec.
  //
  // With a the largest |x| of a group: scale = a / 127, value = x * (127 / a) rounded to the nearest integer, ties to
  // even, in fp32. A group with a < 2^-100 is all zeros; one with a value that is not finite has a NaN for its scale.
  void prepare(ThreadPool& threads, RoundRow round_row, const float* x, int64_t rows, int64_t n_cols);
};

}  // namespace vx
