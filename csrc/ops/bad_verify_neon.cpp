#if defined(__aarch64__)
#define VX_LEVEL_NEON
#include "ops/bad_verify.inl.h"
#endif
