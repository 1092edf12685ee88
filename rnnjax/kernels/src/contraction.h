// Sums of products of two arrays of one row.

#ifndef RNNJAX_CONTRACTION_H_
#define RNNJAX_CONTRACTION_H_

#include "reduction.h"
#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

struct Loop {
  int64_t size, a, b;  // and how far apart elements of both factors are
};

// f(a, b) of all that is summed, but for the last loop.
template <class F>
RNNJAX_INLINE void for_sums(const Loop* sums, const float* a, const float* b,
                            const F& f) {
  for (int64_t i = 0; i < sums[0].size; ++i, a += sums[0].a, b += sums[0].b) {
    f(a, b);
  }
}

// How a factor goes along with neighbours in the result.
enum class Along { kOne, kEach, kAny };

// Those of the neighbours from `at` on.
template <Along along>
RNNJAX_INLINE Vec lanes_along(const float* a, int64_t at, int64_t stride,
                              int count) {
  if constexpr (along == Along::kOne) return splat(*a);
  if constexpr (along == Along::kEach) return load(a + at, count);
  return strided(a + at * stride, stride, count);
}

// V vectors of neighbours in the result, the last of so many lanes.
template <int V, Along along_a, Along along_b>
RNNJAX_INLINE void neighbours(const float* a, const float* b, Loop last,
                              const Loop* sums, int count, float* out) {
  Vec results[V] = {};
  for_sums(sums, a, b, [&](const float* x, const float* y) RNNJAX_LAMBDA {
    for (int64_t k = 0; k < sums[1].size; ++k, x += sums[1].a, y += sums[1].b) {
      for (int v = 0; v < V; ++v) {
        const int64_t at = v * kLanes;
        results[v] += lanes_along<along_a>(x, at, last.a, count) *
                      lanes_along<along_b>(y, at, last.b, count);
      }
    }
  });
  for (int v = 0; v < V; ++v) store(out + v * kLanes, results[v], count);
}

template <Along along_a, Along along_b>
inline void all_neighbours(const float* a, const float* b, Loop last,
                           const Loop* sums, float* out) {
  constexpr int V = 4;
  int64_t c = 0;
  for (; c + V * kLanes <= last.size; c += V * kLanes) {
    neighbours<V, along_a, along_b>(a + c * last.a, b + c * last.b, last, sums,
                                    kLanes, out + c);
  }
  for (; c < last.size; c += kLanes) {
    neighbours<1, along_a, along_b>(a + c * last.a, b + c * last.b, last, sums,
                                    lanes_of(last.size, c), out + c);
  }
}

// What is summed lies next to each other in both factors: one vector of sums
// for each result, and all of them are added up together.
inline void scalar_products(const float* a, const float* b, Loop last,
                            const Loop* sums, float* out) {
  const auto add = [](auto x, auto y) RNNJAX_LAMBDA { return x + y; };
  const int64_t n = sums[1].size;
  int64_t c = 0;
  for (; c + kLanes <= last.size; c += kLanes) {
    Vec parts[kLanes] = {}, rest{};
    for_sums(sums, a, b, [&](const float* x, const float* y) RNNJAX_LAMBDA {
      for (int64_t k = 0; k < whole(n); k += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
          parts[i] += load(x + i * last.a + k) * load(y + i * last.b + k);
        }
      }
      for (int64_t k = whole(n); k < n; ++k) {
        rest += strided(x + k, last.a) * strided(y + k, last.b);
      }
    });
    store(out + c, across_rows(parts, add) + rest);
    a += kLanes * last.a;
    b += kLanes * last.b;
  }
  for (; c < last.size; ++c, a += last.a, b += last.b) {
    Vec parts{};
    float rest = 0.0f;
    for_sums(sums, a, b, [&](const float* x, const float* y) RNNJAX_LAMBDA {
      for (int64_t k = 0; k < whole(n); k += kLanes) {
        parts += load(x + k) * load(y + k);
      }
      for (int64_t k = whole(n); k < n; ++k) rest += x[k] * y[k];
    });
    out[c] = across(parts, add) + rest;
  }
}

// out[i, j, l] = sum over k and m of a[...] b[...]: three loops over the
// result, two over what is summed.
inline void contracted(const int64_t* details, const float* a, const float* b,
                       float* out) {
  const Loop* loops = reinterpret_cast<const Loop*>(details);
  const Loop &outer = loops[0], &middle = loops[1], &last = loops[2];
  const Loop* sums = loops + 3;
  const auto one = [&] {
    if (last.a == 0 && last.b == 1)
      return all_neighbours<Along::kOne, Along::kEach>;
    if (last.a == 1 && last.b == 1)
      return all_neighbours<Along::kEach, Along::kEach>;
    if (sums[1].a == 1 && sums[1].b == 1) return scalar_products;
    return all_neighbours<Along::kAny, Along::kAny>;
  }();
  for (int64_t i = 0; i < outer.size; ++i) {
    for (int64_t j = 0; j < middle.size; ++j, out += last.size) {
      one(a + i * outer.a + j * middle.a, b + i * outer.b + j * middle.b, last,
          sums, out);
    }
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_CONTRACTION_H_
