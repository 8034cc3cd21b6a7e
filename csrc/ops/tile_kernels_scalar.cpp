#define VX_LEVEL_SCALAR
#include "ops/tile_kernels.inl.h"

namespace vx {
const TileKernels& tile_kernels_scalar() { return scalar::kTileKernels; }
}  // namespace vx
