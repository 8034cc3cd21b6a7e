// The kernels of a LAVA bank at one SIMD level as plain functions on raw pointers; sizes were checked by their callers.
// This header is compiled with AVX flags too, so it must not pull in inline functions that older processors would
// share.
#pragma once

#include <cstdint>

namespace vx {

// Slots of a block of keys, and lists of a block of centroids, side by side: a SIMD lane is one of them.
static constexpr int64_t kLavaLanes = 64;

// What a query is to the keys of each kind of contents.
struct LavaQuery {
  const float* values;  // [dim]
  // int8: [dim / 2] two 16-bit integers each, the first in the low half. 2bit: [dim / 8, 4] two bytes each in the low
  // half, for dimensions 8 u + b and 8 u + 4 + b.
  const int32_t* pairs;
  float scale;                      // of those integers
  int32_t offset;                   // 2bit: -3 times their sum
  const uint16_t* ahead = nullptr;  // units that are scored next, which are fetched meanwhile; null for none
};

// Which slots of a list a sum leaves out: those before (score, id) in the order (score descending, id ascending).
struct LavaCut {
  float score;
  int32_t id;
};

struct LavaOps {
  // out[q][lane] = sum over j of queries[q][j] * block[j][lane], one chain over j; block [dim, 64].
  void (*score_float)(const float* block, const float* queries, int64_t n_queries, int64_t dim, float* out);
  // For each query the largest score + bias of the lanes where it is above best[q]; then list[q] = first + lane. Ties
  // go to the lower lane.
  void (*assign)(const float* block, const float* bias, const float* queries, int64_t n_queries, int64_t dim,
                 int32_t first, float* best, int32_t* list);
  // out[lane] = the query's score of the key in that lane; units [n_units, 64] as lava/contents.h encodes them.
  void (*score_half)(const uint16_t* units, const float* scales, const LavaQuery& query, int64_t n_units, float* out);
  void (*score_int8)(const uint16_t* units, const float* scales, const LavaQuery& query, int64_t n_units, float* out);
  void (*score_2bit)(const uint16_t* units, const float* scales, const LavaQuery& query, int64_t n_units, float* out);
  // Bit `lane` tells whether scores[lane] >= threshold.
  uint64_t (*at_least)(const float* scores, float threshold);
  // Sum over i < n of 2^(scores[i] * scale - shift), without the slots that the cut leaves out.
  float (*exp2_sum)(const float* scores, const int32_t* ids, int64_t n, float scale, float shift, LavaCut cut);
  // out[i] = 2^(scores[i] * scale - shift).
  void (*exp2_of)(const float* scores, int64_t n, float scale, float shift, float* out);
  void (*decode_half)(const uint16_t* units, int64_t n, float* out);
  // out[i] += weight * x[i].
  void (*add_scaled)(const float* x, float weight, int64_t n, float* out);
};

namespace scalar {
extern const LavaOps kLavaOps;
}
#if defined(__x86_64__)
namespace avx2 {
extern const LavaOps kLavaOps;
}
namespace avx512 {
extern const LavaOps kLavaOps;
}
#elif defined(__aarch64__)
namespace neon {
extern const LavaOps kLavaOps;
}
#endif

}  // namespace vx
