#include "lava/contents.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "common/errors.h"

namespace vx {
namespace {

// To nearest, ties to even; |x| <= kLavaLargest.
uint16_t half_of(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) {  // a subnormal half: the sum's last bit is 2^-24
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

float encode_int8(const float* x, int64_t dim, uint16_t* units) {
  float largest = 0.0f;
  for (int64_t j = 0; j < dim; ++j) largest = std::max(largest, std::fabs(x[j]));
  const float scale = largest / 127.0f;
  if (scale == 0.0f) {
    std::fill_n(units, units_of(Contents::int8, dim), uint16_t{0});
    return scale;
  }
  // To nearest, ties to even, without a call: a sum of this size has no bits below 1.
  constexpr float kToInteger = 12582912.0f;
  const auto byte = [&](int64_t j) {
    const float level = (x[j] / scale + kToInteger) - kToInteger;
    return static_cast<uint16_t>(static_cast<int>(level < -127.0f ? -127.0f : (level > 127.0f ? 127.0f : level)) &
                                 0xff);
  };
  for (int64_t u = 0; u < dim / 2; ++u) units[u] = static_cast<uint16_t>(byte(2 * u) | byte(2 * u + 1) << 8);
  if (dim % 2 != 0) units[dim / 2] = byte(dim - 1);
  return scale;
}

// The largest magnitudes get level 3, the others 1. With m of 3, <|x|, u> = sum + 2 * (their sum), <u, u> = dim + 8 m.
float encode_2bit(Use use, const float* x, int64_t dim, uint16_t* units) {
  std::vector<float> sorted(static_cast<size_t>(dim));
  double sum = 0.0, squares = 0.0;
  for (int64_t j = 0; j < dim; ++j) {
    sorted[static_cast<size_t>(j)] = std::fabs(x[j]);
    sum += static_cast<double>(std::fabs(x[j]));
    squares += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  }
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const auto n = static_cast<double>(dim);
  double product = sum, norm = n, large = sum;
  size_t n_large = 0;
  for (size_t m = 1; m <= sorted.size(); ++m) {
    large += 2.0 * static_cast<double>(sorted[m - 1]);
    const double with_more = n + 8.0 * static_cast<double>(m);
    if (large * large * norm > product * product * with_more) {
      product = large;
      norm = with_more;
      n_large = m;
    }
  }
  std::fill_n(units, units_of(Contents::bit2, dim), uint16_t{0});
  // Of equal magnitudes at the edge the first dimensions get level 3.
  const float edge = n_large == 0 ? std::numeric_limits<float>::infinity() : sorted[n_large - 1];
  auto n_at_edge =
      n_large - static_cast<size_t>(std::count_if(sorted.begin(), sorted.end(), [&](float s) { return s > edge; }));
  for (int64_t j = 0; j < dim; ++j) {
    const float magnitude = std::fabs(x[j]);
    bool is_large = magnitude > edge;
    if (magnitude == edge && n_at_edge > 0) {
      is_large = true;
      --n_at_edge;
    }
    const int level = is_large ? 3 : 1;
    const int code = ((std::signbit(x[j]) ? -level : level) + 3) / 2;
    units[j / 8] = static_cast<uint16_t>(units[j / 8] | code << 2 * (j % 8));
  }
  if (product == 0.0) return 0.0f;
  return static_cast<float>(use == Use::key ? squares / product : product / norm);
}

}  // namespace

Contents contents_named(const std::string& name) {
  if (name == "fp16") return Contents::fp16;
  if (name == "int8") return Contents::int8;
  if (name == "2bit") return Contents::bit2;
  throw ArgumentError("[lava_bank] contents must be 'fp16', 'int8' or '2bit', got '" + name + "'");
}

int64_t units_of(Contents kind, int64_t dim) {
  if (kind == Contents::fp16) return dim;
  return kind == Contents::int8 ? (dim + 1) / 2 : (dim + 7) / 8;
}

float encode(Contents kind, Use use, const float* x, int64_t dim, uint16_t* units) {
  if (kind == Contents::int8) return encode_int8(x, dim, units);
  if (kind == Contents::bit2) return encode_2bit(use, x, dim, units);
  for (int64_t j = 0; j < dim; ++j) units[j] = half_of(x[j]);
  return 1.0f;
}

void decode(const LavaOps& ops, Contents kind, const uint16_t* units, float scale, int64_t dim, float* out) {
  if (kind == Contents::fp16) return ops.decode_half(units, dim, out);
  for (int64_t j = 0; j < dim; ++j) {
    const int level = kind == Contents::int8 ? static_cast<int8_t>(units[j / 2] >> 8 * (j % 2) & 0xff)
                                             : 2 * (units[j / 8] >> 2 * (j % 8) & 3) - 3;
    out[j] = scale * static_cast<float>(level);
  }
}

}  // namespace vx
