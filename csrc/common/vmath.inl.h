// exp, sigmoid and silu on 16 lanes, equal bits at every SIMD level. Kernel text: include after simd.h.
#pragma once

#include "common/simd.h"

namespace vx::VX_SIMD_NS {

// e^x for every float: within 1 ulp of the exact value, subnormal results included; +inf above 88.72283, 0 below
// -103.98, NaN for NaN (its payload is unspecified).
// x = n*ln2 + r with |r| <= ln2/2; e^r by the degree-7 polynomial of Cephes' expf; the two powers of two of 2^n are
// applied by multiplication, so overflow and underflow round once, as IEEE does.
VX_INLINE f32x16 exp(f32x16 x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  // The clamps keep n within two exponents' range and pass NaN on: min and max give their second operand for NaN.
  x = min(set1(89.0f), max(set1(-105.0f), x));
  const f32x16 magic = set1(kMagic);
  const f32x16 n = sub(fma(x, set1(1.44269504088896341f), magic), magic);
  f32x16 r = fma(n, set1(-0.693147182464599609375f), x);
  r = fma(n, set1(1.904654323148236017e-9f), r);
  f32x16 p = fma(set1(1.9875691500e-4f), r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  const f32x16 half_biased = fma(n, set1(0.5f), magic);
  const f32x16 rest = sub(n, sub(half_biased, magic));
  const f32x16 one = set1(1.0f);
  p = mul(p, add_exponent(one, half_biased, kMagic));
  return mul(p, add_exponent(one, add(rest, magic), kMagic));
}

// 1 / (1 + e^-x).
VX_INLINE f32x16 sigmoid(f32x16 x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// x / (1 + e^-x).
VX_INLINE f32x16 silu(f32x16 x) { return div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

}  // namespace vx::VX_SIMD_NS
