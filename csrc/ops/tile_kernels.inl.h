// Kernel text of tile_kernels.h, compiled once per SIMD level.
#include <cstdint>

#include "common/transpose.inl.h"
#include "ops/activation_kernels.inl.h"
#include "ops/activation_round.inl.h"
#include "ops/tile_accumulate.inl.h"
#include "ops/tile_exact.inl.h"
#include "ops/tile_exact12.inl.h"
#include "ops/tile_exact_prefix.inl.h"
#include "ops/tile_int.inl.h"
#include "ops/tile_kernels.h"
#include "ops/tile_raw.inl.h"

namespace vx::VX_SIMD_NS {

struct Nothing {
  inline __attribute__((always_inline)) void operator()(int64_t) const {}
};

template <class Between>
VX_INLINE void decode_chunk(PanelReader& reader, int64_t n_cols, float* out, Between&& between) {
  if (reader.codec == Codec::raw) {
    decode_raw(reader.raw, reader.dtype, n_cols, out);
    for (int64_t b = 0; b < (n_cols + kBlockCols - 1) / kBlockCols; ++b) between(b);
  } else if (reader.dtype == Dtype::bf16) {
    decode_exact<Dtype::bf16>(reader.exact, n_cols, out, between);
  } else if (reader.dtype == Dtype::f16) {
    decode_exact<Dtype::f16>(reader.exact, n_cols, out, between);
  } else {
    decode_exact<Dtype::f32>(reader.exact, n_cols, out, between);
  }
}

static void decode(PanelReader& reader, int64_t n_cols, float* out) {
  if (reader.codec == Codec::int8) return decode_int<8>(reader.integer, n_cols, out);
  if (reader.codec == Codec::int4) return decode_int<4>(reader.integer, n_cols, out);
  if (reader.codec == Codec::exact12) return decode_exact12(reader.exact12, n_cols, out);
  if (reader.is_prefix) return decode_prefix(reader.exact_prefix, n_cols, out);
  decode_chunk(reader, n_cols, out, Nothing{});
}

static void multiply_integer(PanelReader& reader, int64_t n_cols, const IntRows& rows, int64_t n_rows, float* acc) {
  if (reader.codec == Codec::int8)
    multiply_int<8>(reader.integer, n_cols, rows, n_rows, acc);
  else
    multiply_int<4>(reader.integer, n_cols, rows, n_rows, acc);
}

// One row: its four chains wait for each other's latency, so the next chunk is decoded between their steps.
static void multiply_row(PanelReader& reader, int64_t n_cols, const float* x, float* acc, float* scratch) {
  f32x16 sum[4];
  load_rows(acc, sum);
  const float* weights = scratch;  // decoded, columns [col, col + width) of x
  int64_t col = 0, width = 0;
  auto step = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t c = begin; c < end; ++c) {
      const f32x16 value = set1(x[col + c]);
      for (int v = 0; v < 4; ++v) sum[v] = fma(load(weights + c * kPanelRows + v * kLanes), value, sum[v]);
    }
  };
  for (int64_t next = 0; next < n_cols;) {
    const int64_t next_width = n_cols - next < kChunkCols ? n_cols - next : kChunkCols;
    float* out = scratch + (weights == scratch ? kChunkCols * kPanelRows : 0);
    int64_t done = 0;
    decode_chunk(reader, next_width, out, [&](int64_t) __attribute__((always_inline)) {
      const int64_t end = done + kBlockCols < width ? done + kBlockCols : width;
      step(done, end);
      done = end;
    });
    step(done, width);
    weights = out;
    col = next;
    width = next_width;
    next += next_width;
  }
  step(0, width);
  store_rows(acc, sum);
}

static void multiply(PanelReader& reader, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows, float* acc,
                     float* scratch) {
  if (reader.is_prefix) return multiply_prefix(reader.exact_prefix, n_cols, x, x_stride, n_rows, acc, scratch);
  if (n_rows == 1) {
    if (reader.codec == Codec::exact12) return multiply_row12(reader.exact12, n_cols, x, acc, scratch);
    return multiply_row(reader, n_cols, x, acc, scratch);
  }
  for (int64_t col = 0; col < n_cols; col += kChunkCols) {
    const int64_t width = n_cols - col < kChunkCols ? n_cols - col : kChunkCols;
    decode(reader, width, scratch);
    accumulate(scratch, width, x + col, x_stride, n_rows, acc);
  }
}

// Once 64 columns are turned into lanes, this is the accumulation over 64 columns with rows and columns swapped.
static void multiply_transposed(PanelReader& reader, int64_t n_cols, int64_t panel_rows, const float* x,
                                int64_t x_stride, int64_t n_rows, float* sums, float* scratch) {
  static_assert(2 * kChunkCols == kPanelRows && kScratchFloats == kPanelRows * kPanelRows);
  float* turned = scratch + kScratchFloats;  // [row][column]
  for (int64_t col = 0; col < n_cols; col += kPanelRows) {
    for (int64_t at = 0; at < kPanelRows; at += kChunkCols) {
      const int64_t left = n_cols - col - at, width = left < kChunkCols ? left : kChunkCols;
      float* weights = scratch + at * kPanelRows;
      if (width > 0) decode(reader, width, weights);
      for (int64_t i = (width > 0 ? width : 0) * kPanelRows; i < kChunkCols * kPanelRows; ++i) weights[i] = 0.0f;
    }
    for (int64_t c = 0; c < kPanelRows; c += kLanes) {
      const float* from[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) from[j] = scratch + (c + j) * kPanelRows;
      for (int64_t row = 0; row < kPanelRows; row += kLanes)
        transpose16(from, row, turned + row * kPanelRows + c, kPanelRows);
    }
    accumulate(turned, panel_rows, x, x_stride, n_rows, sums + col * n_rows);
  }
}

static constexpr TileKernels kTileKernels{
    decode, multiply, multiply_integer, multiply_transposed, multiply_activations_of, round_row<8>, round_row<4>};

}  // namespace vx::VX_SIMD_NS
