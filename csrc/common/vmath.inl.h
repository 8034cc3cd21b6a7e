// exp, exp2, sigmoid, silu and softplus on 16 lanes, equal bits at every SIMD level. Kernel text: include after simd.h.
#pragma once

#include "common/simd.h"

namespace vx::VX_SIMD_NS {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits

// Functions of kCount vectors take them side by side: a processor then has independent work while one waits for itself.

// e^x for every float: within 1 ulp of the exact value, subnormal results included; +inf above 88.72283, 0 below
// -103.98, NaN for NaN (its payload is unspecified).
// x = n*ln2 + r with |r| <= ln2/2; e^r by the degree-7 polynomial of Cephes' expf; the two powers of two of 2^n are
// applied by multiplication, so overflow and underflow round once, as IEEE does.
template <int kCount>
VX_INLINE void exp(f32x16* x) {
  const f32x16 magic = set1(kMagic), one = set1(1.0f);
  f32x16 n[kCount], p[kCount];
  // The clamps keep n within two exponents' range and pass NaN on: min and max give their second operand for NaN.
  for (int i = 0; i < kCount; ++i) x[i] = min(set1(89.0f), max(set1(-105.0f), x[i]));
  for (int i = 0; i < kCount; ++i) n[i] = sub(fma(x[i], set1(1.44269504088896341f), magic), magic);
  for (int i = 0; i < kCount; ++i) x[i] = fma(n[i], set1(-0.693147182464599609375f), x[i]);
  for (int i = 0; i < kCount; ++i) x[i] = fma(n[i], set1(1.904654323148236017e-9f), x[i]);
  for (int i = 0; i < kCount; ++i) p[i] = fma(set1(1.9875691500e-4f), x[i], set1(1.3981999507e-3f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], x[i], set1(8.3334519073e-3f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], x[i], set1(4.1665795894e-2f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], x[i], set1(1.6666665459e-1f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], x[i], set1(5.0000001201e-1f));
  for (int i = 0; i < kCount; ++i) p[i] = add(fma(mul(x[i], x[i]), p[i], x[i]), one);
  for (int i = 0; i < kCount; ++i) {
    const f32x16 half_biased = fma(n[i], set1(0.5f), magic);
    const f32x16 rest = sub(n[i], sub(half_biased, magic));
    x[i] = mul(mul(p[i], add_exponent(one, half_biased)), add_exponent(one, add(rest, magic)));
  }
}
VX_INLINE f32x16 exp(f32x16 x) {
  exp<1>(&x);
  return x;
}

// 2^x for every float: within 3 ulp of the exact value from 2^-126 on, below that within 2^-126 of it; exactly 1 at 0
// and 0 from x = -127 down; +inf from 128 up, NaN for NaN. Half the work of exp: made for decays, of which a scan takes
// billions.
// x = n + f with |f| <= 1/2; 2^f = 1 + f q(f), q of degree 4 with the least largest relative error, 4.4e-7, so that
// the error goes to 0 with f and decays close to 1 stay true over thousands of steps.
template <int kCount>
VX_INLINE void exp2(f32x16* x) {
  const f32x16 magic = set1(kMagic);
  f32x16 n[kCount], q[kCount];
  for (int i = 0; i < kCount; ++i) x[i] = min(set1(128.0f), max(set1(-127.0f), x[i]));
  for (int i = 0; i < kCount; ++i) n[i] = add(x[i], magic);
  for (int i = 0; i < kCount; ++i) x[i] = sub(x[i], sub(n[i], magic));
  for (int i = 0; i < kCount; ++i) q[i] = fma(set1(1.3333538e-3f), x[i], set1(9.666245e-3f));
  for (int i = 0; i < kCount; ++i) q[i] = fma(q[i], x[i], set1(5.5505004e-2f));
  for (int i = 0; i < kCount; ++i) q[i] = fma(q[i], x[i], set1(2.4022351e-1f));
  for (int i = 0; i < kCount; ++i) q[i] = fma(q[i], x[i], set1(6.931471e-1f));
  for (int i = 0; i < kCount; ++i) x[i] = add_exponent(fma(q[i], x[i], set1(1.0f)), n[i]);
}
VX_INLINE f32x16 exp2(f32x16 x) {
  exp2<1>(&x);
  return x;
}

// 1 / (1 + e^-x).
VX_INLINE f32x16 sigmoid(f32x16 x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// x / (1 + e^-x).
template <int kCount>
VX_INLINE void silu(f32x16* x) {
  f32x16 e[kCount];
  for (int i = 0; i < kCount; ++i) e[i] = sub(set1(0.0f), x[i]);
  exp<kCount>(e);
  for (int i = 0; i < kCount; ++i) x[i] = div(x[i], add(set1(1.0f), e[i]));
}
VX_INLINE f32x16 silu(f32x16 x) {
  silu<1>(&x);
  return x;
}

// ln(1 + e^x) without overflow, within 4 ulp: max(x, 0) + ln(1 + w), w = e^-|x|, by the series of artanh(w / (2 + w)).
template <int kCount>
VX_INLINE void softplus(f32x16* x) {
  const f32x16 zero = set1(0.0f);
  f32x16 s[kCount], s2[kCount], p[kCount];
  for (int i = 0; i < kCount; ++i) s[i] = min(x[i], sub(zero, x[i]));
  exp<kCount>(s);
  for (int i = 0; i < kCount; ++i) s[i] = div(s[i], add(s[i], set1(2.0f)));
  for (int i = 0; i < kCount; ++i) s2[i] = mul(s[i], s[i]);
  for (int i = 0; i < kCount; ++i) p[i] = fma(set1(1.4089167e-1f), s2[i], set1(1.39803e-1f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], s2[i], set1(2.0012455e-1f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], s2[i], set1(3.3333158e-1f));
  for (int i = 0; i < kCount; ++i) p[i] = fma(p[i], s2[i], set1(1.0f));
  for (int i = 0; i < kCount; ++i) x[i] = fma(add(s[i], s[i]), p[i], max(zero, x[i]));
}
VX_INLINE f32x16 softplus(f32x16 x) {
  softplus<1>(&x);
  return x;
}

}  // namespace vx::VX_SIMD_NS
