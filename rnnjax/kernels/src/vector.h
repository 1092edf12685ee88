// Vectors of floats in the GCC/Clang extension, and the two activations.
//
// This file is compiled once per instruction set, each time inside a namespace
// of that set's name, so that no function built for a wide machine can be the
// one the linker keeps for a narrow one. For the same reason nothing of the
// C++ standard library with code of its own may be used here.

#ifndef RNNJAX_VECTOR_H_
#define RNNJAX_VECTOR_H_

#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define RNNJAX_INLINE inline __attribute__((always_inline))
#define RNNJAX_LAMBDA __attribute__((always_inline))

namespace rnnjax::RNNJAX_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
inline constexpr bool kManyRegisters = true;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
inline constexpr bool kManyRegisters = false;
#elif defined(__aarch64__)
inline constexpr int kLanes = 4;
inline constexpr bool kManyRegisters = true;
#else
inline constexpr int kLanes = 4;
inline constexpr bool kManyRegisters = false;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t BitVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));

// The storage of a bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

// The difference is no operation; a sum with zero would be one, for -0 + 0.
RNNJAX_INLINE Vec splat(float value) { return value - Vec{}; }

RNNJAX_INLINE float to_float(float value) { return value; }

RNNJAX_INLINE float to_float(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

RNNJAX_INLINE Vec load(const float* source) {
  Vec value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

RNNJAX_INLINE Vec load(const BFloat16* source) {
  HalfVec half;
  std::memcpy(&half, source, sizeof half);
  return (Vec)(__builtin_convertvector(half, BitVec) << 16);
}

RNNJAX_INLINE void store(float* target, Vec value) {
  std::memcpy(target, &value, sizeof value);
}

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
RNNJAX_INLINE void store(BFloat16* target, Vec value) {
  const BitVec bits = (BitVec)value;
  const BitVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const BitVec nan = (bits >> 16) | 0x40;
  const HalfVec half =
      __builtin_convertvector(value == value ? rounded : nan, HalfVec);
  std::memcpy(target, &half, sizeof half);
}

// The lanes of the vector from a column of a row on, of which the last may not
// be whole.
RNNJAX_INLINE int lanes_of(int64_t width, int64_t column) {
  const int64_t left = width - column;
  return left < kLanes ? static_cast<int>(left) : kLanes;
}

#if defined(__AVX__) && !defined(__AVX512F__)
RNNJAX_INLINE IntVec first_lanes(int count) {
  return IntVec{0, 1, 2, 3, 4, 5, 6, 7} < count;
}
#endif

// The first `count` lanes only, for the last block of a row. The others read
// as zero and are not written.
template <class D>
RNNJAX_INLINE Vec load(const D* source, int count) {
  if (count >= kLanes) return load(source);
#if defined(__AVX512F__)
  if constexpr (sizeof(D) == 4) {
    return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1),
                                      source);
  }
#elif defined(__AVX__)
  if constexpr (sizeof(D) == 4) {
    return (Vec)_mm256_maskload_ps(source, (__m256i)first_lanes(count));
  }
#endif
  D lanes[kLanes] = {};
  std::memcpy(lanes, source, sizeof(D) * count);
  return load(lanes);
}

template <class D>
RNNJAX_INLINE void store(D* target, Vec value, int count) {
  if (count >= kLanes) return store(target, value);
#if defined(__AVX512F__)
  if constexpr (sizeof(D) == 4) {
    return _mm512_mask_storeu_ps(
        target, static_cast<__mmask16>((1u << count) - 1), (__m512)value);
  }
#elif defined(__AVX__)
  if constexpr (sizeof(D) == 4) {
    return _mm256_maskstore_ps(target, (__m256i)first_lanes(count),
                               (__m256)value);
  }
#endif
  D lanes[kLanes];
  store(lanes, value);
  std::memcpy(target, lanes, sizeof(D) * count);
}

template <class D>
inline bool is_zero(const D* row, int64_t size) {
  for (int64_t c = 0; c < size; c += kLanes) {
    const Vec part = load(row + c, lanes_of(size, c));
    for (int lane = 0; lane < kLanes; ++lane) {
      if (part[lane] != 0.0f) return false;
    }
  }
  return true;
}

// 1 / x for 1 <= x < 2^127. The division unit is the bottleneck of an LSTM's
// activations, so AVX-512 starts from its 14-bit estimate and takes one Newton
// step (28 bits).
RNNJAX_INLINE Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec estimate = (Vec)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

// exp(x) = 2^n (p + 1) for |x| <= 89.
struct Exponential {
  Vec p;
  BitVec exponent;  // n, where a float has it
};

// x = n ln 2 + r with |r| <= ln(2) / 2, and p = exp(r) - 1. The polynomial is a
// minimax fit of (exp(r) - 1 - r) / r^2, weighted by the relative error of the
// sum.
RNNJAX_INLINE Exponential exponential(Vec x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integer
  const Vec shifted = x * 1.44269504f + magic;
  const Vec n = shifted - magic;
  // ln 2 in two parts, the first exact in few bits: n times it has no error.
  const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec q = splat(1.38824841e-3f);
  q = q * r + 8.3667133e-3f;
  q = q * r + 4.16672044e-2f;
  q = q * r + 0.16666542f;
  q = q * r + 0.49999997f;
  return {(r * r) * q + r, (BitVec)shifted << 23};
}

// exp(x) - 1 for |x| <= 88, accurate to about 1e-7 relative; NaN passes.
RNNJAX_INLINE Vec expm1_bounded(Vec x) {
  const Exponential e = exponential(x);
  const Vec scale = (Vec)(e.exponent + 0x3f800000u);
  return scale * e.p + (scale - 1.0f);
}

// Comparisons with NaN are false, so each of these passes a NaN on.
RNNJAX_INLINE Vec at_most(Vec x, float bound) {
  return x > bound ? splat(bound) : x;
}
RNNJAX_INLINE Vec at_least(Vec x, float bound) {
  return x < bound ? splat(bound) : x;
}

RNNJAX_INLINE Vec sigmoid(Vec x) {
  const Vec e = expm1_bounded(at_least(at_most(-x, 87.0f), -87.0f));
  return reciprocal(e + 2.0f);
}

// tanh(x) = expm1(2x) / (expm1(2x) + 2), which keeps its relative accuracy
// near zero. From 9.02 on the result rounds to one.
RNNJAX_INLINE Vec tanh(Vec x) {
  const Vec e = expm1_bounded(2.0f * at_least(at_most(x, 9.1f), -9.1f));
  return e * reciprocal(e + 2.0f);
}

RNNJAX_INLINE Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_VECTOR_H_
