#define VX_LEVEL_NEON
#include "ops/small_ops_level.inl.h"
