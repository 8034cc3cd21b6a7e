// multiply of every lossless codec at every level is acc = fma(weight, x, acc) by rising column, escapes included.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "c3/codec.h"
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

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
