#include "common/cpu_features.h"

namespace vx {

std::vector<Simd> simd_available() {
  std::vector<Simd> levels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The builtins look at the saved register state too: a kernel that does not save ZMM registers reports no AVX-512.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) levels.push_back(Simd::avx512);
  if (avx2) levels.push_back(Simd::avx2);
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
    default:
      return "scalar";
  }
}

}  // namespace vx
