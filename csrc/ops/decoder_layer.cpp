#include "ops/decoder_layer.h"

#include <memory>
#include <string>

#include "common/errors.h"

namespace vx {
namespace {

constexpr const char* kOp = "[decoder_layer] ";

void check_projections(const Pager& pager, const char* name, const Projections& group, int64_t in_features,
                       const std::vector<int64_t>& out_features) {
  if (group.handles.size() != out_features.size() || group.biases.size() != out_features.size())
    throw ArgumentError(std::string(kOp) + name + " must have " + std::to_string(out_features.size()) +
                        " matrices and as many biases, got " + std::to_string(group.handles.size()) + " and " +
                        std::to_string(group.biases.size()));
  for (size_t i = 0; i < out_features.size(); ++i) {
    const Matrix& matrix = pager.matrix(group.handles[i]);
    if (matrix.rows != out_features[i] || matrix.cols != in_features)
      throw ArgumentError(kOp + matrix.name + " must be " + std::to_string(out_features[i]) + " x " +
                          std::to_string(in_features) + " in " + name + ", got " + std::to_string(matrix.rows) + " x " +
                          std::to_string(matrix.cols));
  }
}

// Buffers of one call, cut from one allocation.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : memory_(std::make_unique_for_overwrite<float[]>(floats)), next_(memory_.get()) {}
  Out take(int64_t floats) {
    const Out out{next_, static_cast<size_t>(floats)};
    next_ += floats;
    return out;
  }

 private:
  std::unique_ptr<float[]> memory_;
  float* next_;
};

void multiply(Pool& pool, Pager& pager, const DecoderLayer& layer, const Projections& group, In x, int64_t tokens,
              const std::vector<Out>& outs) {
  std::vector<LinearPart> parts;
  for (size_t i = 0; i < outs.size(); ++i)
    parts.push_back({group.handles[i], group.biases[i], outs[i].data(), static_cast<int64_t>(outs[i].size()) / tokens});
  paged_linear(pool.threads, pool.simd, pager, parts, x.data(), tokens, static_cast<int64_t>(x.size()) / tokens,
               layer.activations, layer.planes);
}

void check_depths(const LayerRows& rows) {
  const int64_t n_chain = rows.tokens - static_cast<int64_t>(rows.depths.size());
  for (const int64_t depth : rows.depths)
    if (depth < 1 || depth >= n_chain)
      throw ArgumentError(std::string(kOp) + "depths must be from 1 to the last row of the chain, " +
                          std::to_string(n_chain - 1) + ", got " + std::to_string(depth));
}

struct Cache {
  Out k, v;
  CacheShape shape;
};

// Appends all rows, then attends the chain and, each in the chain's place for as long as that takes, the siblings: keys
// at other positions would be added in another order.
void attend_rows(Pool& pool, const DecoderLayer& layer, const LayerRows& rows, In q, In k, In v, const Cache& cache,
                 Out out) {
  const int64_t width = layer.heads * layer.head_dim, kv_width = layer.kv_heads * layer.head_dim;
  const int64_t n_siblings = static_cast<int64_t>(rows.depths.size()), n_chain = rows.tokens - n_siblings;
  kv_append(k, v, cache.k, cache.v, cache.shape, rows.tokens, rows.pos);
  const auto attend_from = [&](int64_t row, int64_t n, int64_t pos) {
    attend(pool, q.subspan(row * width, n * width), cache.k, cache.v, out.subspan(row * width, n * width), cache.shape,
           {n, layer.heads, pos, layer.window}, layer.scale);
  };
  attend_from(0, n_chain, rows.pos);
  for (int64_t s = 0; s < n_siblings; ++s) {
    const int64_t depth = rows.depths[static_cast<size_t>(s)], position = rows.pos + depth;
    kv_move(cache.k, cache.v, cache.shape, rows.pos + n_chain + s, position);
    attend_from(n_chain + s, 1, position);
    kv_append(k.subspan(depth * kv_width, kv_width), v.subspan(depth * kv_width, kv_width), cache.k, cache.v,
              cache.shape, 1, position);
  }
}

void add_to(Out h, In y) {
  for (size_t i = 0; i < h.size(); ++i) h[i] += y[i];
}

}  // namespace

void check_layer(const Pager& pager, const DecoderLayer& layer) {
  if (layer.heads < 1 || layer.kv_heads < 1 || layer.head_dim < 1)
    throw ArgumentError(std::string(kOp) + "heads, kv_heads and head_dim must be at least 1, got " +
                        std::to_string(layer.heads) + ", " + std::to_string(layer.kv_heads) + " and " +
                        std::to_string(layer.head_dim));
  const int64_t hidden = static_cast<int64_t>(layer.attention_norm.size());
  const int64_t q = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim;
  check_projections(pager, "qkv", layer.qkv, hidden, {q, kv, kv});
  check_projections(pager, "o", layer.o, q, {hidden});
  const int64_t inner = layer.gate_up.handles.empty() ? 0 : pager.matrix(layer.gate_up.handles[0]).rows;
  check_projections(pager, "gate_up", layer.gate_up, hidden, {inner, inner});
  check_projections(pager, "down", layer.down, inner, {hidden});
}

void decoder_layer(Pool& pool, Pager& pager, const DecoderLayer& layer, Out h, In cos, In sin, Out k_cache, Out v_cache,
                   int64_t capacity, LayerRows rows) {
  const int64_t tokens = rows.tokens;
  check_depths(rows);
  if (tokens == 0) return;
  const int64_t hidden = static_cast<int64_t>(layer.attention_norm.size()), dim = layer.head_dim;
  const int64_t heads = tokens * layer.heads, kv_heads = tokens * layer.kv_heads;
  const int64_t inner = pager.matrix(layer.down.handles[0]).cols;
  Scratch scratch(tokens * (2 * hidden + 2 * inner) + 3 * heads * dim + 4 * kv_heads * dim);
  const Out normed = scratch.take(tokens * hidden), y = scratch.take(tokens * hidden);
  {
    Out q = scratch.take(heads * dim), k = scratch.take(kv_heads * dim);
    Out other_q = scratch.take(heads * dim), other_k = scratch.take(kv_heads * dim);
    const Out v = scratch.take(kv_heads * dim);
    rms_norm(pool, h, layer.attention_norm, layer.eps, normed, tokens, hidden);
    multiply(pool, pager, layer, layer.qkv, normed, tokens, {q, k, v});
    if (!layer.q_norm.empty()) {
      rms_norm(pool, q, layer.q_norm, layer.eps, other_q, heads, dim);
      rms_norm(pool, k, layer.k_norm, layer.eps, other_k, kv_heads, dim);
      std::swap(q, other_q);
      std::swap(k, other_k);
    }
    rope(pool, q, cos, sin, other_q, tokens, layer.heads, dim / 2);
    rope(pool, k, cos, sin, other_k, tokens, layer.kv_heads, dim / 2);
    attend_rows(pool, layer, rows, other_q, other_k, v, {k_cache, v_cache, {layer.kv_heads, capacity, dim}}, q);
    multiply(pool, pager, layer, layer.o, q, tokens, {y});
  }
  add_to(h, y);
  const Out gate = scratch.take(tokens * inner), up = scratch.take(tokens * inner);
  rms_norm(pool, h, layer.mlp_norm, layer.eps, normed, tokens, hidden);
  multiply(pool, pager, layer, layer.gate_up, normed, tokens, {gate, up});
  swiglu(pool, gate, up, gate);
  multiply(pool, pager, layer, layer.down, gate, tokens, {y});
  add_to(h, y);
}

}  // namespace vx
