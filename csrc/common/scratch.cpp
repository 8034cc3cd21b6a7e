#include "common/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace vx {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};

}  // namespace

float* thread_scratch(int64_t floats) {
  thread_local std::unique_ptr<float, Free> buffer;
  thread_local int64_t size = 0;
  if (floats > size) {
    buffer.reset();
    size = 0;
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
    buffer.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!buffer) throw std::bad_alloc();
    size = floats;
  }
  return buffer.get();
}

}  // namespace vx
