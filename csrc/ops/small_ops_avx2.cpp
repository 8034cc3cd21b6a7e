#if defined(__x86_64__)
#define VX_LEVEL_AVX2
#include "ops/small_ops_level.inl.h"
#endif
