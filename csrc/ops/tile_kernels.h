// The inner kernels of the products with tiles, one set per SIMD level. Their bits do not depend on the level.
#pragma once

#include <cstdint>

#include "c3/codec.h"
#include "common/cpu_features.h"
#include "ops/activation_rows.h"
#include "ops/int_rows.h"

namespace vx {

constexpr int64_t kChunkCols = 32;  // columns decoded at a time: 8 KiB of fp32 weights, a quarter of the smallest L1
constexpr int64_t kScratchFloats = 2 * kChunkCols * kPanelRows;

struct TileKernels {
  // Decodes the panel's next n_cols <= kChunkCols columns to fp32, out[col][row]; a multiple of 8 except at the end.
  // `out` has room for kChunkCols columns.
  void (*decode)(PanelReader& reader, int64_t n_cols, float* out);
  // acc[m][row] = fma(weights[col][row], x[m][col], acc[m][row]) for the n_cols columns of the panel, ascending: the
  // one reduction order, but of prefixes alone (tile_exact_prefix.inl.h). scratch: kScratchFloats.
  void (*multiply)(PanelReader& reader, int64_t n_cols, const float* x, int64_t x_stride, int64_t n_rows, float* acc,
                   float* scratch);
  // The same for int8 and int4 tiles, whose order is in tile_int.inl.h.
  void (*multiply_integer)(PanelReader& reader, int64_t n_cols, const IntRows& rows, int64_t n_rows, float* acc);
  // sums[col / 64][m][col % 64] = fma(weights[col][row], x[m][row], sums) for the panel's panel_rows rows, ascending.
  // scratch: 2 * kScratchFloats.
  void (*multiply_transposed)(PanelReader& reader, int64_t n_cols, int64_t panel_rows, const float* x, int64_t x_stride,
                              int64_t n_rows, float* sums, float* scratch);
  // The same with activations of 8 bits, in the order of activation_kernels.inl.h. rows: from the tile's first column.
  void (*multiply_activations)(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                               float* acc);
  RoundRow round_for_int8, round_for_int4;
};

const TileKernels& tile_kernels(Simd level);

}  // namespace vx
