// SIMD levels of the kernels and which of them this processor can run.
#pragma once

#include <vector>

namespace vx {

enum class Simd { scalar, avx2, avx512, neon };

// Levels that are compiled in and that this processor and its operating system support, fastest first. Never empty.
std::vector<Simd> simd_available();

// "scalar", "avx2", "avx512" or "neon".
const char* simd_name(Simd level);

#if defined(__aarch64__)
// Instructions that 64-bit Arm processors may lack: CRC-32C, and dot products of bytes.
bool has_arm_crc32();
bool has_arm_dotprod();
#endif

}  // namespace vx
