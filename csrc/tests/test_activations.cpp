// Products with activations of 8 bits against plain integer arithmetic, bit for bit, at every SIMD level.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "c3/codec_int.h"
#include "ops/activation_rows.h"
#include "ops/tile_kernels.h"
#include "tests/check.h"

namespace {

using vx::kGroupCols;
using vx::kPanelRows;

constexpr int64_t kCols = 5 * kGroupCols;

template <int kBits>
struct Panel {
  std::vector<uint8_t> bytes;

  // fill: of every weight; -1 for random ones.
  explicit Panel(int fill) : bytes(vx::kIntHeaderBytes + kCols / kGroupCols * vx::IntLayout<kBits>::kGroupBytes) {
    std::mt19937 random(7);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    for (int row = 0; row < kPanelRows; ++row) {
      const float unit = 0.01f * static_cast<float>(row + 1);
      std::memcpy(&bytes[4 * row], &unit, 4);
    }
    for (int64_t g = 0; g < kCols / kGroupCols && fill >= 0; ++g)
      for (int64_t i = vx::IntLayout<kBits>::kParameterBytes; i < vx::IntLayout<kBits>::kGroupBytes; ++i)
        bytes[vx::kIntHeaderBytes + g * vx::IntLayout<kBits>::kGroupBytes + i] = static_cast<uint8_t>(fill);
  }

  vx::PanelReader open() const {
    vx::PanelReader reader{};
    reader.codec = kBits == 8 ? vx::Codec::int8 : vx::Codec::int4;
    reader.dtype = vx::Dtype::f32;
    reader.integer = {reinterpret_cast<const float*>(bytes.data()), bytes.data() + vx::kIntHeaderBytes};
    return reader;
  }

  // sum of (u - zero) * value over a group; 16 times it is an integer
  float dot(int64_t group, int row, const int8_t (&values)[kGroupCols]) const {
    using Layout = vx::IntLayout<kBits>;
    const uint8_t* at = &bytes[vx::kIntHeaderBytes + group * Layout::kGroupBytes];
    const int64_t zero = kBits == 8 ? 128 * 16 : at[kPanelRows + row];
    int64_t sum = 0;
    for (int col = 0; col < kGroupCols; ++col) {
      uint32_t word;
      std::memcpy(&word, at + Layout::kParameterBytes + (col / Layout::kPerLane * kPanelRows + row) * 4, 4);
      const int64_t u = word >> (kBits * (col % Layout::kPerLane)) & ((1u << kBits) - 1);
      sum += (16 * u - zero) * values[col];
    }
    return static_cast<float>(sum) / 16.0f;
  }

  float scale(int64_t group, int row) const {
    float unit;
    std::memcpy(&unit, &bytes[4 * row], 4);
    return unit * static_cast<float>(bytes[vx::kIntHeaderBytes + group * vx::IntLayout<kBits>::kGroupBytes + row]);
  }
};

struct RoundedGroup {
  int8_t values[kGroupCols];
  float scale;
};

RoundedGroup rounded(const float* x) {
  RoundedGroup out{};
  float a = 0;
  for (int i = 0; i < kGroupCols; ++i) a = std::max(a, std::fabs(x[i]));
  out.scale = a / 127.0f;
  for (int i = 0; i < kGroupCols && a > 0; ++i)
    out.values[i] = static_cast<int8_t>(std::nearbyint(x[i] * (127.0f / a)));
  return out;
}

template <int kBits>
void check_panel(int fill, const std::vector<float>& x, int64_t n_rows) {
  const Panel<kBits> panel(fill);
  std::vector<float> wanted(n_rows * kPanelRows);
  for (int64_t m = 0; m < n_rows; ++m)
    for (int64_t g = 0; g < kCols / kGroupCols; ++g) {
      const RoundedGroup group = rounded(&x[m * kCols + g * kGroupCols]);
      for (int row = 0; row < kPanelRows; ++row) {
        float& sum = wanted[m * kPanelRows + row];
        sum = std::fma(panel.scale(g, row) * group.scale, panel.dot(g, row, group.values), sum);
      }
    }
  vx::ThreadPool threads(2);
  for (const vx::Simd level : vx::simd_available()) {
    const vx::TileKernels& kernels = vx::tile_kernels(level);
    vx::ActivationBuffer buffer;
    buffer.prepare(threads, kBits == 8 ? kernels.round_for_int8 : kernels.round_for_int4, x.data(), n_rows, kCols);
    std::vector<float> got(n_rows * kPanelRows);
    vx::PanelReader reader = panel.open();
    kernels.multiply_activations(reader, kCols, buffer.rows(), n_rows, got.data());
    VX_CHECK(std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)) == 0);
  }
}

std::vector<float> random_rows(int64_t n_rows) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<float> x(n_rows * kCols);
  for (float& v : x) v = normal(random);
  std::fill(x.begin(), x.begin() + kGroupCols, 0.0f);
  return x;
}

VX_TEST(random_weights_times_any_number_of_rows) {
  for (const int64_t n_rows : {1, 2, 3, 4, 5, 7, 33, 70}) {
    check_panel<8>(-1, random_rows(n_rows), n_rows);
    check_panel<4>(-1, random_rows(n_rows), n_rows);
  }
}

// Every product as large as it can be, of either sign: nothing saturates.
VX_TEST(extreme_weights_and_activations) {
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> x(5 * kCols, sign);
    for (const int fill : {0, 1, 127, 128, 255}) {
      check_panel<8>(fill, x, 5);
      check_panel<4>(fill, x, 5);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
