// Products with matrices whose tiles live in a pager.
#pragma once

#include <cstdint>
#include <vector>

#include "c3/pager.h"
#include "common/cpu_features.h"
#include "common/thread_pool.h"

namespace vx {

// One matrix of a fused call: out [n_rows, out_features] = x W^T (+ bias).
struct LinearPart {
  int handle;
  const float* bias;  // [out_features], or null
  float* out;
  int64_t out_features;
};

// How x meets int8 and int4 tiles: as it is, or rounded to 8 bits (activation_rows.h). Other tiles always take it as it
// is.
enum class Activations { f32, int8 };

// What is read of a tile: all of it, or of an `exact` tile only the prefix, which is a low-precision copy (FORMAT.md
// section 5), or what of it is in RAM: all where that is resident, else the prefix. The last two leave the sweep and
// what the pager learns from it alone.
enum class Planes { all, prefix, resident };

// x: [n_rows, in_features] fp32. Each output is one FMA chain over k ascending, from zero; the bias is added last. All
// rows share one decode of the weights, and each tile is pinned once for the whole call.
void paged_linear(ThreadPool& threads, Simd level, Pager& pager, const std::vector<LinearPart>& parts, const float* x,
                  int64_t n_rows, int64_t in_features, Activations activations, Planes planes);

// out [n_ids, n_cols] = rows `ids` of the matrix, in fp32. Ids of one panel share its decode.
void embed_rows(ThreadPool& threads, Simd level, Pager& pager, int handle, const int64_t* ids, int64_t n_ids,
                float* out, int64_t n_cols, Planes planes);

}  // namespace vx
