#include "ops/activation_rows.h"

#include <algorithm>

#include "c3/codec_int.h"

namespace vx {
namespace {

constexpr int64_t kRowsAtOnce = 8;

}  // namespace

void ActivationBuffer::prepare(ThreadPool& threads, RoundRow round_row, const float* x, int64_t rows, int64_t n_cols) {
  n_rows = rows;
  const int64_t n_groups = n_int_groups(n_cols);
  values.resize(n_groups * n_rows * kGroupCols);
  scales.resize(n_groups * n_rows);
  offsets.resize(n_groups * n_rows);
  threads.for_each((n_rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t block, int) {
    const int64_t end = std::min(n_rows, (block + 1) * kRowsAtOnce);
    for (int64_t row = block * kRowsAtOnce; row < end; ++row)
      round_row(x + row * n_cols, n_cols, n_rows, values.data() + row * kGroupCols, scales.data() + row,
                offsets.data() + row);
  });
}

}  // namespace vx
