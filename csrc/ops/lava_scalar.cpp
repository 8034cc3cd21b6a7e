#define VX_LEVEL_SCALAR
#include "ops/lava_level.inl.h"
