#define VX_LEVEL_AVX2
#include "ops/tile_kernels.inl.h"

namespace vx {
const TileKernels& tile_kernels_avx2() { return avx2::kTileKernels; }
}  // namespace vx
