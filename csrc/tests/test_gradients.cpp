// Gradients of the recurrent ops on arrays that end where their memory ends: equal bits for every SIMD level and thread
// count, every output written.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "ops/gradients.h"
#include "tests/check.h"

namespace {

using Values = std::vector<float>;

struct Sizes {
  int64_t batch, channels, length, n_state, heads, groups;
};

Values values(int64_t n, unsigned seed, float offset = 0.0f) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Values all(static_cast<size_t>(n));
  for (float& x : all) x = offset + uniform(bits);
  return all;
}

Values unwritten(int64_t n) { return Values(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN()); }

vx::Strided view(Values& data, const std::vector<int64_t>& shape) {
  vx::Strided x;
  x.data = data.data();
  x.n_dims = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) {
    x.shape[d] = shape[d];
    x.stride[d] = stride;
  }
  return x;
}

void append(Values& all, const Values& part) { all.insert(all.end(), part.begin(), part.end()); }

bool are_finite(const Values& all) {
  for (const float x : all)
    if (!std::isfinite(x)) return false;
  return true;
}

// Every output of the scan, one after the other.
Values scan(vx::Pool& pool, const Sizes& s) {
  const int64_t signal = s.batch * s.channels * s.length, states = s.batch * s.channels * s.n_state;
  const int64_t steps = s.batch * s.heads * s.length, readouts = s.batch * s.groups * s.n_state * s.length;
  Values u = values(signal, 1), delta = values(steps, 2), a = values(s.heads, 3, -1.5f), b = values(readouts, 4),
         c = values(readouts, 5), skip = values(s.channels, 6), z = values(signal, 7), bias = values(s.heads, 8),
         start = values(states, 9), grad_y = values(signal, 10), grad_last = values(states, 11);
  Values of_u = unwritten(signal), of_delta = unwritten(steps), of_a = unwritten(s.heads), of_b = unwritten(readouts),
         of_c = unwritten(readouts), of_skip = unwritten(s.channels), of_z = unwritten(signal),
         of_bias = unwritten(s.heads), of_start = unwritten(states);
  const std::vector<int64_t> signals{s.batch, s.channels, s.length}, all_states{s.batch, s.channels, s.n_state},
      all_readouts{s.batch, s.groups, s.n_state, s.length};
  vx::scan_gradient(pool,
                    {view(u, signals),
                     view(delta, {s.batch, s.heads, s.length}),
                     view(a, {s.heads}),
                     view(b, all_readouts),
                     view(c, all_readouts),
                     view(skip, {s.channels}),
                     view(z, signals),
                     view(bias, {s.heads}),
                     true,
                     view(start, all_states),
                     {},
                     {}},
                    view(grad_y, signals), view(grad_last, all_states),
                    {of_u.data(), of_delta.data(), of_a.data(), of_b.data(), of_c.data(), of_skip.data(), of_z.data(),
                     of_bias.data(), of_start.data()});
  Values all;
  for (const Values* part : {&of_u, &of_delta, &of_a, &of_b, &of_c, &of_skip, &of_z, &of_bias, &of_start})
    append(all, *part);
  return all;
}

Values conv(vx::Pool& pool, int64_t batch, int64_t channels, int64_t length, int64_t width) {
  const int64_t signal = batch * channels * length, states = batch * channels * (width - 1);
  Values x = values(signal, 1), weight = values(channels * width, 2), bias = values(channels, 3),
         start = values(states, 4), grad_y = values(signal, 5), grad_last = values(states, 6);
  Values of_x = unwritten(signal), of_weight = unwritten(channels * width), of_bias = unwritten(channels),
         of_start = unwritten(states);
  const std::vector<int64_t> signals{batch, channels, length}, columns{batch, channels, width - 1};
  vx::conv_gradient(
      pool,
      {view(x, signals), view(weight, {channels, width}), view(bias, {channels}), true, view(start, columns), {}, {}},
      view(grad_y, signals), view(grad_last, columns),
      {of_x.data(), of_weight.data(), of_bias.data(), of_start.data()});
  Values all;
  for (const Values* part : {&of_x, &of_weight, &of_bias, &of_start}) append(all, *part);
  return all;
}

template <class F>
void same_everywhere(F&& run) {
  Values first;
  for (const vx::Simd level : vx::simd_available())
    for (const int n_threads : {1, 3}) {
      vx::Pool pool(n_threads, level);
      const Values found = run(pool);
      VX_CHECK_EQ(are_finite(found), true);
      if (first.empty()) first = found;
      VX_CHECK_EQ(std::memcmp(first.data(), found.data(), first.size() * sizeof(float)), 0);
    }
}

VX_TEST(scan_gradients_have_equal_bits_everywhere) {
  for (const Sizes& s : {Sizes{2, 32, 37, 16, 2, 1}, {1, 9, 5, 3, 3, 3}, {2, 80, 33, 20, 2, 2}, {1, 16, 1, 1, 1, 1}})
    same_everywhere([&](vx::Pool& pool) { return scan(pool, s); });
}

VX_TEST(convolution_gradients_have_equal_bits_everywhere) {
  for (const int64_t width : {1, 2, 4})
    for (const int64_t channels : {16, 21})
      same_everywhere([&](vx::Pool& pool) { return conv(pool, 2, channels, 19, width); });
}

}  // namespace

int main(int argc, char** argv) { return vx::test::run_all(argc, argv); }
