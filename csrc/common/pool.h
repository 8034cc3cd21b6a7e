// What every op runs on: worker threads and the SIMD level of its kernels. Neither changes a bit of any result.
#pragma once

#include "common/cpu_features.h"
#include "common/thread_pool.h"

namespace vx {

struct Pool {
  Pool(int n_threads, Simd level) : threads(n_threads), simd(level) {}

  ThreadPool threads;
  Simd simd;
};

}  // namespace vx
