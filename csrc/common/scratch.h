// A thread's scratch, kept between calls: fresh pages for every token would cost more than the work of small ops.
#pragma once

#include <cstdint>

namespace vx {

// `floats` floats on a 64-byte boundary, the calling thread's until it asks again.
float* thread_scratch(int64_t floats);

}  // namespace vx
