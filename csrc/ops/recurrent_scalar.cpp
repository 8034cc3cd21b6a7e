#define VX_LEVEL_SCALAR
#include "ops/recurrent_level.inl.h"
