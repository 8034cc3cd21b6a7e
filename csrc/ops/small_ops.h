// RMSNorm, RoPE, attention, SwiGLU, surprise and entropy for callers: every size is checked, work is shared among the
// pool's threads, and results have equal bits for every thread count and SIMD level. Buffers are row-major, contiguous
// fp32.
#pragma once

#include <cstdint>
#include <span>

#include "common/pool.h"
#include "ops/small_ops_kernels.h"

namespace vx {

using In = std::span<const float>;
using Out = std::span<float>;

const SmallOps& small_ops(Simd level);

// The padded length of a KV cache row of `dim` values.
constexpr int64_t padded_dim(int64_t dim) { return (dim + 15) / 16 * 16; }

// x, out: [rows, dim]; weight: [dim].
void rms_norm(Pool& pool, In x, In weight, float eps, Out out, int64_t rows, int64_t dim);

// cos, sin: [tokens, half]: cosine and sine of position * inv_freq in float64, rounded once.
void rope_table(std::span<const int64_t> positions, std::span<const double> inv_freq, Out cos, Out sin);

// x, out: [tokens, heads, 2 * half]; cos, sin: [tokens, half].
void rope(Pool& pool, In x, In cos, In sin, Out out, int64_t tokens, int64_t heads, int64_t half);

struct CacheShape {
  int64_t kv_heads, capacity, dim;  // a cache is [kv_heads, capacity, padded_dim(dim)]
};

// k, v: [tokens, kv_heads, dim], stored at positions pos..; the padding of those positions is set to 0.
void kv_append(In k, In v, Out k_cache, Out v_cache, CacheShape cache, int64_t tokens, int64_t pos);

// Copies the row of position `source` to position `target`, padding included.
void kv_move(Out k_cache, Out v_cache, CacheShape cache, int64_t source, int64_t target);

struct AttendShape {
  int64_t tokens, heads;
  int64_t pos;     // absolute position of the first token; the cache holds its row already
  int64_t window;  // positions a token sees, itself included; 0 = all before it
};

// q, out: [tokens, heads, dim]; query head h reads KV head h / (heads / kv_heads). scale > 0.
void attend(Pool& pool, In q, In k_cache, In v_cache, Out out, CacheShape cache, AttendShape shape, float scale);

// gate, up, out: equal sizes.
void swiglu(Pool& pool, In gate, In up, Out out);

// out[t] = -log softmax(row t of logits)[ids[t]] in nats: the maximum's and the sums' exp and log are our own, rounded
// once. A row with NaN or without a finite maximum gives NaN. logits: [ids.size(), vocab].
void token_surprises(Pool& pool, In logits, std::span<const int64_t> ids, Out out, int64_t vocab);

// out[t] = entropy of softmax(row t of logits) in nats; NaN as above. logits: [out.size(), vocab].
void entropies(Pool& pool, In logits, Out out, int64_t vocab);

}  // namespace vx
