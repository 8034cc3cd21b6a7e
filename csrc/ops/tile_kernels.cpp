#include "ops/tile_kernels.h"

namespace vx {

const TileKernels& tile_kernels_scalar();
#if defined(__x86_64__)
const TileKernels& tile_kernels_avx2();
const TileKernels& tile_kernels_avx512();
#endif

const TileKernels& tile_kernels(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx512) return tile_kernels_avx512();
  if (level == Simd::avx2) return tile_kernels_avx2();
#endif
  (void)level;
  return tile_kernels_scalar();
}

}  // namespace vx
