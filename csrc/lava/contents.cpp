#include "lava/contents.h"

#include <algorithm>
#include <bit>
#include <cmath>

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
  const auto byte = [&](int64_t j) -> uint16_t {
    if (j >= dim || scale == 0.0f) return 0;
    const float level = std::clamp(std::nearbyint(x[j] / scale), -127.0f, 127.0f);
    return static_cast<uint8_t>(static_cast<int8_t>(level));
  };
  for (int64_t u = 0; u < units_of(Contents::int8, dim); ++u)
    units[u] = static_cast<uint16_t>(byte(2 * u) | byte(2 * u + 1) << 8);
  return scale;
}

}  // namespace

Contents contents_named(const std::string& name) {
  if (name == "fp16") return Contents::fp16;
  if (name == "int8") return Contents::int8;
  throw ArgumentError("[lava_bank] contents must be 'fp16' or 'int8', got '" + name + "'");
}

const char* contents_name(Contents kind) { return kind == Contents::fp16 ? "fp16" : "int8"; }

int64_t units_of(Contents kind, int64_t dim) { return kind == Contents::fp16 ? dim : (dim + 1) / 2; }

float encode(Contents kind, const float* x, int64_t dim, uint16_t* units) {
  if (kind == Contents::int8) return encode_int8(x, dim, units);
  for (int64_t j = 0; j < dim; ++j) units[j] = half_of(x[j]);
  return 1.0f;
}

void decode(const LavaOps& ops, Contents kind, const uint16_t* units, float scale, int64_t dim, float* out) {
  if (kind == Contents::fp16) return ops.decode_half(units, dim, out);
  for (int64_t j = 0; j < dim; ++j) {
    const int shift = j % 2 == 0 ? 0 : 8;
    out[j] = scale * static_cast<float>(static_cast<int8_t>(units[j / 2] >> shift & 0xff));
  }
}

}  // namespace vx
