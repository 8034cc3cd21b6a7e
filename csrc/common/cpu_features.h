// SIMD levels of the kernels and which of them this processor can run.
#pragma once

#include <vector>

namespace vx {

enum class Simd { scalar, avx2, avx512 };

// Levels that are compiled in and that this processor and its operating system support, fastest first. Never empty.
std::vector<Simd> simd_available();

// "scalar", "avx2" or "avx512".
const char* simd_name(Simd level);

}  // namespace vx
