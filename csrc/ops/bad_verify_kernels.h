// The kernels of one SIMD level of bad_verify on raw pointers. Every result is an integer, a mask or a comparison, or
// comes from float64 operations that round alike everywhere. Included in files with AVX flags: no inline functions.
#pragma once

#include <cstdint>

namespace vx {

static constexpr int64_t kSampleBlock = 64;  // ids that share a maximum

// score = (logit - top) * inverse: 0 for the largest logit, falling.
struct ScoreScale {
  double top, inverse;
};

// SplitMix64 (doi 10.1145/2714064.2660195): an id's noise is the mix of counter + (id + 1) * kGamma.
static constexpr uint64_t kGamma = 0x9E3779B97F4A7C15u, kMix1 = 0xBF58476D1CE4E5B9u, kMix2 = 0x94D049BB133111EBu;

struct BadVerifyKernels {
  // maxima[i] = the largest of x[64 i ..]; false if x holds a NaN. n: any.
  bool (*block_maxima)(const float* x, int64_t n, float* maxima);
  // Sum of e^score of n logits, each in units of 2^-40 and rounded to an integer.
  uint64_t (*mass)(const float* x, int64_t n, ScoreScale scale);
  // The terms of that sum.
  void (*weights)(const float* x, int64_t n, ScoreScale scale, uint64_t* out);
  // Bit i: x[i] >= threshold. n: up to 64.
  uint64_t (*at_least)(const float* x, int64_t n, float threshold);
  // Bit i is set if score + Gumbel noise of x[i] may reach `limit`, whose unit is log 2; `counter` is the one of x[0].
  // n: up to 64.
  uint64_t (*contenders)(const float* x, int64_t n, ScoreScale scale, uint64_t counter, double limit);
};

namespace scalar {
extern const BadVerifyKernels kBadVerify;
}
#if defined(__x86_64__)
namespace avx2 {
extern const BadVerifyKernels kBadVerify;
}
namespace avx512 {
extern const BadVerifyKernels kBadVerify;
}
#elif defined(__aarch64__)
namespace neon {
extern const BadVerifyKernels kBadVerify;
}
#endif

}  // namespace vx
