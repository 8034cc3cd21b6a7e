// Attention of queries over a KV cache. Kernel text.
//
// The order of every output: a score is one fma chain over the head's dimension, times scale; the maximum is exact; the
// weights e^(score - maximum) are summed in 16 chains (lane = absolute position % 16) and a fixed tree; an output is
// one fma chain over ascending positions, divided by that sum. Nothing depends on other rows, on the task or on
// capacity.
#pragma once

#include "common/transpose.inl.h"
#include "common/vmath.inl.h"
#include "ops/small_ops_kernels.h"

namespace vx::VX_SIMD_NS {

// Rows x vectors of accumulators that live in registers.
#if defined(VX_LEVEL_AVX512)
static constexpr int kTileRows = 4, kTileVecs = 4;
#elif defined(VX_LEVEL_AVX2) || defined(VX_LEVEL_NEON)
static constexpr int kTileRows = 2, kTileVecs = 2;
#else
static constexpr int kTileRows = 1, kTileVecs = 1;
#endif

enum class Start { zero, accumulate };

// c[r][col + i] (+)= sum over k of a[r][k] * b[k * stride + col + i]: one chain over ascending k for each element.
template <int kRows, int kVecs, Start kStart>
VX_INLINE void chains(const float* const* a, const float* b, int64_t stride, int64_t n, float* const* c, int64_t col) {
  f32x16 sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r][v] = kStart == Start::zero ? set1(0.0f) : load(c[r] + col + v * kLanes);
  const float* from = b + col;
  for (int64_t k = 0; k < n; ++k, from += stride) {
    f32x16 column[kVecs];
    for (int v = 0; v < kVecs; ++v) column[v] = load(from + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const f32x16 weight = set1(a[r][k]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma(column[v], weight, sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) store(c[r] + col + v * kLanes, sum[r][v]);
}

template <int kRows, Start kStart>
static void row_tile(const float* const* a, const float* b, int64_t stride, int64_t n, float* const* c, int64_t cols) {
  int64_t col = 0;
  for (; col + kTileVecs * kLanes <= cols; col += kTileVecs * kLanes)
    chains<kRows, kTileVecs, kStart>(a, b, stride, n, c, col);
  for (; col < cols; col += kLanes) chains<kRows, 1, kStart>(a, b, stride, n, c, col);
}

// n_rows <= kTileRows.
template <Start kStart>
static void multiply(int64_t n_rows, const float* const* a, const float* b, int64_t stride, int64_t n, float* const* c,
                     int64_t cols) {
  if constexpr (kTileRows >= 4) {
    if (n_rows == 4) return row_tile<4, kStart>(a, b, stride, n, c, cols);
    if (n_rows == 3) return row_tile<3, kStart>(a, b, stride, n, c, cols);
  }
  if constexpr (kTileRows >= 2)
    if (n_rows == 2) return row_tile<2, kStart>(a, b, stride, n, c, cols);
  row_tile<1, kStart>(a, b, stride, n, c, cols);
}

// Scratch and geometry of one task. Row r is token r / n_heads, head r % n_heads of the task.
struct AttendRows {
  const AttendArgs& args;
  const AttendTask& task;
  int64_t n_rows, span, first;   // first: absolute position of weights[.][0], a multiple of kAttendBlock
  float *weights, *keys, *sums;  // [n_rows, span], [padded, kAttendBlock] transposed, [n_rows, padded]
  float* totals;                 // [n_rows]

  int64_t last(int64_t row) const { return args.pos + task.token0 + row / task.n_heads; }
  int64_t begin(int64_t row) const { return attend_begin(args.window, last(row)); }
  int64_t offset(int64_t row) const {  // of the row's head in q and out
    return ((task.token0 + row / task.n_heads) * args.heads + task.head0 + row % task.n_heads) * args.dim;
  }
};

// keys[d][i] = K[block + i][d]; positions after the last visible one repeat it and are masked later.
static void transpose_keys(const AttendRows& rows, const float* k, int64_t block) {
  const int64_t end = rows.last(rows.n_rows - 1);
  for (int64_t i = 0; i < kAttendBlock; i += kLanes) {
    const float* from[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t position = block + i + j;
      from[j] = k + (position < end ? position : end) * rows.args.padded;
    }
    for (int64_t d = 0; d < rows.args.padded; d += kLanes)
      transpose16(from, d, rows.keys + d * kAttendBlock + i, kAttendBlock);
  }
}

static void attend_scores(const AttendRows& rows, const float* k) {
  for (int64_t at = 0; at < rows.span; at += kAttendBlock) {
    transpose_keys(rows, k, rows.first + at);
    for (int64_t row = 0; row < rows.n_rows; row += kTileRows) {
      const int64_t n = rows.n_rows - row < kTileRows ? rows.n_rows - row : kTileRows;
      const float* q[kTileRows];
      float* scores[kTileRows];
      for (int64_t r = 0; r < n; ++r) {
        q[r] = rows.args.q + rows.offset(row + r);
        scores[r] = rows.weights + (row + r) * rows.span + at;
      }
      multiply<Start::zero>(n, q, rows.keys, kAttendBlock, rows.args.dim, scores, kAttendBlock);
    }
  }
}

// Turns the scores of a row into weights and their sum. Positions it must not see get weight 0
// (-inf times the scale, which is positive, stays -inf).
static void attend_weights(const AttendRows& rows, int64_t row) {
  const int64_t begin = rows.begin(row) - rows.first, end = rows.last(row) + 1 - rows.first;
  const int64_t from = begin / kLanes * kLanes, to = (end + kLanes - 1) / kLanes * kLanes;
  float* w = rows.weights + row * rows.span;
  for (int64_t i = from; i < begin; ++i) w[i] = -__builtin_inff();
  for (int64_t i = end; i < to; ++i) w[i] = -__builtin_inff();
  const f32x16 scale = set1(rows.args.scale);
  f32x16 maximum = set1(-__builtin_inff());
  for (int64_t i = from; i < to; i += kLanes) {
    const f32x16 score = mul(load(w + i), scale);
    store(w + i, score);
    maximum = max(maximum, score);
  }
  const f32x16 top = set1(reduce_max(maximum));
  f32x16 total = set1(0.0f);
  for (int64_t i = from; i < to; i += kLanes) {
    const f32x16 weight = exp(sub(load(w + i), top));
    store(w + i, weight);
    total = add(total, weight);
  }
  rows.totals[row] = reduce_add(total);
}

static void attend_values(const AttendRows& rows, const float* v) {
  const int64_t padded = rows.args.padded;
  for (int64_t i = 0; i < rows.n_rows * padded; ++i) rows.sums[i] = 0.0f;
  for (int64_t at = 0; at < rows.span; at += kAttendBlock) {
    const int64_t block = rows.first + at;
    for (int64_t row = 0; row < rows.n_rows; row += kTileRows) {
      const int64_t n = rows.n_rows - row < kTileRows ? rows.n_rows - row : kTileRows;
      const float* w[kTileRows];
      float* sums[kTileRows];
      int64_t begin[kTileRows], end[kTileRows];
      bool same = true;
      for (int64_t r = 0; r < n; ++r) {
        const int64_t row_begin = rows.begin(row + r), row_end = rows.last(row + r) + 1;
        begin[r] = row_begin > block ? row_begin : block;
        end[r] = row_end < block + kAttendBlock ? row_end : block + kAttendBlock;
        same = same && begin[r] == begin[0] && end[r] == end[0];
        w[r] = rows.weights + (row + r) * rows.span + (begin[r] - rows.first);
        sums[r] = rows.sums + (row + r) * padded;
      }
      // Only visible positions are read: a weight of 0 times an unwritten NaN would not be 0.
      if (same && begin[0] < end[0]) {
        multiply<Start::accumulate>(n, w, v + begin[0] * padded, padded, end[0] - begin[0], sums, padded);
      } else {
        for (int64_t r = 0; r < n; ++r)
          if (begin[r] < end[r])
            multiply<Start::accumulate>(1, w + r, v + begin[r] * padded, padded, end[r] - begin[r], sums + r, padded);
      }
    }
  }
}

static void attend(const AttendArgs& args, const AttendTask& task, float* scratch) {
  const int64_t n_rows = task.n_heads * task.n_tokens, span = attend_span(args, task);
  const int64_t begin = attend_begin(args.window, args.pos + task.token0);
  float* keys = scratch + n_rows * span;
  float* sums = keys + kAttendBlock * args.padded;
  float* totals = sums + n_rows * args.padded;
  const AttendRows rows{args, task, n_rows, span, begin / kAttendBlock * kAttendBlock, scratch, keys, sums, totals};
  const int64_t cache = task.kv_head * args.capacity * args.padded;

  attend_scores(rows, args.k_cache + cache);
  for (int64_t row = 0; row < n_rows; ++row) attend_weights(rows, row);
  attend_values(rows, args.v_cache + cache);
  for (int64_t row = 0; row < n_rows; ++row) {
    const f32x16 inverse = set1(1.0f / totals[row]);
    float* out = args.out + rows.offset(row);
    int64_t i = 0;
    for (; i + kLanes <= args.dim; i += kLanes) store(out + i, mul(load(sums + row * args.padded + i), inverse));
    if (i < args.dim) store_n(out + i, mul(load(sums + row * args.padded + i), inverse), args.dim - i);
  }
}

}  // namespace vx::VX_SIMD_NS
