// Sums, maxima and minima: of lanes, of rows of vectors and of arrays.

#ifndef RNNJAX_REDUCTION_H_
#define RNNJAX_REDUCTION_H_

#include <utility>

#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

template <int N>
struct VectorOf {
  typedef float type __attribute__((vector_size(N * sizeof(float))));
};

// f of all elements of a vector: of its halves, and of theirs.
template <int N = kLanes, class F>
RNNJAX_INLINE float across(typename VectorOf<N>::type all, const F& f) {
  if constexpr (N == 2) {
    return f(all[0], all[1]);
  } else {
    typename VectorOf<N / 2>::type half[2];
    std::memcpy(half, &all, sizeof(all));
    return across<N / 2>(f(half[0], half[1]), f);
  }
}

// The first halves of all groups of G lanes, or the second: those of `a` and of
// `b` in turn.
template <int G, bool kSecond, int... I>
RNNJAX_INLINE Vec halves(Vec a, Vec b, std::integer_sequence<int, I...>) {
  constexpr int H = G / 2;
  constexpr int skipped = kSecond ? H : 0;
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, (I / G * G + I % H + skipped + I / H % 2 * kLanes)...);
#else
  return __builtin_shuffle(
      a, b, IntVec{(I / G * G + I % H + skipped + I / H % 2 * kLanes)...});
#endif
}

// In lane i, f of all elements of row i. Each level halves the groups of lanes
// that belong to a row, and the vectors.
template <int G = kLanes, class F>
RNNJAX_INLINE Vec across_rows(Vec (&rows)[G], const F& f) {
  constexpr int H = G / 2;
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
  Vec paired[H];
  for (int i = 0; i < H; ++i) {
    paired[i] = f(halves<G, false>(rows[i], rows[i + H], lanes),
                  halves<G, true>(rows[i], rows[i + H], lanes));
  }
  if constexpr (H == 1) {
    return paired[0];
  } else {
    return across_rows<H>(paired, f);
  }
}

// Elements that lie so far apart, in the first `count` lanes.
RNNJAX_INLINE Vec strided(const float* a, int64_t stride, int count = kLanes) {
  Vec lanes{};
  for (int i = 0; i < count; ++i) lanes[i] = a[i * stride];
  return lanes;
}

// How many of n elements are in whole vectors.
RNNJAX_INLINE int64_t whole(int64_t n) { return n / kLanes * kLanes; }

// One result for each row of n elements.
template <class F>
RNNJAX_INLINE void reduce_rows(const float* a, int64_t rows, int64_t n,
                               float start, const F& f, float* out) {
  for (; rows >= kLanes; rows -= kLanes, a += kLanes * n, out += kLanes) {
    Vec results = splat(start);
    if (whole(n) > 0) {
      Vec parts[kLanes];
      for (int i = 0; i < kLanes; ++i) parts[i] = load(a + i * n);
      for (int64_t k = kLanes; k < whole(n); k += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          parts[i] = f(parts[i], load(a + i * n + k));
        }
      }
      results = across_rows(parts, f);
    }
    for (int64_t k = whole(n); k < n; ++k) {
      results = f(results, strided(a + k, n));
    }
    store(out, results);
  }
  for (; rows > 0; --rows, a += n, ++out) {
    Vec parts = splat(start);
    for (int64_t k = 0; k < whole(n); k += kLanes)
      parts = f(parts, load(a + k));
    *out = across(parts, f);
    for (int64_t k = whole(n); k < n; ++k) *out = f(*out, a[k]);
  }
}

// (outer, n, inner) -> (outer, inner).
template <class F>
RNNJAX_INLINE void reduced(const int64_t* sizes, const float* a, float start,
                           const F& f, float* out) {
  const int64_t outer = sizes[0], n = sizes[1], inner = sizes[2];
  if (inner == 1) return reduce_rows(a, outer, n, start, f, out);
  for (int64_t o = 0; o < outer; ++o, a += n * inner, out += inner) {
    for (int64_t c = 0; c < inner; c += kLanes) {
      const int lanes = lanes_of(inner, c);
      Vec sum = splat(start);
      for (int64_t k = 0; k < n; ++k) {
        sum = f(sum, load(a + k * inner + c, lanes));
      }
      store(out + c, sum, lanes);
    }
  }
}

// Which one, and its sizes.
inline void reduced(const int64_t* details, const float* a, float* out) {
  const int64_t* sizes = details + 1;
  switch (details[0]) {
    case 0:
      return reduced(sizes, a, 0.0f, [](auto x, auto y) { return x + y; }, out);
    case 1:
      return reduced(
          sizes, a, -__builtin_inff(),
          [](auto x, auto y) { return ((x > y) | (x != x)) ? x : y; }, out);
    default:
      return reduced(
          sizes, a, __builtin_inff(),
          [](auto x, auto y) { return ((x < y) | (x != x)) ? x : y; }, out);
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_REDUCTION_H_
