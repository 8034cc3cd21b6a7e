// The selective scan and the causal convolution for callers: shapes are checked, work is shared among the pool's
// threads, and results have equal bits for every thread count, SIMD level and way of cutting a sequence.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "common/pool.h"
#include "ops/recurrent_kernels.h"

namespace vx {

const RecurrentOps& recurrent_ops(Simd level);

// An array of floats with any strides, counted in floats; `data` may be null where an argument is optional.
struct Strided {
  float* data = nullptr;
  int n_dims = 0;
  std::array<int64_t, 4> shape{}, stride{};
};

// Which sequences a call has: by default each row of the batch. See ssm_scan in python/vortex_engine/ops/recurrent.py.
struct Sequences {
  std::optional<std::span<const int64_t>> cu_seqlens, state_indices;
};

struct ScanInputs {
  Strided u, delta, A, B, C;
  Strided D, z, delta_bias;  // optional
  bool softplus;
  Strided initial_state, last_state;  // optional; may be the same
  Sequences sequences;
};

// y: as u. Throws ArgumentError for what does not fit and NotFinite for a value that is not finite.
void ssm_scan(Pool& pool, const ScanInputs& inputs, const Strided& y);

struct ConvInputs {
  Strided x, weight;
  Strided bias;  // optional
  bool silu;
  Strided initial_state, last_state;  // optional; may be the same
  Sequences sequences;
};

// y: as x. Throws as ssm_scan.
void causal_conv1d(Pool& pool, const ConvInputs& inputs, const Strided& y);

}  // namespace vx
