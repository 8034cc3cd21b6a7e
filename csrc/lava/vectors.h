// Plain arithmetic on vectors, outside the kernels: in orders that compilers can make vectors of.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace vx {

inline float dot(const float* a, const float* b, int64_t n) {
  std::array<float, 8> sums{};
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    for (size_t i = 0; i < 8; ++i) sums[i] += a[j + static_cast<int64_t>(i)] * b[j + static_cast<int64_t>(i)];
  for (size_t i = 0; i < 8 && j < n; ++i, ++j) sums[i] += a[j] * b[j];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

inline double distance(const float* a, const float* b, int64_t n) {
  std::array<double, 4> sums{};
  int64_t j = 0;
  const auto add = [&](size_t i) {
    const double d =
        static_cast<double>(a[j + static_cast<int64_t>(i)]) - static_cast<double>(b[j + static_cast<int64_t>(i)]);
    sums[i] += d * d;
  };
  for (; j + 4 <= n; j += 4)
    for (size_t i = 0; i < 4; ++i) add(i);
  for (; j < n; ++j) add(0);
  return std::sqrt((sums[0] + sums[2]) + (sums[1] + sums[3]));
}

}  // namespace vx
