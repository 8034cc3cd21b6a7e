// Multiplying `int8` and `int4` tiles with 8-bit activations. Kernel text: compiled once per SIMD level.
//
// The order of every output: of each group of 32 columns d = sum of (u - zero) * value, which is exact in fp32; then
// one chain over ascending groups, acc = fma(weight scale * activation scale, d, acc).
#pragma once

#include <cstdint>

#include "c3/codec.h"
#include "c3/codec_int.h"
#include "ops/activation_dot.inl.h"
#include "ops/activation_rows.h"
#include "ops/tile_int.inl.h"

namespace vx::VX_SIMD_NS {

// Rows that pass a group while it is in the L1 cache, with their sums and values.
constexpr int64_t kActivationRows = 32;

// Scales and, of int4, zero bytes of a group's 64 rows. In memory: registers are for sums.
struct GroupParameters {
  float scale[kPanelRows], zero[kPanelRows];
};

template <int kBits>
VX_INLINE void read_parameters(const IntPanel& panel, GroupParameters* out) {
  for (int v = 0; v < 4; ++v) {
    store(out->scale + v * kLanes, group_scale<kBits>(panel, v));
    if constexpr (kBits == 4) store(out->zero + v * kLanes, bytes_to_float(panel.groups + kPanelRows + v * kLanes));
  }
}

// kRows activation rows x kVectors vectors of output rows live in registers while the group's columns stream past.
template <int kBits, int kRows, int kVectors>
VX_INLINE void add_group(const uint8_t* lanes, const GroupParameters& parameters, const ActivationRows& rows,
                         float* acc) {
  using Layout = IntLayout<kBits>;
  for (int first = 0; first < 4; first += kVectors) {
    typename Dot<kBits>::Sums sums[kRows][kVectors];
    for (auto& of_row : sums)
      for (auto& s : of_row) s = Dot<kBits>::zero();
    // Unrolled, the compiler would pair up products of all sub-blocks and spill them.
#pragma GCC unroll 1
    for (int b = 0; b < Layout::kSubBlocks; ++b)
      for (int v = 0; v < kVectors; ++v) {
        const auto weights = Dot<kBits>::unpack(lanes + b * 4 * kPanelRows + (first + v) * 4 * kLanes);
        for (int m = 0; m < kRows; ++m)
          Dot<kBits>::add(sums[m][v], weights, rows.values + m * kGroupCols + b * Layout::kPerLane);
      }
    for (int m = 0; m < kRows; ++m) {
      const f32x16 scale = set1(rows.scales[m]), offset = set1(rows.offsets[m]);
      for (int v = 0; v < kVectors; ++v) {
        float* at = acc + m * kPanelRows + (first + v) * kLanes;
        f32x16 sum = Dot<kBits>::total(sums[m][v]);
        if constexpr (kBits == 4)
          sum = fma(load(parameters.zero + (first + v) * kLanes), offset, sum);
        else if constexpr (!Dot<kBits>::kCentred)
          sum = add(sum, offset);
        store(at, fma(mul(load(parameters.scale + (first + v) * kLanes), scale), sum, load(at)));
      }
    }
  }
}

template <int kBits>
VX_INLINE void add_group_of_rows(const uint8_t* lanes, const GroupParameters& parameters, const ActivationRows& rows,
                                 int64_t n_rows, float* acc) {
#if defined(VX_LEVEL_AVX512)
  constexpr int kOne = 4, kVectors = 4;
#elif defined(VX_LEVEL_NEON)
  constexpr int kOne = 2, kVectors = 1;
#else
  constexpr int kOne = 4, kVectors = 1;
#endif
  int64_t m = 0;
  for (; m + 4 <= n_rows; m += 4)
    add_group<kBits, 4, kVectors>(lanes, parameters, rows.from_row(m), acc + m * kPanelRows);
  switch (n_rows - m) {
    case 3:
      return add_group<kBits, 3, kVectors>(lanes, parameters, rows.from_row(m), acc + m * kPanelRows);
    case 2:
      return add_group<kBits, 2, 2>(lanes, parameters, rows.from_row(m), acc + m * kPanelRows);
    case 1:
      return add_group<kBits, 1, kOne>(lanes, parameters, rows.from_row(m), acc + m * kPanelRows);
    default:
      return;
  }
}

template <int kBits>
static void multiply_activations(IntPanel& panel, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                                 float* acc) {
  using Layout = IntLayout<kBits>;
  const uint8_t* const begin = panel.groups;
  GroupParameters parameters;
  for (int64_t m = 0; m < n_rows; m += kActivationRows) {
    const int64_t n = n_rows - m < kActivationRows ? n_rows - m : kActivationRows;
    panel.groups = begin;
    for (int64_t g = 0; g < n_int_groups(n_cols); ++g, panel.groups += Layout::kGroupBytes) {
      for (int64_t line = 0; m == 0 && line < Layout::kGroupBytes; line += 64)
        __builtin_prefetch(panel.groups + 6 * Layout::kGroupBytes + line);
      read_parameters<kBits>(panel, &parameters);
      add_group_of_rows<kBits>(panel.groups + Layout::kParameterBytes, parameters, rows.from_group(g).from_row(m), n,
                               acc + m * kPanelRows);
    }
  }
}

static void multiply_activations_of(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                                    float* acc) {
  if (reader.codec == Codec::int8)
    multiply_activations<8>(reader.integer, n_cols, rows, n_rows, acc);
  else
    multiply_activations<4>(reader.integer, n_cols, rows, n_rows, acc);
}

}  // namespace vx::VX_SIMD_NS
