// Blocks of 64 logits: maxima, integer weights and who may win the Gumbel race. Kernel text: loops of a fixed length
// without branches, which the compiler turns into the level's vectors; no step depends on how wide they are.
#pragma once

#include "common/simd.h"
#include "ops/bad_verify_kernels.h"

namespace vx::VX_SIMD_NS {

// The block itself, or a copy that ends in -inf.
VX_INLINE const float* whole_block(const float* x, int64_t n, float* copy) {
  if (n >= kSampleBlock) return x;
  for (int64_t i = 0; i < kSampleBlock; ++i) copy[i] = i < n ? x[i] : -__builtin_inff();
  return copy;
}

static bool block_maxima(const float* x, int64_t n, float* maxima) {
  int32_t largest_magnitude = 0;
  for (int64_t start = 0; start < n; start += kSampleBlock) {
    float copy[kSampleBlock];
    const float* block = whole_block(x + start, n - start, copy);
    // As integers: bits whose order is that of the floats, NaN beyond infinity.
    int32_t maximum = INT32_MIN;
    for (int64_t i = 0; i < kSampleBlock; ++i) {
      const int32_t bits = __builtin_bit_cast(int32_t, block[i]);
      const int32_t magnitude = bits & 0x7FFFFFFF, key = bits ^ ((bits >> 31) & 0x7FFFFFFF);
      maximum = key > maximum ? key : maximum;
      largest_magnitude = magnitude > largest_magnitude ? magnitude : largest_magnitude;
    }
    maxima[start / kSampleBlock] = __builtin_bit_cast(float, maximum ^ ((maximum >> 31) & 0x7FFFFFFF));
  }
  return largest_magnitude <= 0x7F800000;
}

// e^score * 2^40 rounded to an integer, for score <= 0: within one of the exact value.
// score = n*ln2 + r with |r| <= ln2/2; e^r by its Taylor series up to r^13, whose rest is below 2^-57.
VX_INLINE uint64_t weight(double score) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer in the low bits
  constexpr double kOne = 4503599627370496.0;    // 2^52, whose unit in the last place is 1
  const double x = score > -44.0 ? score : -44.0;
  const double biased = __builtin_fma(x, 1.4426950408889634074, kMagic);
  const double n = biased - kMagic;
  double r = __builtin_fma(n, -6.93147180369123816490e-01, x);
  r = __builtin_fma(n, -1.90821492927058770002e-10, r);
  double p = __builtin_fma(1.0 / 6227020800.0, r, 1.0 / 479001600.0);
  p = __builtin_fma(p, r, 1.0 / 39916800.0);
  p = __builtin_fma(p, r, 1.0 / 3628800.0);
  p = __builtin_fma(p, r, 1.0 / 362880.0);
  p = __builtin_fma(p, r, 1.0 / 40320.0);
  p = __builtin_fma(p, r, 1.0 / 5040.0);
  p = __builtin_fma(p, r, 1.0 / 720.0);
  p = __builtin_fma(p, r, 1.0 / 120.0);
  p = __builtin_fma(p, r, 1.0 / 24.0);
  p = __builtin_fma(p, r, 1.0 / 6.0);
  p = __builtin_fma(p, r, 0.5);
  p = __builtin_fma(p, r, 1.0);
  p = __builtin_fma(p, r, 1.0);
  const uint64_t exponent = __builtin_bit_cast(uint64_t, biased) - __builtin_bit_cast(uint64_t, kMagic) + 1023 + 40;
  const double power = __builtin_bit_cast(double, exponent << 52);
  return __builtin_bit_cast(uint64_t, __builtin_fma(p, power, kOne)) - __builtin_bit_cast(uint64_t, kOne);
}

static uint64_t mass(const float* x, int64_t n, ScoreScale scale) {
  uint64_t sum = 0;
  for (int64_t start = 0; start < n; start += kSampleBlock) {
    float copy[kSampleBlock];
    const float* block = whole_block(x + start, n - start, copy);
    for (int64_t i = 0; i < kSampleBlock; ++i)
      sum += weight((static_cast<double>(block[i]) - scale.top) * scale.inverse);
  }
  return sum;
}

static void weights(const float* x, int64_t n, ScoreScale scale, uint64_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = weight((static_cast<double>(x[i]) - scale.top) * scale.inverse);
}

static uint64_t at_least(const float* x, int64_t n, float threshold) {
  float copy[kSampleBlock];
  const float* block = whole_block(x, n, copy);
  uint64_t mask = 0;
#if defined(VX_LEVEL_AVX512)
  for (int i = 0; i < 4; ++i)
    mask |= static_cast<uint64_t>(
                _mm512_cmp_ps_mask(_mm512_loadu_ps(block + 16 * i), _mm512_set1_ps(threshold), _CMP_GE_OQ))
            << (16 * i);
#elif defined(VX_LEVEL_AVX2)
  for (int i = 0; i < 8; ++i) {
    const __m256 reached = _mm256_cmp_ps(_mm256_loadu_ps(block + 8 * i), _mm256_set1_ps(threshold), _CMP_GE_OQ);
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(reached))) << (8 * i);
  }
#else
  for (int i = 0; i < kSampleBlock; ++i) mask |= static_cast<uint64_t>(block[i] >= threshold) << i;
#endif
  return n >= kSampleBlock ? mask : mask & ((uint64_t{1} << n) - 1);
}

// The noise of u is -log(-log u) <= -log(1 - u), and log2 of a double is at least its bits read as a number with 52
// binary places, less the bias: a bound within 0.09 that takes no logarithm. 20 of the places are compared.
static uint64_t contenders(const float* x, int64_t n, ScoreScale scale, uint64_t counter, double limit) {
  constexpr double kMagic = 6442450944.0;  // 1.5 * 2^32, whose unit in the last place is 2^-20
  float copy[kSampleBlock];
  const float* block = whole_block(x, n, copy);
  const double reach = 1023.01 - limit;  // what rounding moves is far below the hundredth
  uint64_t reached[kSampleBlock], any = 0;
  for (int64_t i = 0; i < kSampleBlock; ++i) {
    uint64_t bits = counter + static_cast<uint64_t>(i) * kGamma;
    bits = (bits ^ (bits >> 30)) * kMix1;
    bits = (bits ^ (bits >> 27)) * kMix2;
    bits ^= bits >> 31;
    const double one_and_cell = __builtin_bit_cast(double, 0x3FF0000000000000u | (bits >> 12));
    const double rest = (2.0 - one_and_cell) - 0x1p-53;  // 1 - u, exact
    const double score = (static_cast<double>(block[i]) - scale.top) * scale.inverse;
    const double finite = score > -4000.0 ? score : -4000.0;
    const double bound = __builtin_fma(finite, 1.4426950408889634074, reach);
    const int64_t places = __builtin_bit_cast(int64_t, bound + kMagic) - __builtin_bit_cast(int64_t, kMagic);
    reached[i] = static_cast<int64_t>(__builtin_bit_cast(uint64_t, rest) >> 32) <= places ? 1 : 0;
    any |= reached[i];
  }
  if (any == 0) return 0;
  uint64_t mask = 0;
  for (int64_t i = 0; i < kSampleBlock; ++i) mask |= reached[i] << i;
  return n >= kSampleBlock ? mask : mask & ((uint64_t{1} << n) - 1);
}

extern const BadVerifyKernels kBadVerify = {block_maxima, mass, weights, at_least, contenders};

}  // namespace vx::VX_SIMD_NS
