#define VX_LEVEL_NEON
#include "ops/recurrent_level.inl.h"
