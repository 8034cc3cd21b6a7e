#include "common/cpu_features.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace vx {

std::vector<Simd> simd_available() {
  std::vector<Simd> levels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The builtins look at the saved register state too: a kernel that does not save ZMM registers reports no AVX-512.
  // No processor has AVX2 without the conversions of halfs, F16C, but a virtual machine may hide them.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) levels.push_back(Simd::avx512);
  if (avx2) levels.push_back(Simd::avx2);
#elif defined(__aarch64__)
  levels.push_back(Simd::neon);  // no 64-bit Arm processor is without it
#endif
  levels.push_back(Simd::scalar);
  return levels;
}

const char* simd_name(Simd level) {
  switch (level) {
    case Simd::avx512:
      return "avx512";
    case Simd::avx2:
      return "avx2";
    case Simd::neon:
      return "neon";
    default:
      return "scalar";
  }
}

#if defined(__aarch64__)
bool has_arm_crc32() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#elif defined(__ARM_FEATURE_CRC32)
  return true;
#else
  return false;
#endif
}

bool has_arm_dotprod() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
  return true;
#else
  return false;
#endif
}
#endif

}  // namespace vx
