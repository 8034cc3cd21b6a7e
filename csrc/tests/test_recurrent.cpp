// The recurrent ops on arrays that end where their memory ends, so that the sanitizers see every read and write outside
// them: equal bits for every SIMD level, thread count, memory layout and cut.
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/errors.h"
#include "ops/recurrent.h"
#include "tests/check.h"

namespace {

using Shape = std::vector<int64_t>;

// A dense array; `order` lists its dimensions from the outermost in memory to the innermost.
class Array {
 public:
  Array() = default;

  explicit Array(const Shape& shape, Shape order = {}) {
    if (order.empty()) {
      order.resize(shape.size());
      std::iota(order.begin(), order.end(), 0);
    }
    view_.n_dims = static_cast<int>(shape.size());
    int64_t size = 1;
    for (auto d = order.rbegin(); d != order.rend(); ++d) {
      const auto at = static_cast<size_t>(*d);
      view_.shape[at] = shape[at];
      view_.stride[at] = size;
      size *= shape[at];
    }
    values_.assign(static_cast<size_t>(size), std::numeric_limits<float>::quiet_NaN());
  }

  // Values that depend on the seed and the logical position, whatever the order in memory.
  Array& fill(unsigned seed, float scale, float offset = 0.0f) {
    std::mt19937 bits(seed);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (size_t i = 0; i < values_.size(); ++i) at(static_cast<int64_t>(i)) = offset + scale * uniform(bits);
    return *this;
  }

  // The element of a flat index in logical order.
  float& at(int64_t index) {
    int64_t offset = 0;
    for (int d = view_.n_dims - 1; d >= 0; --d) {
      const auto i = static_cast<size_t>(d);
      offset += index % view_.shape[i] * view_.stride[i];
      index /= view_.shape[i];
    }
    return values_[static_cast<size_t>(offset)];
  }

  std::vector<float> logical() {
    std::vector<float> all(values_.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = at(static_cast<int64_t>(i));
    return all;
  }

  vx::Strided view() {
    vx::Strided view = view_;
    view.data = values_.data();
    return view;
  }

  // Columns begin..end of the last dimension.
  vx::Strided columns(int64_t begin, int64_t end) {
    vx::Strided part = view();
    const auto last = static_cast<size_t>(part.n_dims - 1);
    part.data += begin * part.stride[last];
    part.shape[last] = end - begin;
    return part;
  }

 private:
  vx::Strided view_;
  std::vector<float> values_;
};

void check_bits(const std::vector<float>& got, const std::vector<float>& wanted, const std::string& what) {
  const bool same = got.size() == wanted.size() &&
                    (got.empty() || std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)) == 0);
  if (!same) vx::test::fail(__FILE__, __LINE__, "other bits: " + what);
}

struct Case {
  int64_t batch, channels, length, n_state, heads;  // heads: 0 where A is [channels, n_state]
};

const Case kCases[] = {{1, 1, 1, 1, 0},    {2, 15, 65, 7, 0},   {1, 16, 64, 8, 0},    {3, 17, 2, 17, 0},
                       {2, 48, 65, 16, 0}, {1, 100, 63, 64, 0}, {2, 1, 3, 1, 1},      {2, 17, 65, 16, 1},
                       {1, 48, 33, 7, 6},  {2, 100, 65, 16, 5}, {1, 192, 65, 128, 3}, {2, 16, 70, 3, 16}};

std::string text(const Case& c) {
  return "batch " + std::to_string(c.batch) + " channels " + std::to_string(c.channels) + " length " +
         std::to_string(c.length) + " states " + std::to_string(c.n_state) + " heads " + std::to_string(c.heads);
}

// The arrays of a scan; with `rows_last` what is logically [.., channel, time] lies [.., time, channel] in memory.
struct Scan {
  Array u, delta, z, A, B, C, D, bias, state, y;

  Scan(const Case& c, bool rows_last) {
    const Shape order = rows_last ? Shape{0, 2, 1} : Shape{0, 1, 2};
    const int64_t rows = c.heads > 0 ? c.heads : c.channels;
    u = Array({c.batch, c.channels, c.length}, order).fill(1, 2.0f);
    delta = Array({c.batch, rows, c.length}, order).fill(2, 0.5f);
    z = Array({c.batch, c.channels, c.length}, order).fill(3, 3.0f);
    B = Array({c.batch, c.n_state, c.length}, order).fill(4, 1.0f);
    C = Array({c.batch, c.n_state, c.length}, order).fill(5, 1.0f);
    A = c.heads > 0 ? Array({c.heads}) : Array({c.channels, c.n_state}, rows_last ? Shape{1, 0} : Shape{0, 1});
    A.fill(6, 0.5f, -0.6f);
    D = Array({c.channels}).fill(7, 1.0f);
    bias = Array({rows}).fill(8, 0.5f);
    state = Array({c.batch, c.channels, c.n_state}, order).fill(9, 1.0f);
    y = Array({c.batch, c.channels, c.length}, order);
  }

  void run(vx::Pool& pool, int64_t begin, int64_t end) {
    vx::ssm_scan(pool,
                 {u.columns(begin, end),
                  delta.columns(begin, end),
                  A.view(),
                  B.columns(begin, end),
                  C.columns(begin, end),
                  D.view(),
                  z.columns(begin, end),
                  bias.view(),
                  true,
                  state.view(),
                  state.view(),
                  {}},
                 y.columns(begin, end));
  }
};

struct Conv {
  Array x, weight, bias, state, y;

  Conv(const Case& c, bool rows_last) {
    const Shape order = rows_last ? Shape{0, 2, 1} : Shape{0, 1, 2};
    const int64_t width = 1 + c.n_state % 7;
    x = Array({c.batch, c.channels, c.length}, order).fill(1, 2.0f);
    weight = Array({c.channels, width}, rows_last ? Shape{1, 0} : Shape{0, 1}).fill(2, 1.0f);
    bias = Array({c.channels}).fill(3, 1.0f);
    state = Array({c.batch, c.channels, width - 1}, order).fill(4, 2.0f);
    y = Array({c.batch, c.channels, c.length}, order);
  }

  void run(vx::Pool& pool, int64_t begin, int64_t end) {
    vx::causal_conv1d(pool, {x.columns(begin, end), weight.view(), bias.view(), true, state.view(), state.view(), {}},
                      y.columns(begin, end));
  }
};

template <class Op>
void check_case(const Case& c, const std::string& name) {
  Op first(c, false);
  vx::Pool plain(1, vx::Simd::scalar);
  first.run(plain, 0, c.length);
  const std::vector<float> y = first.y.logical(), state = first.state.logical();
  for (const float value : y) VX_CHECK(std::isfinite(value));
  for (const vx::Simd level : vx::simd_available())
    for (const int threads : {1, 3})
      for (const bool rows_last : {false, true})
        for (const int64_t chunk : {c.length, int64_t{1}, int64_t{40}}) {
          vx::Pool pool(threads, level);
          Op op(c, rows_last);
          for (int64_t at = 0; at < c.length; at += chunk) op.run(pool, at, std::min(at + chunk, c.length));
          const std::string what = name + " " + vx::simd_name(level) + " threads " + std::to_string(threads) +
                                   (rows_last ? " rows last" : "") + " chunk " + std::to_string(chunk) + ": " + text(c);
          check_bits(op.y.logical(), y, what);
          check_bits(op.state.logical(), state, what + ", state");
        }
}

VX_TEST(scan_bits) {
  for (const Case& c : kCases) check_case<Scan>(c, "ssm_scan");
}

VX_TEST(conv_bits) {
  for (const Case& c : kCases) check_case<Conv>(c, "causal_conv1d");
}

// A and states in blocks of 16 channels, the last one not full.
VX_TEST(blocked_bits) {
  const Case c{2, 40, 33, 7, 0};
  vx::Pool plain(1, vx::Simd::scalar);
  Scan first(c, false);
  first.run(plain, 0, c.length);
  for (const vx::Simd level : vx::simd_available()) {
    vx::Pool pool(2, level);
    Scan scan(c, false);
    Array rates({3, c.n_state, 16}), states({c.batch, 3, c.n_state, 16});
    auto blocked = [&](int64_t channel, int64_t n) { return (channel / 16 * c.n_state + n) * 16 + channel % 16; };
    for (int64_t i = 0; i < c.channels; ++i)
      for (int64_t n = 0; n < c.n_state; ++n) {
        rates.at(blocked(i, n)) = scan.A.at(i * c.n_state + n);
        for (int64_t b = 0; b < c.batch; ++b)
          states.at(b * 3 * c.n_state * 16 + blocked(i, n)) = scan.state.at((b * c.channels + i) * c.n_state + n);
      }
    vx::ssm_scan(pool,
                 {scan.u.view(),
                  scan.delta.view(),
                  rates.view(),
                  scan.B.view(),
                  scan.C.view(),
                  scan.D.view(),
                  scan.z.view(),
                  scan.bias.view(),
                  true,
                  states.view(),
                  states.view(),
                  {}},
                 scan.y.view());
    check_bits(scan.y.logical(), first.y.logical(), std::string("blocked ") + vx::simd_name(level));
    for (int64_t i = 0; i < c.channels; ++i)
      for (int64_t n = 0; n < c.n_state; ++n)
        for (int64_t b = 0; b < c.batch; ++b)
          VX_CHECK(states.at(b * 3 * c.n_state * 16 + blocked(i, n)) ==
                   first.state.at((b * c.channels + i) * c.n_state + n));
  }
}

template <class F>
void refuses(const std::string& needle, F&& call) {
  VX_CHECK_THROWS(call(), vx::ArgumentError, {
    if (std::string(error.what()).find(needle) == std::string::npos)
      vx::test::fail(__FILE__, __LINE__, "'" + std::string(error.what()) + "' does not name " + needle);
  });
}

VX_TEST(sizes_are_refused_by_name) {
  vx::Pool pool(1, vx::Simd::scalar);
  const Case c{1, 20, 6, 4, 0};
  auto scan_with = [&](auto&& change) {
    Scan scan(c, false);
    change(scan);
    scan.run(pool, 0, c.length);
  };
  refuses("[ssm_scan] delta must have shape (1, 20, 6), got shape (1, 19, 6)",
          [&] { scan_with([](Scan& s) { s.delta = Array({1, 19, 6}); }); });
  refuses("[ssm_scan] the output must have shape (1, 20, 6)",
          [&] { scan_with([](Scan& s) { s.y = Array({1, 21, 6}); }); });
  refuses("[ssm_scan] initial_state must have shape (1, 20, 4)",
          [&] { scan_with([](Scan& s) { s.state = Array({1, 20, 3}); }); });
  refuses("[ssm_scan] initial_state must have shape (1, 2, 4, 16)",
          [&] { scan_with([](Scan& s) { s.state = Array({1, 1, 4, 16}); }); });
  refuses("[causal_conv1d] weight must have shape (20, any)", [&] {
    Conv conv(c, false);
    conv.weight = Array({19, 5});
    conv.run(pool, 0, c.length);
  });
  Scan scan(c, false);
  const std::vector<int64_t> slots{1};
  refuses("[ssm_scan] state_indices must be -1 or different slots below 1, got [1]", [&] {
    vx::ssm_scan(pool,
                 {scan.u.view(),
                  scan.delta.view(),
                  scan.A.view(),
                  scan.B.view(),
                  scan.C.view(),
                  {},
                  {},
                  {},
                  false,
                  scan.state.view(),
                  scan.state.view(),
                  {{}, slots}},
                 scan.y.view());
  });
}

VX_TEST(values_that_are_not_finite_are_named) {
  vx::Pool pool(2, vx::simd_available().front());
  Scan scan({1, 20, 6, 4, 0}, true);
  scan.B.at(13) = INFINITY;
  VX_CHECK_THROWS(scan.run(pool, 0, 6), vx::NotFinite,
                  VX_CHECK_EQ(std::string(error.what()) == "[ssm_scan] B must be finite, got inf at [0, 2, 1]", true));
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
