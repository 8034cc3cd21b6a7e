#define VX_LEVEL_SCALAR
#include "ops/gradient_level.inl.h"
