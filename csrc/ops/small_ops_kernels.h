// The kernels of one SIMD level as plain functions on raw pointers. Sizes were checked by ops/small_ops.cpp. This
// header is compiled with AVX flags too, so it must not pull in inline functions that older processors would share.
#pragma once

#include <cstdint>

namespace vx {

struct RmsNormArgs {
  const float* x;       // [rows, dim]
  const float* weight;  // [dim]
  float* out;           // [rows, dim]
  int64_t dim;
  float eps;
};

struct RopeArgs {
  const float* x;    // [tokens, heads, 2 * half]
  const float* cos;  // [tokens, half]
  const float* sin;  // [tokens, half]
  float* out;        // as x
  int64_t heads, half;
};

struct AttendArgs {
  const float* q;        // [tokens, heads, dim]
  const float* k_cache;  // [kv_heads, capacity, padded]
  const float* v_cache;  // [kv_heads, capacity, padded]
  float* out;            // as q
  int64_t heads, kv_heads, dim, padded, capacity;
  int64_t pos;     // absolute position of token 0
  int64_t window;  // visible positions, 0 = all
  float scale;
};

// The share of one worker: some tokens of some query heads that read one KV head.
struct AttendTask {
  int64_t kv_head;
  int64_t head0, n_heads;  // absolute query heads
  int64_t token0, n_tokens;
};

// Of a row x: its maximum, the sum of e^(x - top), and that of e^(x - top) * (x - top).
struct SoftmaxSums {
  float top;
  double mass, moment;
};

struct SmallOps {
  void (*rms_norm)(const RmsNormArgs& args, int64_t row0, int64_t row1);
  void (*rope)(const RopeArgs& args, int64_t token0, int64_t token1);
  // scratch: attend_scratch(args, task) floats.
  void (*attend)(const AttendArgs& args, const AttendTask& task, float* scratch);
  void (*swiglu)(const float* gate, const float* up, float* out, int64_t n);
  SoftmaxSums (*softmax_sums)(const float* x, int64_t n);
  void (*exp)(const float* x, float* out, int64_t n);  // vmath's exp by itself, for whoever measures its error
};

static constexpr int64_t kAttendBlock = 64;  // positions of K or V worked on together, aligned at absolute positions

// First position that the token at absolute position p sees.
static constexpr int64_t attend_begin(int64_t window, int64_t p) {
  return window > 0 && p + 1 > window ? p + 1 - window : 0;
}

// Positions of the aligned blocks that the task's tokens see.
static constexpr int64_t attend_span(const AttendArgs& args, const AttendTask& task) {
  const int64_t first = attend_begin(args.window, args.pos + task.token0) / kAttendBlock;
  const int64_t last = (args.pos + task.token0 + task.n_tokens - 1) / kAttendBlock;
  return (last - first + 1) * kAttendBlock;
}

static constexpr int64_t attend_scratch(const AttendArgs& args, const AttendTask& task) {
  const int64_t rows = task.n_heads * task.n_tokens;
  return rows * (attend_span(args, task) + args.padded + 1) + kAttendBlock * args.padded;
}

namespace scalar {
extern const SmallOps kSmallOps;
}
#if defined(__x86_64__)
namespace avx2 {
extern const SmallOps kSmallOps;
}
namespace avx512 {
extern const SmallOps kSmallOps;
}
#elif defined(__aarch64__)
namespace neon {
extern const SmallOps kSmallOps;
}
#endif

}  // namespace vx
