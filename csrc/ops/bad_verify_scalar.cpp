#define VX_LEVEL_SCALAR
#include "ops/bad_verify.inl.h"
