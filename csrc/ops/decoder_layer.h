// One layer of a llama-like decoder in one call: what lies between its products is too little to go back to the caller
// for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "c3/pager.h"
#include "common/pool.h"
#include "ops/paged_linear.h"
#include "ops/small_ops.h"

namespace vx {

// Matrices that share one input.
struct Projections {
  std::vector<int> handles;
  std::vector<const float*> biases;  // of each: [out_features], or null
};

// Norm weights are of the length of what they norm; q_norm and k_norm are empty where heads are not normed.
struct DecoderLayer {
  In attention_norm, q_norm, k_norm, mlp_norm;
  float eps;
  Projections qkv, o, gate_up, down;
  int64_t heads, kv_heads, head_dim;
  int64_t window;  // as AttendShape
  float scale;     // of the scores
  Activations activations;
  Planes planes;
};

// Refuses matrices whose shapes do not make a layer.
void check_layer(const Pager& pager, const DecoderLayer& layer);

// h [tokens, hidden] += o(attend(rope(q), rope(k), v)) of its norm, then += down(swiglu(gate, up)) of its norm; the
// tokens' keys and values are put into the cache at positions pos... Every part has the bits of the op of that name.
void decoder_layer(Pool& pool, Pager& pager, const DecoderLayer& layer, Out h, In cos, In sin, Out k_cache, Out v_cache,
                   int64_t capacity, int64_t tokens, int64_t pos);

}  // namespace vx
