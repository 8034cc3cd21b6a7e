// The encoders of `int8` and `int4`: a row at a time, scales of its groups first, then the unit they share, then u.
#include "c3/encode_int.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "c3/codec_int.h"

namespace vx {
namespace {

using Group = std::array<float, kGroupCols>;

float widen(const Weights& weights, int64_t at) {
  uint32_t bits = 0;
  if (weights.dtype == Dtype::f32) {
    std::memcpy(&bits, weights.data + 4 * at, 4);
  } else {
    uint16_t half;
    std::memcpy(&half, weights.data + 2 * at, 2);
    if (weights.dtype == Dtype::f16) {
      const int exponent = half >> 10 & 31, mantissa = half & 1023;
      if (exponent == 31) return mantissa != 0 ? NAN : INFINITY;
      const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                            : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
      return half >> 15 != 0 ? -magnitude : magnitude;
    }
    bits = uint32_t{half} << 16;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// To the nearest integer, ties to even, for |value| < 2^22; vectorises without SSE4.1.
float round_even(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (value + kMagic) - kMagic;
}

float clamp_to(float value, float low, float high) {
  value = value > low ? value : low;
  return value < high ? value : high;
}

float round_to(float value, float low, float high) { return round_even(clamp_to(value, low, high)); }

// Four lanes at a time, which every target has: the search is the encoder's whole cost.
typedef float Float4 __attribute__((vector_size(16)));

Float4 nearest_u(Float4 value) {
  const Float4 low = {0, 0, 0, 0}, high = {15, 15, 15, 15};
  const Float4 magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
  value = value > low ? value : low;
  value = value < high ? value : high;
  return (value + magic) - magic;
}

Float4 load4(const Group& values, int i) {
  Float4 out;
  std::memcpy(&out, values.data() + i, sizeof out);
  return out;
}

float sum4(Float4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// Sum of squared errors of a group at a scale and a zero, both as the decoder will see them.
float error_at(const Group& values, float scale, float zero) {
  const float inverse = 1.0f / scale;
  Float4 sums = {0, 0, 0, 0};
  for (int i = 0; i < kGroupCols; i += 4) {
    const Float4 v = load4(values, i), error = v - scale * (nearest_u(v * inverse + zero) - zero);
    sums += error * error;
  }
  return sum4(sums);
}

float zero_step(float zero) { return round_to(zero / kInt4ZeroStep, 0.0f, 255.0f) * kInt4ZeroStep; }

struct Affine {
  float scale, zero;
};

// The zero that fits the u of a scale and zero best, by least squares.
float refit_zero(const Group& values, float scale, float zero) {
  const float inverse = 1.0f / scale;
  Float4 sums = {0, 0, 0, 0};
  for (int i = 0; i < kGroupCols; i += 4) {
    const Float4 v = load4(values, i) * inverse;
    sums += nearest_u(v + zero) - v;
  }
  return zero_step(sum4(sums) / kGroupCols);
}

// Searched, not taken from the extremes: clipping a few weights a little buys precision for all others.
Affine search_affine(const Group& values) {
  const auto [low_at, high_at] = std::minmax_element(values.begin(), values.end());
  const float low = std::min(*low_at, 0.0f), high = std::max(*high_at, 0.0f);
  Affine best{0, 0};
  if (!(high - low > 1e-30f)) return best;
  float best_error = INFINITY;
  for (const float shrink : {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f}) {
    const float scale = shrink * (high - low) / 15.0f;
    const float start = zero_step(7.5f - 0.5f * (high + low) / scale);
    for (const float zero : {start, refit_zero(values, scale, start)}) {
      const float error = error_at(values, scale, zero);
      if (error < best_error) {
        best_error = error;
        best = {scale, zero};
      }
    }
  }
  return best;
}

// The row's groups, the last one filled up with zeros; false when a weight is not finite.
bool row_groups(const Weights& weights, int64_t row, std::vector<Group>* groups) {
  for (Group& group : *groups) group.fill(0.0f);
  bool finite = true;
  for (int64_t col = 0; col < weights.n_cols; ++col) {
    const float value = widen(weights, row * weights.row_stride + col);
    finite &= std::isfinite(value);
    (*groups)[col / kGroupCols][col % kGroupCols] = value;
  }
  return finite;
}

void put_bits(uint8_t* group, int64_t parameter_bytes, int bits, int place, int64_t lane, uint32_t u) {
  const int per_lane = 32 / bits;
  uint8_t* at = group + parameter_bytes + (place / per_lane * kPanelRows + lane) * 4;
  uint32_t word;
  std::memcpy(&word, at, 4);
  word |= u << (bits * (place % per_lane));
  std::memcpy(at, &word, 4);
}

void write_int8(const std::vector<Group>& groups, int64_t lane, uint8_t* panel) {
  using Layout = IntLayout<8>;
  std::vector<float> scales;
  for (const Group& group : groups) {
    float top = 0;
    for (const float value : group) top = std::max(top, std::fabs(value));
    scales.push_back(top / 127.0f);
  }
  const float unit = *std::max_element(scales.begin(), scales.end()) / 255.0f;
  std::memcpy(panel + 4 * lane, &unit, 4);
  for (size_t g = 0; g < groups.size(); ++g) {
    uint8_t* to = panel + kIntHeaderBytes + static_cast<int64_t>(g) * Layout::kGroupBytes;
    const float byte = unit > 0 ? clamp_to(std::ceil(scales[g] / unit), 0.0f, 255.0f) : 0.0f;
    to[lane] = static_cast<uint8_t>(byte);
    const float scale = unit * byte;
    for (int i = 0; i < kGroupCols; ++i) {
      const float u = scale > 0 ? round_to(groups[g][i] / scale + kInt8Zero, 0.0f, 255.0f) : kInt8Zero;
      put_bits(to, Layout::kParameterBytes, 8, i, lane, static_cast<uint32_t>(u));
    }
  }
}

void write_int4(const std::vector<Group>& groups, int64_t lane, uint8_t* panel) {
  using Layout = IntLayout<4>;
  std::vector<Affine> found;
  float largest = 0;
  for (const Group& group : groups) {
    found.push_back(search_affine(group));
    largest = std::max(largest, found.back().scale);
  }
  const float unit = largest / 255.0f;
  std::memcpy(panel + 4 * lane, &unit, 4);
  for (size_t g = 0; g < groups.size(); ++g) {
    const Group& values = groups[g];
    uint8_t* to = panel + kIntHeaderBytes + static_cast<int64_t>(g) * Layout::kGroupBytes;
    if (!(unit > 0) || !(found[g].scale > 0)) continue;  // scale byte 0: all weights 0
    const float nearest = round_to(found[g].scale / unit, 1.0f, 255.0f);
    float best_byte = nearest, best_zero = found[g].zero, best_error = INFINITY;
    for (const float byte : {nearest, nearest - 1.0f, nearest + 1.0f}) {
      if (byte < 1.0f || byte > 255.0f) continue;
      const float scale = unit * byte;
      for (const float zero : {found[g].zero, refit_zero(values, scale, found[g].zero)}) {
        const float error = error_at(values, scale, zero);
        if (error < best_error) {
          best_error = error;
          best_byte = byte;
          best_zero = zero;
        }
      }
    }
    to[lane] = static_cast<uint8_t>(best_byte);
    to[kPanelRows + lane] = static_cast<uint8_t>(best_zero / kInt4ZeroStep);
    const float inverse = 1.0f / (unit * best_byte);
    for (int i = 0; i < kGroupCols; ++i)
      put_bits(to, Layout::kParameterBytes, 4, i, lane,
               static_cast<uint32_t>(round_to(values[i] * inverse + best_zero, 0.0f, 15.0f)));
  }
}

template <int kBits>
bool encode(const Weights& weights, EncodedTile* tile) {
  const int64_t panels = (weights.n_rows + kPanelRows - 1) / kPanelRows, n_groups = n_int_groups(weights.n_cols);
  const int64_t panel_bytes = kIntHeaderBytes + n_groups * IntLayout<kBits>::kGroupBytes;
  tile->dtype = Dtype::f32;
  tile->prefix.assign(panels * panel_bytes, 0);
  std::vector<Group> groups(n_groups);
  for (int64_t row = 0; row < weights.n_rows; ++row) {
    if (!row_groups(weights, row, &groups)) return false;
    uint8_t* panel = tile->prefix.data() + row / kPanelRows * panel_bytes;
    if constexpr (kBits == 8)
      write_int8(groups, row % kPanelRows, panel);
    else
      write_int4(groups, row % kPanelRows, panel);
  }
  return true;
}

}  // namespace

bool encode_int8(const Weights& weights, EncodedTile* tile) { return encode<8>(weights, tile); }
bool encode_int4(const Weights& weights, EncodedTile* tile) { return encode<4>(weights, tile); }

}  // namespace vx
