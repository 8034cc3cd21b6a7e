// multiply of every lossless codec at every level is acc = fma(weight, x, acc) by rising column, escapes included.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "c3/codec.h"
#include "c3/codec_exact.h"
#include "c3/float_layout.h"
#include "ops/tile_kernels.h"
#include "tests/check.h"

using namespace vx;

namespace {

constexpr int64_t kRows = 64;

// bf16 weights, one in `every` of them far outside any window.
std::vector<uint16_t> weights_with_escapes(int64_t n_cols, uint32_t every, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint16_t> out(kRows * n_cols);
  for (uint16_t& weight : out) {
    const float value = random() % every == 0 ? normal(random) * 0x1p-40f : normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    weight = static_cast<uint16_t>(bits >> 16);
  }
  return out;
}

float widened(uint16_t weight) {
  const uint32_t bits = uint32_t{weight} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

VX_TEST(multiply_adds_by_rising_column) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  for (const int64_t n_cols : {1, 8, 37, 200})
    for (const uint32_t every : {5u, 300u, 100000u}) {
      const std::vector<uint16_t> weights = weights_with_escapes(n_cols, every, random);
      for (const int64_t n_rows : {1, 2, 3, 5, 17}) {
        std::vector<float> x(n_rows * n_cols), expected(n_rows * kRows);
        for (float& value : x) value = normal(random);
        for (int64_t m = 0; m < n_rows; ++m)
          for (int64_t row = 0; row < kRows; ++row)
            for (int64_t col = 0; col < n_cols; ++col)
              expected[m * kRows + row] =
                  std::fma(widened(weights[row * n_cols + col]), x[m * n_cols + col], expected[m * kRows + row]);
        for (const Codec codec : {Codec::raw, Codec::exact, Codec::exact12, Codec::lz4, Codec::dense}) {
          const EncodedTile tile = encode_tile(
              {reinterpret_cast<const uint8_t*>(weights.data()), n_cols, kRows, n_cols, Dtype::bf16}, codec);
          TileEntry entry{};
          entry.prefix_bytes = static_cast<uint32_t>(tile.prefix.size());
          entry.residual_bytes = static_cast<uint32_t>(tile.residual.size());
          entry.codec = tile.codec;
          entry.dtype = entry.source_dtype = tile.dtype;
          entry.n_rows = kRows;
          entry.n_cols = static_cast<uint32_t>(n_cols);
          const TileView view{&entry, tile.prefix.data(), tile.residual.data()};
          check_tile(view);
          for (const Simd level : simd_available()) {
            PanelScratch panel;
            PanelReader reader = open_panel(view, 0, panel);
            std::vector<float> found(n_rows * kRows), scratch(kScratchFloats);
            tile_kernels(level).multiply(reader, n_cols, x.data(), n_cols, n_rows, found.data(), scratch.data());
            VX_CHECK(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
          }
        }
      }
    }
}

uint32_t pattern(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float value_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Weights of a tile, as fp32: in the window, near it, far above and far below, zeros of both signs; in f16 subnormals.
std::vector<float> mixed_weights(Dtype dtype, int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> out(n);
  for (float& weight : out) {
    const uint32_t kind = random() % 60;
    weight = normal(random) * (kind == 0 ? 64.0f : kind == 1 ? 0x1p-9f : kind == 2 ? 0.0f : 1.0f);
    if (kind == 3 && dtype != Dtype::f16) weight *= 0x1p-130f * 0x1p+20f;
    if (kind == 3 && dtype == Dtype::f16)
      weight = static_cast<float>(static_cast<int>(random() % 2047) - 1023) * 0x1p-24f;
    uint32_t bits = pattern(weight);
    if (dtype == Dtype::bf16) bits &= 0xffff0000u;
    if (dtype == Dtype::f16 && kind != 3) bits = (bits >> 23 & 255) < 113 ? bits & 0x80000000u : bits & 0xffffe000u;
    weight = value_of(bits);
  }
  return out;
}

// As the dtype stores it; the value fits.
uint32_t encoded(Dtype dtype, float weight) {
  const uint32_t bits = pattern(weight), e = bits >> 23 & 255;
  if (dtype == Dtype::f32) return bits;
  if (dtype == Dtype::bf16) return bits >> 16;
  if (e >= 113) return (bits >> 16 & 0x8000u) | (e - 112) << 10 | (bits >> 13 & 1023u);
  return (bits >> 16 & 0x8000u) | static_cast<uint32_t>(std::fabs(weight) * 0x1p24f);
}

// FORMAT.md: what a weight decodes to without the residual; *is_far where that comes from a far escape.
float without_residual(Dtype dtype, float weight, uint32_t base, bool* is_far) {
  const FloatLayout layout = float_layout(dtype);
  const uint32_t bits = encoded(dtype, weight);
  const uint32_t sign = bits >> (layout.exponent_bits + layout.mantissa_bits);
  const uint32_t mantissa = bits & ((1u << layout.mantissa_bits) - 1);
  const int e = static_cast<int>(bits >> layout.mantissa_bits & ((1u << layout.exponent_bits) - 1));
  const int distance = e - static_cast<int>(base);
  const bool coded = distance >= 1 && distance <= 7;
  const bool escaped = !coded && (e != 0 || (dtype == Dtype::f16 && mantissa != 0));
  *is_far = escaped && (distance > 7 || distance < -127);
  if (!coded && !*is_far) return sign ? -0.0f : 0.0f;
  const int bias = dtype == Dtype::f16 ? 15 : 127;
  const float fraction = mantissa >> layout.residual_bits() ? 0.75f : 0.25f;
  const float magnitude = std::ldexp(1.0f + fraction, e - bias);
  return sign ? -magnitude : magnitude;
}

VX_TEST(prefixes_multiply_by_rising_column_then_by_far_escape) {
  std::mt19937 random(9);
  int64_t n_far = 0, n_near = 0;
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32})
    for (const int64_t n_cols : {1, 8, 37, 200}) {
      const std::vector<float> weights = mixed_weights(dtype, kRows * n_cols, random);
      const int item = float_layout(dtype).item_bytes();
      std::vector<uint8_t> bytes(weights.size() * item);
      for (size_t i = 0; i < weights.size(); ++i) {
        const uint32_t bits = encoded(dtype, weights[i]);
        std::memcpy(bytes.data() + i * item, &bits, item);
      }
      const EncodedTile tile = encode_tile({bytes.data(), n_cols, kRows, n_cols, dtype}, Codec::exact);
      if (tile.codec != Codec::exact) continue;
      TileEntry entry{};
      entry.prefix_bytes = static_cast<uint32_t>(tile.prefix.size());
      entry.residual_bytes = static_cast<uint32_t>(tile.residual.size());
      entry.codec = tile.codec;
      entry.dtype = entry.source_dtype = tile.dtype;
      entry.n_rows = kRows;
      entry.n_cols = static_cast<uint32_t>(n_cols);
      PanelHeader header;
      std::memcpy(&header, tile.prefix.data(), sizeof header);
      n_far += header.n_far;
      n_near += header.n_near;
      for (const int64_t n_rows : {1, 2, 5, 17}) {
        std::normal_distribution<float> normal(0, 1);
        std::vector<float> x(n_rows * n_cols), expected(n_rows * kRows), copy(n_cols * kRows);
        for (float& value : x) value = normal(random);
        for (const bool far : {false, true})
          for (int64_t col = 0; col < n_cols; ++col)
            for (int64_t row = 0; row < kRows; ++row) {
              bool is_far;
              const float weight = without_residual(dtype, weights[row * n_cols + col], header.base, &is_far);
              copy[col * kRows + row] = weight;
              for (int64_t m = 0; m < n_rows && is_far == far; ++m)
                expected[m * kRows + row] = std::fma(weight, x[m * n_cols + col], expected[m * kRows + row]);
            }
        const TileView view{&entry, tile.prefix.data(), nullptr};
        for (const Simd level : simd_available()) {
          PanelScratch panel;
          PanelReader reader = open_prefix_panel(view, 0, panel);
          std::vector<float> found(n_rows * kRows), scratch(kScratchFloats);
          tile_kernels(level).multiply(reader, n_cols, x.data(), n_cols, n_rows, found.data(), scratch.data());
          VX_CHECK(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0);
          reader = open_prefix_panel(view, 0, panel);
          for (int64_t col = 0; col < n_cols; col += kChunkCols) {
            const int64_t width = std::min(kChunkCols, n_cols - col);
            tile_kernels(level).decode(reader, width, scratch.data());
            VX_CHECK(std::memcmp(scratch.data(), copy.data() + col * kRows, width * kRows * sizeof(float)) == 0);
          }
        }
      }
    }
  VX_CHECK(n_far > 100 && n_near > 100);
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
