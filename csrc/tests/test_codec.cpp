// decode(encode(w)) == w for every bit pattern, and the SIMD decoders agree with the plain one at every level.
#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "c3/codec.h"
#include "c3/float_layout.h"
#include "ops/tile_kernels.h"
#include "tests/check.h"

using namespace vx;

namespace {

struct Encoded {
  EncodedTile tile;
  TileEntry entry{};
  TileView view() const { return {&entry, tile.prefix.data(), tile.residual.data()}; }
};

Encoded encode(const std::vector<uint8_t>& weights, int64_t rows, int64_t cols, Dtype dtype, Codec codec) {
  Encoded e{encode_tile({weights.data(), cols, rows, cols, dtype}, codec)};
  e.entry.prefix_bytes = static_cast<uint32_t>(e.tile.prefix.size());
  e.entry.residual_bytes = static_cast<uint32_t>(e.tile.residual.size());
  e.entry.codec = e.tile.codec;
  e.entry.dtype = e.tile.dtype;
  e.entry.source_dtype = dtype;
  e.entry.n_rows = static_cast<uint32_t>(rows);
  e.entry.n_cols = static_cast<uint32_t>(cols);
  return e;
}

uint32_t item_at(const std::vector<uint8_t>& bytes, int64_t i, int item) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + i * item, item);
  return value;
}

uint32_t as_fp32(uint32_t bits, Dtype dtype) {
  if (dtype == Dtype::f32) return bits;
  if (dtype == Dtype::bf16) return bits << 16;
  const uint32_t sign = (bits & 0x8000) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) / 16777216.0f;
    uint32_t pattern;
    std::memcpy(&pattern, &magnitude, 4);
    return sign | pattern;
  }
  return sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
}

std::vector<uint8_t> decode(const Encoded& e) {
  const int64_t n = int64_t{e.entry.n_rows} * e.entry.n_cols;
  std::vector<uint8_t> out(n * float_layout(e.entry.dtype).item_bytes());
  decode_tile(e.view(), out.data());
  return out;
}

void check_kernels_agree(const Encoded& e) {
  const std::vector<uint8_t> decoded = decode(e);
  const int64_t rows = e.entry.n_rows, cols = e.entry.n_cols;
  const int item = float_layout(e.entry.dtype).item_bytes();
  for (const Simd level : simd_available()) {
    for (int64_t panel = 0; panel < e.entry.n_panels(); ++panel) {
      PanelScratch scratch;
      PanelReader reader = open_panel(e.view(), panel, scratch);
      std::vector<float> chunk(kChunkCols * kPanelRows);
      for (int64_t col = 0; col < cols; col += kChunkCols) {
        const int64_t width = std::min<int64_t>(kChunkCols, cols - col);
        tile_kernels(level).decode(reader, width, chunk.data());
        for (int64_t c = 0; c < width; ++c)
          for (int64_t row = panel * kPanelRows; row < std::min<int64_t>(rows, (panel + 1) * kPanelRows); ++row) {
            uint32_t got;
            std::memcpy(&got, &chunk[c * kPanelRows + row % kPanelRows], 4);
            VX_CHECK(got == as_fp32(item_at(decoded, row * cols + col + c, item), e.entry.dtype));
          }
      }
    }
  }
}

void check_round_trip(const std::vector<uint8_t>& weights, int64_t rows, int64_t cols, Dtype dtype, Codec codec) {
  const Encoded e = encode(weights, rows, cols, dtype, codec);
  check_tile(e.view());
  const int item = float_layout(dtype).item_bytes(), stored = float_layout(e.entry.dtype).item_bytes();
  const std::vector<uint8_t> decoded = decode(e);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const uint32_t bits = item_at(decoded, i, stored);
    VX_CHECK(item_at(weights, i, item) == (stored < item ? bits << 16 : bits));
  }
  check_kernels_agree(e);
}

std::vector<uint8_t> weights_of(Dtype dtype, int64_t n, int kind, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 0.02f);
  const int item = float_layout(dtype).item_bytes();
  std::vector<uint8_t> out(n * item);
  for (int64_t i = 0; i < n; ++i) {
    float value = normal(random);
    if (kind == 2 && random() % 7 == 0) value = 0;
    if (kind == 2 && random() % 50 == 0) value *= 1000;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (kind == 2) bits &= 0xffff0000u;  // upcast bf16 when stored as f32
    if (kind == 1) bits = random();
    if (dtype == Dtype::bf16 && kind != 1) bits >>= 16;
    if (dtype == Dtype::f16 && kind != 1) {
      const uint32_t e = (bits >> 23) & 255;
      bits = (bits >> 16 & 0x8000) | (e > 112 ? (e - 112) << 10 : 0) | (bits >> 13 & 1023);
    }
    std::memcpy(out.data() + i * item, &bits, item);
  }
  return out;
}

void check_every_half_pattern(Dtype dtype, Codec codec) {
  std::vector<uint8_t> weights(65536 * 2);
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    std::memcpy(weights.data() + 2 * i, &bits, 2);
  }
  check_round_trip(weights, 256, 256, dtype, codec);
  // Again with few exponents a panel, so that the codec is really used and not raw: each row group keeps one window.
  for (uint32_t high = 0; high < 256; high += 16) {
    std::vector<uint8_t> panel(64 * 64 * 2);
    for (uint32_t i = 0; i < 4096; ++i) {
      const uint16_t bits = static_cast<uint16_t>((high << 8) | i);
      std::memcpy(panel.data() + 2 * i, &bits, 2);
    }
    check_round_trip(panel, 64, 64, dtype, codec);
  }
}

// Whatever the bytes say, a tile is refused or decoded inside its ranges (a sanitizer run makes this strict).
void survive_hostile_tiles(Codec codec, std::mt19937& random) {
  const Encoded good = encode(weights_of(Dtype::bf16, 70 * 41, 2, random), 70, 41, Dtype::bf16, codec);
  VX_CHECK(good.entry.codec == codec);
  int refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    Encoded bad = good;
    auto& range = trial % 2 || bad.tile.residual.empty() ? bad.tile.prefix : bad.tile.residual;
    if (trial % 10 == 9)
      range.resize(random() % range.size());
    else
      range[random() % (trial % 3 ? range.size() : 64)] ^= static_cast<uint8_t>(1 + random() % 255);
    bad.entry.prefix_bytes = static_cast<uint32_t>(bad.tile.prefix.size());
    bad.entry.residual_bytes = static_cast<uint32_t>(bad.tile.residual.size());
    try {
      check_tile(bad.view());
    } catch (const std::runtime_error&) {
      ++refused;
      continue;
    }
    std::vector<uint16_t> out(70 * 41);
    decode_tile(bad.view(), out.data());
    std::vector<float> chunk(kChunkCols * kPanelRows);
    PanelScratch scratch;
    PanelReader reader = open_panel(bad.view(), 1, scratch);
    for (int64_t col = 0; col < 41; col += kChunkCols)
      tile_kernels(simd_available()[0]).decode(reader, std::min<int64_t>(kChunkCols, 41 - col), chunk.data());
  }
  VX_CHECK(refused > 300);
}

VX_TEST(round_trip) {
  std::mt19937 random(7);
  const std::pair<int64_t, int64_t> shapes[] = {{64, 64}, {63, 65}, {1, 1}, {130, 151}, {64, 2000}, {300, 40}, {65, 8}};
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32})
    for (const auto& [rows, cols] : shapes)
      for (int kind = 0; kind < 3; ++kind)
        for (const Codec codec : {Codec::exact, Codec::raw, Codec::lz4, Codec::exact12, Codec::dense})
          check_round_trip(weights_of(dtype, rows * cols, kind, random), rows, cols, dtype, codec);
}

VX_TEST(every_half_pattern) {
  for (const Codec codec : {Codec::exact, Codec::lz4, Codec::exact12, Codec::dense})
    for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) check_every_half_pattern(dtype, codec);
}

// A lossless codec that stored everything raw would pass the tests above.
VX_TEST(codecs_are_used) {
  std::mt19937 random(9);
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
    const int item = float_layout(dtype).item_bytes();
    std::vector<uint8_t> weights = weights_of(dtype, 192 * 500, 0, random);
    const Encoded dense = encode(weights, 192, 500, dtype, Codec::dense);
    VX_CHECK(dense.entry.codec == Codec::dense);
    const double bits = dtype == Dtype::bf16 ? 10.7 : dtype == Dtype::f16 ? 13.8 : 26.7;
    VX_CHECK(8.0 * static_cast<double>(dense.tile.prefix.size()) < bits * 192 * 500);
    for (int64_t i = 0; i < 192 * 500; ++i)
      if (random() % 10 != 0) std::memset(weights.data() + i * item, 0, item);
    const Encoded pruned = encode(weights, 192, 500, dtype, Codec::lz4);
    VX_CHECK(pruned.entry.codec == Codec::lz4);
    VX_CHECK(pruned.tile.prefix.size() < weights.size() / 2);
    check_round_trip(weights, 192, 500, dtype, Codec::lz4);
  }
}

VX_TEST(hostile_tiles) {
  std::mt19937 random(8);
  for (const Codec codec : {Codec::exact, Codec::lz4, Codec::exact12, Codec::dense})
    survive_hostile_tiles(codec, random);
}

// A near escape so far below the window that its exponent would be negative: it is masked and spares the sign.
VX_TEST(exponents_that_leave_the_dtype_are_masked) {
  std::mt19937 random(10);
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    std::vector<uint8_t> weights = weights_of(dtype, 64 * 40, 0, random);
    Encoded e = encode(weights, 64, 40, dtype, Codec::exact);
    uint32_t header[4];
    std::memcpy(header, e.tile.prefix.data(), sizeof header);
    VX_CHECK(e.entry.codec == Codec::exact && header[0] < 127 && header[2] > 0);
    e.tile.residual[e.tile.residual.size() - 1] |= 127 << 1;
    check_tile(e.view());
    check_kernels_agree(e);
  }
}

// Codes could stand for exponents that the dtype does not have.
VX_TEST(a_window_beyond_the_dtype_is_refused) {
  std::mt19937 random(11);
  for (const auto& [dtype, highest] : {std::pair{Dtype::bf16, 248}, {Dtype::f16, 24}, {Dtype::f32, 248}}) {
    Encoded e = encode(weights_of(dtype, 64 * 40, 0, random), 64, 40, dtype, Codec::exact);
    VX_CHECK(e.entry.codec == Codec::exact);
    e.tile.prefix[0] = static_cast<uint8_t>(highest);
    check_tile(e.view());
    check_kernels_agree(e);
    e.tile.prefix[0] = static_cast<uint8_t>(highest + 1);
    VX_CHECK_THROWS(check_tile(e.view()), std::runtime_error, {});
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
