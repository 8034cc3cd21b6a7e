#include "ops/tile_kernels.h"

namespace vx {

const TileKernels& tile_kernels_scalar();
#if defined(__x86_64__)
const TileKernels& tile_kernels_avx2();
const TileKernels& tile_kernels_avx512();
void multiply_activations_vnni(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                               float* acc);

namespace {

// VNNI is no level of its own: it changes how integers are added, not what they add up to.
TileKernels best_avx512() {
  TileKernels kernels = tile_kernels_avx512();
  if (__builtin_cpu_supports("avx512vnni")) kernels.multiply_activations = multiply_activations_vnni;
  return kernels;
}

}  // namespace
#elif defined(__aarch64__)
const TileKernels& tile_kernels_neon();
void multiply_activations_dotprod(PanelReader& reader, int64_t n_cols, const ActivationRows& rows, int64_t n_rows,
                                  float* acc);

namespace {

// The dot product instructions, too, add the same integers in another way.
TileKernels best_neon() {
  TileKernels kernels = tile_kernels_neon();
  if (has_arm_dotprod()) kernels.multiply_activations = multiply_activations_dotprod;
  return kernels;
}

}  // namespace
#endif

const TileKernels& tile_kernels(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) {
    static const TileKernels kernels = best_avx512();
    return kernels;
  }
  if (level == Simd::avx2) return tile_kernels_avx2();
#elif defined(__aarch64__)
  if (level == Simd::neon) {
    static const TileKernels kernels = best_neon();
    return kernels;
  }
#endif
  (void)level;
  return tile_kernels_scalar();
}

}  // namespace vx
