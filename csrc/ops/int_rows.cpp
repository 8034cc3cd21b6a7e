#include "ops/int_rows.h"

#include "c3/codec_int.h"

namespace vx {
namespace {

template <int kBits>
void prepare_as(const float* x, int64_t n_rows, int64_t n_cols, IntRowsBuffer* out) {
  constexpr int kPerLane = IntLayout<kBits>::kPerLane;
  float factors[kPerLane];
  for (int place = 0; place < kPerLane; ++place) factors[place] = IntLayout<kBits>::unshift(place);
  for (int64_t row = 0; row < n_rows; ++row) {
    const float* from = x + row * n_cols;
    float* to = out->scaled.data() + row * out->stride;
    for (int64_t col = 0; col < n_cols; ++col) to[col] = from[col] * factors[col % kPerLane];
    for (int64_t col = 0; col < n_cols; ++col) out->sums[row * out->sums_stride + col / kGroupCols] += from[col];
  }
}

}  // namespace

void IntRowsBuffer::prepare(int bits, const float* x, int64_t n_rows, int64_t n_cols) {
  sums_stride = n_int_groups(n_cols);
  stride = sums_stride * kGroupCols;
  scaled.assign(n_rows * stride, 0.0f);
  sums.assign(n_rows * sums_stride, 0.0f);
  if (bits == 8)
    prepare_as<8>(x, n_rows, n_cols, this);
  else
    prepare_as<4>(x, n_rows, n_cols, this);
}

}  // namespace vx
