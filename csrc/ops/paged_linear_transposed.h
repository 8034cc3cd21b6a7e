// Products with the transposes of matrices whose tiles live in a pager.
#pragma once

#include <cstdint>

#include "c3/pager.h"
#include "common/cpu_features.h"
#include "common/thread_pool.h"

namespace vx {

// out [n_rows, matrix.cols] = x [n_rows, in_features] W, where in_features are the matrix's rows; fp32. For each
// output, the rows of a tile are one FMA chain, ascending from zero; the chains of the tiles above each other are added
// in their order. Bits do not depend on threads, SIMD level or n_rows. Each tile is acquired once.
void paged_linear_transposed(ThreadPool& threads, Simd level, Pager& pager, int handle, const float* x, int64_t n_rows,
                             int64_t in_features, float* out);

}  // namespace vx
