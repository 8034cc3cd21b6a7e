#define VX_LEVEL_NEON
#include "ops/tile_kernels.inl.h"

namespace vx {
const TileKernels& tile_kernels_neon() { return neon::kTileKernels; }
}  // namespace vx
