// bad_verify beneath Python: every level's kernels against the plain formulas, equal ids at every level and thread
// count, and no read beyond a row (the sanitizers watch arrays of exactly the row's size).
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "common/errors.h"
#include "ops/bad_verify.h"
#include "tests/check.h"

namespace {

using vx::kSampleBlock;
using vx::ScoreScale;

constexpr double kLog2e = 1.4426950408889634074;

std::unique_ptr<float[]> random_row(int64_t n, double spread, unsigned seed) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<double> normal(0.0, 1.0);
  std::unique_ptr<float[]> row(new float[n]);
  for (int64_t i = 0; i < n; ++i) row[i] = static_cast<float>(normal(bits) * spread);
  if (n > 2) row[n / 2] = -std::numeric_limits<float>::infinity();
  return row;
}

float largest(const float* row, int64_t n) { return *std::max_element(row, row + n); }

uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * vx::kMix1;
  bits = (bits ^ (bits >> 27)) * vx::kMix2;
  return bits ^ (bits >> 31);
}

double noise(uint64_t counter) {
  return -std::log(-std::log((static_cast<double>(mix(counter) >> 12) + 0.5) * 0x1p-52));
}

// The whole race at temperature 1, an id at a time.
int64_t plain_race(const float* row, int64_t n, uint64_t seed, uint64_t position) {
  const uint64_t start = mix(mix(seed + vx::kGamma) + (position + 1) * vx::kGamma);
  int64_t winner = 0;
  double best = -std::numeric_limits<double>::infinity();
  for (int64_t id = 0; id < n; ++id) {
    const double value = row[id] + noise(start + (static_cast<uint64_t>(id) + 1) * vx::kGamma);
    if (value > best) best = value, winner = id;
  }
  return winner;
}

VX_TEST(maxima_and_nan) {
  for (const vx::Simd level : vx::simd_available()) {
    const auto& kernels = vx::bad_verify_kernels(level);
    for (const int64_t n : {1, 2, 63, 64, 65, 127, 500}) {
      auto row = random_row(n, 3.0, 1);
      std::vector<float> maxima((n + kSampleBlock - 1) / kSampleBlock);
      VX_CHECK(kernels.block_maxima(row.get(), n, maxima.data()));
      for (size_t b = 0; b < maxima.size(); ++b) {
        const int64_t start = static_cast<int64_t>(b) * kSampleBlock;
        VX_CHECK(maxima[b] == largest(row.get() + start, std::min(kSampleBlock, n - start)));
      }
      for (const float bad : {std::nanf(""), -std::nanf("")}) {
        row[n - 1] = bad;
        VX_CHECK(!kernels.block_maxima(row.get(), n, maxima.data()));
      }
      row[n - 1] = -std::numeric_limits<float>::infinity();
      VX_CHECK(kernels.block_maxima(row.get(), n, maxima.data()));
    }
  }
}

VX_TEST(weights_are_within_one_and_equal_at_every_level) {
  const int64_t n = 100001;
  std::unique_ptr<float[]> row(new float[n]);
  for (int64_t i = 0; i < n; ++i) row[i] = -static_cast<float>(i) * 5e-4f;
  row[n - 1] = -std::numeric_limits<float>::infinity();
  const ScoreScale scale{0.0, 1.0};
  std::vector<uint64_t> wanted(n), found(n);
  vx::bad_verify_kernels(vx::Simd::scalar).weights(row.get(), n, scale, wanted.data());
  VX_CHECK(wanted[0] == uint64_t{1} << 40);
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += wanted[i];
    VX_CHECK(std::abs(static_cast<double>(wanted[i]) - std::exp(static_cast<double>(row[i])) * 0x1p40) <= 0.51);
  }
  for (const vx::Simd level : vx::simd_available()) {
    const auto& kernels = vx::bad_verify_kernels(level);
    kernels.weights(row.get(), n, scale, found.data());
    VX_CHECK(found == wanted);
    VX_CHECK(kernels.mass(row.get(), n, scale) == sum);
  }
}

VX_TEST(masks_leave_nobody_out) {
  int n_contenders = 0, n_ids = 0;
  for (const vx::Simd level : vx::simd_available()) {
    const auto& kernels = vx::bad_verify_kernels(level);
    for (unsigned seed = 0; seed < 400; ++seed) {
      const int64_t n = 1 + seed % kSampleBlock;
      const auto row = random_row(n, seed % 5, seed);
      const ScoreScale scale{largest(row.get(), n), 1.0 / (0.2 + seed % 3)};
      const uint64_t counter = seed * 0x123456789ABCDEFu;
      const double limit = (seed % 8) - 3.0;
      const uint64_t mask = kernels.contenders(row.get(), n, scale, counter, limit * kLog2e);
      const uint64_t above = kernels.at_least(row.get(), n, row[0]);
      const uint64_t reference =
          vx::bad_verify_kernels(vx::Simd::scalar).contenders(row.get(), n, scale, counter, limit * kLog2e);
      VX_CHECK(mask == reference);
      VX_CHECK(n == kSampleBlock || ((mask | above) >> n) == 0);
      for (int64_t i = 0; i < n; ++i) {
        const double value =
            (row[i] - scale.top) * scale.inverse + noise(counter + static_cast<uint64_t>(i) * vx::kGamma);
        VX_CHECK(value < limit || (mask >> i & 1) == 1);
        VX_CHECK((above >> i & 1) == (row[i] >= row[0] ? 1u : 0u));
        n_contenders += static_cast<int>(mask >> i & 1);
        n_ids += 1;
      }
    }
  }
  VX_CHECK(n_contenders < n_ids / 2);
}

VX_TEST(ids_do_not_depend_on_level_or_threads) {
  const vx::SamplingLaw laws[] = {{0.0, 0, 1.0, 0.0},  {1.0, 0, 1.0, 0.0},   {0.7, 0, 0.9, 0.0},
                                  {1.3, 40, 1.0, 0.0}, {0.9, 50, 0.8, 0.01}, {1e-310, 0, 0.5, 1.0}};
  vx::Pool plain(1, vx::Simd::scalar);
  for (const int64_t vocab : {1, 2, 65, 1000, 40001}) {
    for (unsigned seed = 0; seed < 6; ++seed) {
      const auto row = random_row(vocab, seed * 1.5, seed);
      const std::span<const float> logits(row.get(), static_cast<size_t>(vocab));
      for (const auto& law : laws) {
        const int64_t wanted = vx::bad_verify(plain, {}, logits, vocab, law, seed, 7).next_id;
        if (law.temperature == 1.0) VX_CHECK(wanted == plain_race(row.get(), vocab, seed, 7));
        for (const vx::Simd level : vx::simd_available())
          for (const int threads : {1, 3}) {
            vx::Pool pool(threads, level);
            VX_CHECK(vx::bad_verify(pool, {}, logits, vocab, law, seed, 7).next_id == wanted);
          }
      }
    }
  }
}

VX_TEST(sizes_and_laws_are_checked) {
  vx::Pool pool(1, vx::Simd::scalar);
  const std::vector<float> logits(8, 0.0f);
  const std::vector<int64_t> draft(1, 0);
  const vx::SamplingLaw greedy{0.0, 0, 1.0, 0.0};
  auto refuses = [&](std::span<const int64_t> ids, std::span<const float> rows, int64_t vocab, vx::SamplingLaw law,
                     int64_t position) {
    try {
      vx::bad_verify(pool, ids, rows, vocab, law, 0, position);
    } catch (const vx::ArgumentError&) {
      return true;
    }
    return false;
  };
  const std::span<const float> rows(logits);
  VX_CHECK(!refuses(draft, rows, 4, greedy, 0));
  VX_CHECK(refuses(draft, rows, 8, greedy, 0));
  VX_CHECK(refuses(draft, rows.first(7), 4, greedy, 0));
  VX_CHECK(refuses({}, rows.first(0), 0, greedy, 0));
  VX_CHECK(refuses(draft, rows, 4, greedy, -1));
  VX_CHECK(refuses(draft, rows, 4, {-1.0, 0, 1.0, 0.0}, 0));
  VX_CHECK(refuses(draft, rows, 4, {std::nan(""), 0, 1.0, 0.0}, 0));
  VX_CHECK(refuses(draft, rows, 4, {1.0, -1, 1.0, 0.0}, 0));
  VX_CHECK(refuses(draft, rows, 4, {1.0, 0, 0.0, 0.0}, 0));
  VX_CHECK(refuses(draft, rows, 4, {1.0, 0, 1.0, 1.5}, 0));
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
