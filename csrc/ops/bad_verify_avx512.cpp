#if defined(__x86_64__)
#define VX_LEVEL_AVX512
#include "ops/bad_verify.inl.h"
#endif
