// Every tile kernel gives the bits of the scalar level at every level that this machine has: each codec and dtype, 1 to
// 16 rows, sizes that leave remainders. What the bits should be, the tests of codecs, products and activations say.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "c3/codec.h"
#include "c3/float_layout.h"
#include "ops/tile_kernels.h"
#include "tests/check.h"

using namespace vx;

namespace {

constexpr int64_t kMaxRows = 16;

// A tile of one panel.
struct Tile {
  EncodedTile bytes;
  TileEntry entry{};
  bool prefix_alone = false;  // is read without its residual
  TileView view() const { return {&entry, bytes.prefix.data(), bytes.residual.data()}; }
  PanelReader open(PanelScratch& scratch) const {
    if (!prefix_alone) return open_panel(view(), 0, scratch);
    return open_prefix_panel({&entry, bytes.prefix.data(), nullptr}, 0, scratch);
  }
  bool is_integer() const { return entry.codec == Codec::int8 || entry.codec == Codec::int4; }
};

// Finite weights, some zero and some far outside any window.
std::vector<uint8_t> random_weights(Dtype dtype, int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 0.02f);
  const int item = float_layout(dtype).item_bytes();
  std::vector<uint8_t> out(n * item);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t kind = random() % 100;
    const float value = normal(random) * (kind == 0 ? 0x1p-30f : kind == 1 ? 0.0f : kind == 2 ? 0x1p-9f : 1.0f);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (dtype == Dtype::f16) {
      const uint32_t exponent = bits >> 23 & 255;
      bits = (bits >> 16 & 0x8000) | (exponent > 112 ? (exponent - 112) << 10 : 0) | (bits >> 13 & 1023);
    }
    if (dtype == Dtype::bf16) bits >>= 16;
    std::memcpy(out.data() + i * item, &bits, item);
  }
  return out;
}

Tile random_tile(Codec codec, Dtype dtype, int64_t rows, int64_t cols, std::mt19937& random) {
  const std::vector<uint8_t> weights = random_weights(dtype, rows * cols, random);
  Tile tile{encode_tile({weights.data(), cols, rows, cols, dtype}, codec)};
  tile.entry.prefix_bytes = static_cast<uint32_t>(tile.bytes.prefix.size());
  tile.entry.residual_bytes = static_cast<uint32_t>(tile.bytes.residual.size());
  tile.entry.codec = tile.bytes.codec;
  tile.entry.dtype = tile.bytes.dtype;
  tile.entry.source_dtype = dtype;
  tile.entry.n_rows = static_cast<uint32_t>(rows);
  tile.entry.n_cols = static_cast<uint32_t>(cols);
  check_tile(tile.view());
  return tile;
}

using Values = std::vector<float>;

Values random_values(int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Values values(n);
  for (float& value : values) value = normal(random);
  return values;
}

struct Run {
  const TileKernels& kernels;
  const Tile& tile;
  const Values& x;  // [kMaxRows, columns or panel rows]

  int64_t n_cols() const { return tile.entry.n_cols; }

  Values decode() const {
    PanelScratch panel;
    PanelReader reader = tile.open(panel);
    Values out((n_cols() + kChunkCols) * kPanelRows);
    for (int64_t col = 0; col < n_cols(); col += kChunkCols)
      kernels.decode(reader, std::min(kChunkCols, n_cols() - col), out.data() + col * kPanelRows);
    out.resize(n_cols() * kPanelRows);
    return out;
  }

  Values multiply(int64_t n_rows) const {
    PanelScratch panel;
    PanelReader reader = tile.open(panel);
    Values sums(n_rows * kPanelRows, 0.25f), scratch(kScratchFloats);
    if (tile.is_integer()) {
      IntRowsBuffer rows;
      rows.prepare(tile.entry.codec == Codec::int8 ? 8 : 4, x.data(), n_rows, n_cols());
      kernels.multiply_integer(reader, n_cols(), rows.rows(), n_rows, sums.data());
    } else {
      kernels.multiply(reader, n_cols(), x.data(), n_cols(), n_rows, sums.data(), scratch.data());
    }
    return sums;
  }

  Values multiply_transposed(int64_t n_rows) const {
    PanelScratch panel;
    PanelReader reader = tile.open(panel);
    const int64_t panel_rows = tile.entry.n_rows;
    Values sums((n_cols() + kPanelRows - 1) / kPanelRows * kPanelRows * n_rows, 0.25f), scratch(2 * kScratchFloats);
    kernels.multiply_transposed(reader, n_cols(), panel_rows, x.data(), panel_rows, n_rows, sums.data(),
                                scratch.data());
    return sums;
  }

  Values multiply_activations(ThreadPool& threads, int64_t n_rows) const {
    PanelScratch panel;
    PanelReader reader = tile.open(panel);
    ActivationBuffer rows;
    rows.prepare(threads, tile.entry.codec == Codec::int8 ? kernels.round_for_int8 : kernels.round_for_int4, x.data(),
                 n_rows, n_cols());
    Values sums(n_rows * kPanelRows, 0.25f);
    kernels.multiply_activations(reader, n_cols(), rows.rows(), n_rows, sums.data());
    return sums;
  }
};

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_level(Simd level, const Tile& tile, const Values& x) {
  const Run run{tile_kernels(level), tile, x}, scalar{tile_kernels(Simd::scalar), tile, x};
  ThreadPool threads(1);
  VX_CHECK(same_bits(run.decode(), scalar.decode()));
  for (int64_t n_rows = 1; n_rows <= kMaxRows; ++n_rows) {
    VX_CHECK(same_bits(run.multiply(n_rows), scalar.multiply(n_rows)));
    VX_CHECK(same_bits(run.multiply_transposed(n_rows), scalar.multiply_transposed(n_rows)));
    if (tile.is_integer())
      VX_CHECK(same_bits(run.multiply_activations(threads, n_rows), scalar.multiply_activations(threads, n_rows)));
  }
}

void check_codec(Codec codec, bool prefix_alone = false) {
  std::mt19937 random(static_cast<uint32_t>(codec) + 1);
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32})
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{64, 104}, {63, 37}, {5, 1}}) {
      Tile tile = random_tile(codec, dtype, rows, cols, random);
      tile.prefix_alone = prefix_alone;
      if (cols == 104 && codec != Codec::lz4 && (codec != Codec::exact12 || dtype == Dtype::bf16))
        VX_CHECK(tile.entry.codec == codec);
      const Values x = random_values(kMaxRows * std::max(rows, cols), random);
      for (const Simd level : simd_available())
        if (level != Simd::scalar) check_level(level, tile, x);
    }
}

VX_TEST(raw) { check_codec(Codec::raw); }
VX_TEST(exact) { check_codec(Codec::exact); }
VX_TEST(exact_prefix) { check_codec(Codec::exact, true); }
VX_TEST(exact12) { check_codec(Codec::exact12); }
VX_TEST(lz4) { check_codec(Codec::lz4); }
VX_TEST(dense) { check_codec(Codec::dense); }
VX_TEST(int8) { check_codec(Codec::int8); }
VX_TEST(int4) { check_codec(Codec::int4); }

VX_TEST(rounding_activations) {
  std::mt19937 random(31);
  constexpr int64_t kCols = 7 * kGroupCols + 5, kGroups = 8;
  Values x = random_values(kCols, random);
  x[3] = std::numeric_limits<float>::infinity();
  x[kGroupCols] = std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < kGroupCols; ++i) {
    x[2 * kGroupCols + i] *= 0x1p-120f;
    x[3 * kGroupCols + i] *= 0x1p120f;
    x[4 * kGroupCols + i] = static_cast<float>(i) - 0.5f;  // ties
  }
  x[4 * kGroupCols] = 127.0f;
  struct Rounded {
    std::vector<int8_t> values = std::vector<int8_t>(kGroups * kGroupCols);
    Values scales = Values(kGroups), offsets = Values(kGroups);
    Rounded(RoundRow round, const Values& x) {
      round(x.data(), kCols, 1, values.data(), scales.data(), offsets.data());
    }
  };
  for (const Simd level : simd_available())
    for (const RoundRow TileKernels::* round : {&TileKernels::round_for_int8, &TileKernels::round_for_int4}) {
      const Rounded got(tile_kernels(level).*round, x), wanted(tile_kernels(Simd::scalar).*round, x);
      VX_CHECK(got.values == wanted.values);
      VX_CHECK(same_bits(got.scales, wanted.scales));
      VX_CHECK(same_bits(got.offsets, wanted.offsets));
    }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
