#define VX_LEVEL_NEON
#include "ops/lava_level.inl.h"
