#define VX_LEVEL_NEON
#include "ops/gradient_level.inl.h"
