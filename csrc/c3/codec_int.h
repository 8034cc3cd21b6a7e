// The layout of `int8` and `int4` tiles (FORMAT.md section 5), shared by encoder, decoder and kernels.
#pragma once

#include <cstdint>

#include "c3/tile.h"

namespace vx {

constexpr int kGroupCols = 32;  // columns of a row that share a scale

// A weight is scale * (u - zero): u an unsigned integer, scale = row unit * the group's scale byte.
template <int kBits>
struct IntLayout {
  static constexpr int kPerLane = 32 / kBits;  // columns in the u32 of a row
  static constexpr int kSubBlocks = kGroupCols / kPerLane;
  static constexpr int64_t kParameterBytes = kBits == 4 ? 128 : 64;  // scale bytes; int4: zero bytes after them
  static constexpr int64_t kGroupBytes = kParameterBytes + kSubBlocks * 4 * kPanelRows;
  // What brings u << (kBits * place) back to u: the kernels multiply activations with it instead of shifting weights.
  static constexpr float unshift(int place) {
    float factor = 1.0f;
    for (int i = 0; i < place; ++i) factor /= static_cast<float>(1 << kBits);
    return place == kPerLane - 1 ? 1.0f : factor;  // the top place is shifted down: it would be the sign
  }
};

constexpr int64_t kIntHeaderBytes = 4 * kPanelRows;  // of a panel: one f32 unit a row
constexpr float kInt8Zero = 128.0f;
constexpr float kInt4ZeroStep = 1.0f / 16.0f;

struct IntPanel {
  const float* units;     // [64]
  const uint8_t* groups;  // next group
};

constexpr int64_t n_int_groups(int64_t n_cols) { return (n_cols + kGroupCols - 1) / kGroupCols; }

}  // namespace vx
