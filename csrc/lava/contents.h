// How a bank stores a vector: 16-bit units and a scale. A key's units are interleaved with those of 63 others, a
// value's lie in a row.
#pragma once

#include <cstdint>
#include <string>

#include "ops/lava_kernels.h"

namespace vx {

// Largest magnitude of a key, a value or a query: that of a half.
constexpr float kLavaLargest = 65504.0f;

enum class Contents { fp16, int8 };

// "fp16" or "int8"; throws ArgumentError.
Contents contents_named(const std::string& name);
const char* contents_name(Contents kind);

// fp16: one unit a dimension. int8: one for two, the first in the low byte; x = scale * byte.
int64_t units_of(Contents kind, int64_t dim);

// Writes the units of `x` and returns its scale.
float encode(Contents kind, const float* x, int64_t dim, uint16_t* units);
void decode(const LavaOps& ops, Contents kind, const uint16_t* units, float scale, int64_t dim, float* out);

}  // namespace vx
