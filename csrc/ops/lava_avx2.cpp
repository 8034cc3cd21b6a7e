#if defined(__x86_64__)
#define VX_LEVEL_AVX2
#include "ops/lava_level.inl.h"
#endif
