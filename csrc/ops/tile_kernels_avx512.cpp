#define VX_LEVEL_AVX512
#include "ops/tile_kernels.inl.h"

namespace vx {
const TileKernels& tile_kernels_avx512() { return avx512::kTileKernels; }
}  // namespace vx
