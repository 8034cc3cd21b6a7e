// The arithmetic that Python cannot reach alone: exp over the whole float range, equal bits at every level and thread
// count, and size checks of the C++ edge.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/errors.h"
#include "ops/small_ops.h"

namespace {

int failures = 0;

void check(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// NaN payloads are unspecified; everything else must match bit for bit.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(bits);
  return values;
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Distance to the exact value in units of the last place of its float.
double error_ulp(float got, double exact) {
  const auto nearest = static_cast<float>(exact);
  if (std::isinf(nearest) || std::isinf(got)) return got == nearest ? 0.0 : 1e9;
  const float up = std::nextafterf(std::fabs(nearest), std::numeric_limits<float>::infinity());
  return std::fabs(static_cast<double>(got) - exact) / (static_cast<double>(up) - std::fabs(nearest));
}

// Every 251st bit pattern, and every float near the ends of the range.
void test_exp(vx::Simd level) {
  std::vector<float> x{0.0f, -0.0f, INFINITY, -INFINITY, NAN, from_bits(0x7f812345u), from_bits(0xffc00001u)};
  for (uint64_t bits = 0; bits < (1ull << 32); bits += 1021) x.push_back(from_bits(static_cast<uint32_t>(bits)));
  for (const float edge : {88.72283f, -87.33654f, -103.97208f, -103.2789f}) {
    float v = edge;
    for (int i = 0; i < 2000; ++i) v = std::nextafterf(v, -INFINITY);
    for (int i = 0; i < 4000; ++i, v = std::nextafterf(v, INFINITY)) x.push_back(v);
  }
  std::vector<float> y(x.size());
  vx::small_ops(level).exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double worst = 0.0;
  float worst_at = 0.0f;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      check(std::isnan(y[i]), "exp(NaN) is NaN");
      continue;
    }
    const double error = error_ulp(y[i], std::exp(static_cast<double>(x[i])));
    if (error > worst) worst = error, worst_at = x[i];
  }
  std::printf("exp %s: largest error %.4f ulp at %.9g, %zu values\n", vx::simd_name(level), worst, worst_at, x.size());
  check(worst <= 1.0, "exp is within 1 ulp");
  std::vector<float> expected(x.size());
  vx::small_ops(vx::Simd::scalar).exp(x.data(), expected.data(), static_cast<int64_t>(x.size()));
  check(same_bits(y, expected), std::string("exp has the same bits at level ") + vx::simd_name(level));
}

struct Case {
  int64_t tokens, heads, kv_heads, dim, capacity, pos, window;
};

std::vector<float> run_attend(vx::Pool& pool, const Case& c, const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<float>& v, int64_t chunk) {
  std::vector<float> out(q.size(), NAN);
  const vx::CacheShape cache{c.kv_heads, c.capacity, c.dim};
  for (int64_t at = 0; at < c.tokens; at += chunk) {
    const int64_t n = std::min(chunk, c.tokens - at), row = c.heads * c.dim;
    const vx::In part{q.data() + at * row, static_cast<size_t>(n * row)};
    const vx::Out to{out.data() + at * row, static_cast<size_t>(n * row)};
    vx::attend(pool, part, k, v, to, cache, {n, c.heads, c.pos + at, c.window}, 0.125f);
  }
  return out;
}

void test_attend() {
  for (const Case& c :
       {Case{37, 14, 2, 64, 200, 50, 0}, Case{130, 4, 4, 20, 260, 100, 33}, Case{1, 3, 1, 80, 700, 699, 0},
        Case{70, 8, 2, 128, 70, 0, 5}, Case{3, 2, 2, 1, 65, 62, 0}, Case{9, 2, 1, 48, 300, 250, 64}}) {
    const int64_t cache = c.kv_heads * c.capacity * vx::padded_dim(c.dim);
    const auto q = random_floats(c.tokens * c.heads * c.dim, 1), k = random_floats(cache, 2),
               v = random_floats(cache, 3);
    vx::Pool first(1, vx::Simd::scalar);
    const auto expected = run_attend(first, c, q, k, v, c.tokens);
    check(std::none_of(expected.begin(), expected.end(), [](float f) { return std::isnan(f); }), "attend writes all");
    for (const vx::Simd level : vx::simd_available())
      for (const int threads : {1, 2, 3, 5})
        for (const int64_t chunk : {c.tokens, int64_t{1}, int64_t{7}}) {
          vx::Pool pool(threads, level);
          check(same_bits(run_attend(pool, c, q, k, v, chunk), expected),
                std::string("attend ") + vx::simd_name(level) + " threads " + std::to_string(threads) + " chunk " +
                    std::to_string(chunk) + " of " + std::to_string(c.tokens) + " tokens");
        }
  }
}

void test_rows() {
  for (const int64_t dim : {1, 16, 63, 128, 500}) {
    const int64_t rows = 67;
    const auto x = random_floats(rows * dim, 4), w = random_floats(dim, 5), up = random_floats(rows * dim, 6);
    std::vector<float> expected(x.size(), NAN), gated(x.size(), NAN);
    vx::Pool first(1, vx::Simd::scalar);
    vx::rms_norm(first, x, w, 1e-6f, expected, rows, dim);
    vx::swiglu(first, x, up, gated);
    for (const vx::Simd level : vx::simd_available())
      for (const int threads : {1, 3}) {
        vx::Pool pool(threads, level);
        std::vector<float> out(x.size(), NAN);
        vx::rms_norm(pool, x, w, 1e-6f, out, rows, dim);
        check(same_bits(out, expected), std::string("rms_norm ") + vx::simd_name(level) + " " + std::to_string(dim));
        std::fill(out.begin(), out.end(), NAN);
        vx::swiglu(pool, x, up, out);
        check(same_bits(out, gated), std::string("swiglu ") + vx::simd_name(level) + " " + std::to_string(dim));
        std::vector<float> one(dim, NAN);
        const vx::In row{x.data() + 5 * dim, static_cast<size_t>(dim)};
        vx::rms_norm(pool, row, w, 1e-6f, one, 1, dim);
        check(std::equal(one.begin(), one.end(), expected.begin() + 5 * dim), "rms_norm of one row");
      }
  }
}

void test_rope() {
  for (const int64_t half : {1, 15, 16, 17, 40}) {
    const int64_t tokens = 9, heads = 3;
    const auto x = random_floats(tokens * heads * 2 * half, 7);
    std::vector<int64_t> positions(tokens);
    for (int64_t t = 0; t < tokens; ++t) positions[t] = 1000 * t;
    std::vector<double> inv_freq(half);
    for (int64_t i = 0; i < half; ++i) inv_freq[i] = std::pow(10000.0, -static_cast<double>(i) / half);
    std::vector<float> cos(tokens * half), sin(tokens * half), expected(x.size(), NAN);
    vx::rope_table(positions, inv_freq, cos, sin);
    vx::Pool first(1, vx::Simd::scalar);
    vx::rope(first, x, cos, sin, expected, tokens, heads, half);
    for (const vx::Simd level : vx::simd_available()) {
      vx::Pool pool(2, level);
      std::vector<float> out(x.size(), NAN);
      vx::rope(pool, x, cos, sin, out, tokens, heads, half);
      check(same_bits(out, expected) && !std::isnan(out[0]),
            std::string("rope ") + vx::simd_name(level) + " " + std::to_string(half));
    }
  }
}

template <class F>
void refuses(const std::string& needle, F&& call) {
  try {
    call();
  } catch (const vx::ArgumentError& e) {
    check(std::string(e.what()).find(needle) != std::string::npos, "'" + std::string(e.what()) + "' names " + needle);
    return;
  }
  check(false, "refused: " + needle);
}

void test_sizes() {
  vx::Pool pool(1, vx::Simd::scalar);
  std::vector<float> a(12), small(11);
  refuses("[rms_norm] the output must hold 3 x 4 values, got 11",
          [&] { vx::rms_norm(pool, a, vx::In(a).first(4), 0.0f, small, 3, 4); });
  refuses("[swiglu] the output", [&] { vx::swiglu(pool, a, a, small); });
  refuses("[rope] sin", [&] { vx::rope(pool, a, vx::In(a).first(6), a, a, 3, 1, 2); });
  refuses("[attend] k_cache", [&] { vx::attend(pool, a, small, a, a, {1, 1, 12}, {1, 1, 0, 0}, 1.0f); });
  std::vector<float> cache(16);
  refuses("got 1", [&] { vx::attend(pool, a, cache, cache, a, {1, 1, 12}, {1, 1, 1, 0}, 1.0f); });
  refuses("[kv_append] pos", [&] { vx::kv_append(a, a, cache, cache, {1, 1, 12}, 1, 1); });
  refuses("[rope_table] sin", [&] { vx::rope_table(std::vector<int64_t>{1}, std::vector<double>(12), a, small); });
}

}  // namespace

int main() {
  for (const vx::Simd level : vx::simd_available()) test_exp(level);
  test_attend();
  test_rows();
  test_rope();
  test_sizes();
  if (failures == 0) std::printf("all good\n");
  return failures == 0 ? 0 : 1;
}
