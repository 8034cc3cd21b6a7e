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

// The rows of one call: a chain at positions pos.., then one sibling for each depth. A sibling of depth d stands at
// position pos + d beside the chain's row there, 1 <= d < chain rows, and sees the cache and the chain before it. Its
// key and value are left behind the chain's, in the order of the rows: kv_move brings them to their position.
struct LayerRows {
  int64_t tokens, pos;  // all rows; position of the first
  std::span<const int64_t> depths;
};

// h [tokens, hidden] += o(attend(rope(q), rope(k), v)) of its norm, then += down(swiglu(gate, up)) of its norm; the
// tokens' keys and values are put into the cache at positions pos... Every part has the bits of the op of that name,
// and a sibling the bits of the last row of a chain that is its path.
void decoder_layer(Pool& pool, Pager& pager, const DecoderLayer& layer, Out h, In cos, In sin, Out k_cache, Out v_cache,
                   int64_t capacity, LayerRows rows);

}  // namespace vx
