// How a bank stores a vector: 16-bit units and a scale. A key's units are interleaved with those of 63 others, a
// value's lie in a row.
#pragma once

#include <cstdint>
#include <string>

#include "ops/lava_kernels.h"

namespace vx {

// Largest magnitude of a key, a value or a query: that of a half.
constexpr float kLavaLargest = 65504.0f;

enum class Contents { fp16, int8, bit2 };

// A key is scored, a value is added up: they want different scales.
enum class Use { key, value };

// "fp16", "int8" or "2bit"; throws ArgumentError.
Contents contents_named(const std::string& name);

// fp16: one unit a dimension. int8: one for two, the first in the low byte; x = scale * byte. 2bit: one for eight, the
// first in the lowest bits; x = scale * (2 * code - 3). Which codes have a magnitude of 3 is chosen so that the angle
// to x is the smallest there is. A key's scale makes its score with itself exact (RaBitQ, arXiv:2409.09913), a value's
// makes the error the smallest.
int64_t units_of(Contents kind, int64_t dim);

// Writes the units of `x` and returns its scale.
float encode(Contents kind, Use use, const float* x, int64_t dim, uint16_t* units);
void decode(const LavaOps& ops, Contents kind, const uint16_t* units, float scale, int64_t dim, float* out);

}  // namespace vx
