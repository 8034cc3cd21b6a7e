#define VX_LEVEL_SCALAR
#include "ops/small_ops_level.inl.h"
