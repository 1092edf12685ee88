// The functions of numbers that the engine knows, by vectors.

#ifndef RNNJAX_FUNCTIONS_H_
#define RNNJAX_FUNCTIONS_H_

#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

RNNJAX_INLINE Vec truth(IntVec mask) {
  return (Vec)(mask & (IntVec)splat(1.0f));
}

// exp(x) to about 1e-7 relative; zero where it would be below 2.5e-38.
RNNJAX_INLINE Vec exp(Vec x) {
  const Exponential e = exponential(at_least(at_most(x, 88.8f), -86.6f));
  // Half the power of two: the whole one of the largest results is no float.
  const Vec half = (Vec)(e.exponent + 0x3f000000u);
  const Vec result = 2.0f * (half * e.p + half);
  return x < -86.6f ? Vec{} : result;
}

RNNJAX_INLINE Vec expm1(Vec x) {
  const Vec e = expm1_bounded(at_least(at_most(x, 87.0f), -87.0f));
  return x > 87.0f ? exp(x) : e;
}

// The polynomial is that of Cephes' logf: x = 2^n m with m next to one.
RNNJAX_INLINE Vec log(Vec x) {
  const Vec tiny = x < 1.17549435e-38f ? x * 8388608.0f : x;
  const BitVec bits = (BitVec)tiny;
  const IntVec power = (IntVec)(bits - 0x3f3504f3u) >> 23;
  const Vec m = (Vec)(bits - ((BitVec)power << 23)) - 1.0f;
  Vec n = __builtin_convertvector(power, Vec);
  n = x < 1.17549435e-38f ? n - 23.0f : n;
  Vec q = splat(7.0376836292e-2f);
  q = q * m - 1.1514610310e-1f;
  q = q * m + 1.1676998740e-1f;
  q = q * m - 1.2420140846e-1f;
  q = q * m + 1.4249322787e-1f;
  q = q * m - 1.6668057665e-1f;
  q = q * m + 2.0000714765e-1f;
  q = q * m - 2.4999993993e-1f;
  q = q * m + 3.3333331174e-1f;
  const Vec square = m * m;
  Vec y = m * square * q + n * -2.12194440e-4f - 0.5f * square;
  y = m + y + n * 0.693359375f;
  const float infinity = __builtin_inff();
  y = x == infinity ? x : y;
  y = x == 0.0f ? splat(-infinity) : y;
  return x >= 0.0f ? y : splat(__builtin_nanf(""));
}

// What 1 + x has rounded away is made up for by the slope of the logarithm.
RNNJAX_INLINE Vec log1p(Vec x) {
  const Vec u = 1.0f + x;
  const Vec y = log(u) * (x / (u - 1.0f));
  const Vec result = u == 1.0f ? x : y;
  return x == __builtin_inff() ? x : result;
}

RNNJAX_INLINE Vec sqrt(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#else
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

RNNJAX_INLINE Vec abs(Vec x) { return (Vec)((BitVec)x & 0x7fffffffu); }

template <class F>
RNNJAX_INLINE Vec by_lane(Vec x, const F& f) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = f(x[lane]);
  return x;
}

template <class F>
RNNJAX_INLINE Vec by_lane(Vec x, Vec y, const F& f) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = f(x[lane], y[lane]);
  return x;
}

// From 2^23 on a float has no fraction.
RNNJAX_INLINE Vec towards_zero(Vec x) {
  const IntVec some = abs(x) < 8388608.0f;
  const IntVec whole = __builtin_convertvector(some ? x : Vec{}, IntVec);
  const BitVec sign = (BitVec)x & 0x80000000u;
  return some ? (Vec)((BitVec) __builtin_convertvector(whole, Vec) | sign) : x;
}

RNNJAX_INLINE Vec floor(Vec x) {
  const Vec whole = towards_zero(x);
  return whole > x ? whole - 1.0f : whole;
}

// What a division towards zero leaves, of the sign of x. The quotient may have
// been rounded up to the next whole number, but never down from one. The
// multiply-add rounds nothing, for what is left is a float.
RNNJAX_INLINE Vec remainder(Vec x, Vec y) {
#if defined(__FMA__) || defined(__aarch64__)
  const Vec a = abs(x), b = abs(y), quotient = a / b;
  const IntVec small = (quotient < 4194304.0f) & (b < __builtin_inff());
  int32_t all = -1;
  for (int lane = 0; lane < kLanes; ++lane) all &= small[lane];
  if (all) {
    const Vec left = a - towards_zero(quotient) * b;
    const BitVec sign = (BitVec)x & 0x80000000u;
    return (Vec)((BitVec)(left < 0.0f ? left + b : left) | sign);
  }
#endif
  return by_lane(x, y, [](float v, float w) { return __builtin_fmodf(v, w); });
}

inline Vec power(Vec x, int exponent) {
  Vec result = splat(1.0f);
  for (int n = exponent < 0 ? -exponent : exponent; n; n >>= 1, x *= x) {
    if (n & 1) result *= x;
  }
  return exponent < 0 ? 1.0f / result : result;
}

RNNJAX_INLINE Vec clamp(Vec low, Vec x, Vec high) {
  const Vec risen = x < low ? low : x;
  return risen > high ? high : risen;
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_FUNCTIONS_H_
