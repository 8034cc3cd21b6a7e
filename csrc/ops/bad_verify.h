// How far a drafted block is what the sampling law would have chosen, and the token that follows it. The token of a row
// depends on its logits, the law, the seed and its position alone: not on threads, SIMD level or the other rows.
#pragma once

#include <cstdint>
#include <span>

#include "common/pool.h"
#include "ops/bad_verify_kernels.h"

namespace vx {

const BadVerifyKernels& bad_verify_kernels(Simd level);

// Temperature, then top-k, top-p and min-p, then one draw; the comments name the values that turn a filter off.
struct SamplingLaw {
  double temperature;  // 0: the lowest id of the largest logit
  int64_t top_k;       // 0
  double top_p;        // 1
  double min_p;        // 0
};

struct Verdict {
  int64_t n_accepted;
  int64_t next_id;
};

// target_logits: [rows, vocab] with rows = drafts + 1; row i chooses the token at position + i and judges draft i. Rows
// after the first rejection are not read. Throws NotFinite for a row that is reached and has no finite maximum.
Verdict bad_verify(Pool& pool, std::span<const int64_t> draft_ids, std::span<const float> target_logits, int64_t vocab,
                   const SamplingLaw& law, uint64_t seed, int64_t position);

}  // namespace vx
