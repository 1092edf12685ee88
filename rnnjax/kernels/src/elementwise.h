// The elementwise operations of the engine, on strips of a few rows.

#ifndef RNNJAX_ELEMENTWISE_H_
#define RNNJAX_ELEMENTWISE_H_

#include <algorithm>
#include <utility>

#include "panel.h"
#include "program.h"
#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

// A strip: `rows` rows of `width` elements from a column on, the last vector of
// a row perhaps not whole. What comes after it is padding, or another's if no
// more may be read and written than `exactly` these.
struct Strip {
  int64_t rows, width, column = 0;
  bool exactly = false;
};

// Where the strip of a value begins, and the bytes to its next row and element.
struct At {
  char* start;
  int64_t row, column;

  RNNJAX_INLINE float* operator()(int64_t r, int64_t c) const {
    return reinterpret_cast<float*>(start + r * row + c * column);
  }
};

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

template <class F>
RNNJAX_INLINE void for_vectors(const Strip& strip, const F& f) {
  for (int64_t r = 0; r < strip.rows; ++r) {
    for (int64_t c = 0; c < strip.width; c += kLanes) f(r, c);
  }
}

// An operand, vector by vector: along a row or down a column of vectors.
struct Line {
  char* at;
  int64_t step;

  RNNJAX_INLINE float* next() {
    float* const vector = reinterpret_cast<float*>(at);
    at += step;
    return vector;
  }
};

// Of each vector the first `lanes`.
template <class F, class... Operand>
RNNJAX_INLINE void map_line(int64_t count, int lanes, const F& f, Line out,
                            Operand... operand) {
  for (; count > 0; --count) {
    store(out.next(), f(load(operand.next(), lanes)...), lanes);
  }
}

// Along the longer side of the strip, so that there are few turns.
template <class F, class... Operand>
RNNJAX_INLINE void map(const Strip& strip, const F& f, At out,
                       Operand... operand) {
  const int last = strip.exactly ? strip.width % kLanes : 0;
  const int64_t vectors = (strip.width - last + kLanes - 1) / kLanes;
  const auto row = [](At a, int64_t r) RNNJAX_LAMBDA {
    return Line{a.start + r * a.row, a.column * kLanes};
  };
  const auto column = [](At a, int64_t v) RNNJAX_LAMBDA {
    return Line{a.start + v * a.column * kLanes, a.row};
  };
  if (strip.rows > vectors) {
    for (int64_t v = 0; v < vectors; ++v) {
      map_line(strip.rows, kLanes, f, column(out, v), column(operand, v)...);
    }
  } else {
    for (int64_t r = 0; r < strip.rows; ++r) {
      map_line(vectors, kLanes, f, row(out, r), row(operand, r)...);
    }
  }
  if (last) {
    map_line(strip.rows, last, f, column(out, vectors),
             column(operand, vectors)...);
  }
}

inline void copy(const Strip& strip, At out, At a) {
  map(strip, [](Vec x) RNNJAX_LAMBDA { return x; }, out, a);
}

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

// By way of 16 bits: from 8 to 32 at once, GCC goes lane by lane.
RNNJAX_INLINE IntVec widened(ByteVec bytes) {
  return __builtin_convertvector(__builtin_convertvector(bytes, HalfVec),
                                 IntVec);
}
RNNJAX_INLINE ByteVec narrowed(IntVec numbers) {
  return __builtin_convertvector(__builtin_convertvector(numbers, HalfVec),
                                 ByteVec);
}

RNNJAX_INLINE void copy_bytes(void* to, const void* from, int count) {
  if (count == kLanes) {
    std::memcpy(to, from, kLanes);
  } else {
    std::memcpy(to, from, count);
  }
}

inline void load_flags(const Strip& strip, At out, At a) {
  for_vectors(strip, [&](int64_t r, int64_t c) {
    ByteVec flags{};
    copy_bytes(&flags, a(r, c), lanes_of(strip.width, c));
    store(out(r, c), truth(widened(flags) != 0));
  });
}

inline void store_flags(const Strip& strip, At out, At a) {
  for_vectors(strip, [&](int64_t r, int64_t c) {
    const IntVec set = (load(a(r, c)) != 0.0f) & 1;
    const ByteVec flags = narrowed(set);
    copy_bytes(out(r, c), &flags, lanes_of(strip.width, c));
  });
}

inline void spread(const Strip& strip, At out, At a) {
  for_vectors(strip,
              [&](int64_t r, int64_t c) { store(out(r, c), splat(*a(r, 0))); });
}

inline Vec power(Vec x, int exponent) {
  Vec result = splat(1.0f);
  for (int n = exponent < 0 ? -exponent : exponent; n; n >>= 1, x *= x) {
    if (n & 1) result *= x;
  }
  return exponent < 0 ? 1.0f / result : result;
}

inline void power(const Strip& strip, At out, At a, At exponent) {
  const int n = static_cast<int>(*exponent(0, 0));
  map(strip, [=](Vec x) { return power(x, n); }, out, a);
}

// Rows of a block of rows, (i, j, l), or a part of one: where they begin in the
// strip, and in [i], in [i, j] and in [i, l].
struct Rows {
  int64_t strip_row, column;
  int64_t block, row, along;
};

// What is read for such rows, of which V vectors from an element on: elements
// of the strip, those of one row for all of a block, one for each row, or one
// for each block.
struct Each {
  At a;

  template <int V>
  struct Panel {
    const char* at;
    int64_t row, vector;

    RNNJAX_INLINE void next() { at += row; }
    RNNJAX_INLINE Vec operator[](int v) const {
      return load(reinterpret_cast<const float*>(at + v * vector));
    }
  };

  template <int V>
  RNNJAX_INLINE Panel<V> panel(const Rows& rows, int64_t c,
                               int64_t width) const {
    const int64_t row = width * a.column;
    const char* first =
        a.start + rows.strip_row * a.row + (rows.column + c) * a.column;
    return {first - row, row, a.column * kLanes};
  }
};

struct OneRow {
  At a;

  template <int V>
  struct Panel {
    Vec vectors[V];

    RNNJAX_INLINE void next() {}
    RNNJAX_INLINE Vec operator[](int v) const { return vectors[v]; }
  };

  template <int V>
  RNNJAX_INLINE Panel<V> panel(const Rows& rows, int64_t c, int64_t) const {
    const float* first = a(rows.strip_row, 0) + rows.along + c;
    Panel<V> panel;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) panel.vectors[v] = load(first + v * kLanes);
    return panel;
  }
};

struct PerRow {
  At a;

  template <int V>
  struct Panel {
    const float* at;
    Vec value;

    RNNJAX_INLINE void next() { value = splat(*at++); }
    RNNJAX_INLINE Vec operator[](int) const { return value; }
  };

  template <int V>
  RNNJAX_INLINE Panel<V> panel(const Rows& rows, int64_t, int64_t) const {
    return {a(rows.strip_row, 0) + rows.row, Vec{}};
  }
};

struct PerBlock {
  At a;

  template <int V>
  struct Panel {
    Vec value;

    RNNJAX_INLINE void next() {}
    RNNJAX_INLINE Vec operator[](int) const { return value; }
  };

  template <int V>
  RNNJAX_INLINE Panel<V> panel(const Rows& rows, int64_t, int64_t) const {
    return {splat(a(rows.strip_row, 0)[rows.block])};
  }
};

// R rows of V vectors, of the last only so many lanes. All are there before one
// is stored: what is stored may be read, as a part of a vector, for the next.
template <int R, int V, class F, class... Panel>
RNNJAX_INLINE void map_rows_of_panel(int lanes, int64_t width, const F& f,
                                     float* out, Panel&... panel) {
  Vec results[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    (panel.next(), ...);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) results[r][v] = f(panel[v]...);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r, out += width) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      store(out + v * kLanes, results[r][v], v < V - 1 ? kLanes : lanes);
    }
  }
}

template <int V, class F, class... Panel>
RNNJAX_INLINE void map_panel(int64_t count, int lanes, int64_t width,
                             const F& f, float* out, Panel... panel) {
  constexpr int R = kVectors / V;
  for (; count >= R; count -= R, out += R * width) {
    map_rows_of_panel<R, V>(lanes, width, f, out, panel...);
  }
  for (; count > 0; --count, out += width) {
    map_rows_of_panel<1, V>(lanes, width, f, out, panel...);
  }
}

// A size among the operands.
RNNJAX_INLINE int64_t size_at(At a) { return static_cast<int64_t>(*a(0, 0)); }

struct Divided {
  int64_t quotient, remainder;
};

// Of 32 bits, which take half as long as 64: no rows are so long.
RNNJAX_INLINE Divided divided(int64_t a, int64_t b) {
  const auto x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);
  return {x / y, x % y};
}

// Blocks of rows, (i, j, l), of which the sizes of l and j are given. They end
// where they end: what is stored after one may be another's, or not a strip's
// at all.
template <class F, class... Operand>
RNNJAX_INLINE void map_rows(const Strip& strip, const F& f, At columns,
                            At heights, At out, Operand... operand) {
  const int64_t width = size_at(columns), height = size_at(heights);
  const auto [first, inside] = divided(strip.column, width);
  const auto [block, above] = divided(first, height);
  for (int64_t r = 0; r < strip.rows; ++r) {
    Rows rows{r, 0, block, first, block * width};
    int64_t begin = inside, end, count;
    for (int64_t j = above; rows.column < strip.width; begin = 0) {
      const int64_t left = strip.width - rows.column;
      if (begin > 0 || left < width) {
        count = 1;
        end = std::min(width, begin + left);
      } else {
        count = std::min(height - j, divided(left, width).quotient);
        end = width;
      }
      rows.column -= begin;
      int64_t c = begin;
      const auto go = [&](auto vectors, int lanes) RNNJAX_LAMBDA {
        constexpr int V = decltype(vectors)::value;
        for (; c + (V - 1) * kLanes + lanes <= end; c += V * kLanes) {
          map_panel<V>(count, lanes, width, f, out(r, rows.column + c),
                       operand.template panel<V>(rows, c, width)...);
        }
      };
      go(std::integral_constant<int, kVectors>(), kLanes);
      go(std::integral_constant<int, 2>(), kLanes);
      go(std::integral_constant<int, 1>(), kLanes);
      if (c < end) go(std::integral_constant<int, 1>(), end - c);
      rows.column += (count - 1) * width + end;
      rows.row += count;
      if ((j += count) == height) {
        j = 0;
        rows.along = ++rows.block * width;
      }
    }
  }
}

inline void outer(const Strip& strip, At out, At a, At b, At columns, At rows) {
  const auto f = [](Vec a, Vec b) RNNJAX_LAMBDA { return a * b; };
  map_rows(strip, f, columns, rows, out, PerRow{a}, OneRow{b});
}

inline void add_outer(const Strip& strip, At out, At x, At a, At b, At columns,
                      At rows) {
  const auto f = [](Vec x, Vec a, Vec b) RNNJAX_LAMBDA { return x + a * b; };
  map_rows(strip, f, columns, rows, out, Each{x}, PerRow{a}, OneRow{b});
}

// What gates keep of matrices, and what is written into them.
template <class Gate>
inline void gated_add_outer(const Strip& strip, At out, At x, Gate gate, At a,
                            At b, At columns, At rows) {
  const auto f = [](Vec x, Vec gate, Vec a, Vec b)
                     RNNJAX_LAMBDA { return gate * x + a * b; };
  map_rows(strip, f, columns, rows, out, Each{x}, gate, PerRow{a}, OneRow{b});
}

inline void repeat(const Strip& strip, At out, At a, At columns, At rows) {
  const auto f = [](Vec a) RNNJAX_LAMBDA { return a; };
  map_rows(strip, f, columns, rows, out, PerRow{a});
}

inline void multiply_repeated(const Strip& strip, At out, At x, At a,
                              At columns, At rows) {
  const auto f = [](Vec x, Vec a) RNNJAX_LAMBDA { return x * a; };
  map_rows(strip, f, columns, rows, out, Each{x}, PerRow{a});
}

inline void multiply_add_repeated(const Strip& strip, At out, At x, At z, At a,
                                  At columns, At rows) {
  const auto f = [](Vec x, Vec z, Vec a) RNNJAX_LAMBDA { return x * a + z; };
  map_rows(strip, f, columns, rows, out, Each{x}, Each{z}, PerRow{a});
}

inline void tile(const Strip& strip, At out, At a, At columns, At rows) {
  const auto f = [](Vec a) RNNJAX_LAMBDA { return a; };
  map_rows(strip, f, columns, rows, out, OneRow{a});
}

RNNJAX_INLINE Vec clamp(Vec low, Vec x, Vec high) {
  const Vec risen = x < low ? low : x;
  return risen > high ? high : risen;
}

// Of how many operands an operation is given the elements of its strip; it
// finds those of the others itself.
inline int along(Operation operation) {
  switch (operation) {
    case Operation::k_outer:
    case Operation::k_repeat:
    case Operation::k_tile: return 0;
    case Operation::k_add_outer:
    case Operation::k_rows_gated_add_outer:
    case Operation::k_matrices_gated_add_outer:
    case Operation::k_multiply_repeated: return 1;
    case Operation::k_gated_add_outer:
    case Operation::k_multiply_add_repeated: return 2;
    default: return kOperands;
  }
}

// What an operation does to a strip: its operands are the result, then what it
// reads.
using Apply = void (*)(const Strip&, const At*);

// Comparisons with NaN are false; `max` and `min` are NaN if either is.
inline Apply applied(Operation operation) {
  switch (operation) {
#define RNNJAX_CASE(name, statement) \
  case Operation::k_##name:          \
    return [](const Strip& strip, const At* at) { statement; };
#define RNNJAX_UNARY(name, expression)                                         \
  RNNJAX_CASE(name, map(                                                       \
                        strip, [](Vec x) RNNJAX_LAMBDA { return expression; }, \
                        at[0], at[1]))
#define RNNJAX_BINARY(name, expression)                                       \
  RNNJAX_CASE(                                                                \
      name, map(                                                              \
                strip, [](Vec x, Vec y) RNNJAX_LAMBDA { return expression; }, \
                at[0], at[1], at[2]))
#define RNNJAX_TERNARY(name, expression)                                       \
  RNNJAX_CASE(                                                                 \
      name,                                                                    \
      map(                                                                     \
          strip, [](Vec x, Vec y, Vec z) RNNJAX_LAMBDA { return expression; }, \
          at[0], at[1], at[2], at[3]))
#define RNNJAX_QUATERNARY(name, expression)                       \
  RNNJAX_CASE(name, map(                                          \
                        strip,                                    \
                        [](Vec x, Vec y, Vec z, Vec w)            \
                            RNNJAX_LAMBDA { return expression; }, \
                        at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(copy, copy(strip, at[0], at[1]))
    RNNJAX_CASE(load_flags, load_flags(strip, at[0], at[1]))
    RNNJAX_CASE(store_flags, store_flags(strip, at[0], at[1]))
    RNNJAX_CASE(splat, spread(strip, at[0], at[1]))
    RNNJAX_CASE(power, power(strip, at[0], at[1], at[2]))
    RNNJAX_CASE(outer, outer(strip, at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(add_outer,
                add_outer(strip, at[0], at[1], at[2], at[3], at[4], at[5]))
    RNNJAX_CASE(multiply_repeated,
                multiply_repeated(strip, at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(gated_add_outer,
                gated_add_outer(strip, at[0], at[1], Each{at[2]}, at[3], at[4],
                                at[5], at[6]))
    RNNJAX_CASE(rows_gated_add_outer,
                gated_add_outer(strip, at[0], at[1], PerRow{at[2]}, at[3],
                                at[4], at[5], at[6]))
    RNNJAX_CASE(matrices_gated_add_outer,
                gated_add_outer(strip, at[0], at[1], PerBlock{at[2]}, at[3],
                                at[4], at[5], at[6]))
    RNNJAX_CASE(
        multiply_add_repeated,
        multiply_add_repeated(strip, at[0], at[1], at[2], at[3], at[4], at[5]))
    RNNJAX_CASE(repeat, repeat(strip, at[0], at[1], at[2], at[3]))
    RNNJAX_CASE(tile, tile(strip, at[0], at[1], at[2], at[3]))
    RNNJAX_TERNARY(multiply_add, x * y + z)
    RNNJAX_TERNARY(multiply_subtract, x * y - z)
    RNNJAX_TERNARY(subtract_product, z - x * y)
    RNNJAX_QUATERNARY(add_products, x * y + z * w)
    RNNJAX_QUATERNARY(subtract_products, x * y - z * w)
    RNNJAX_BINARY(add, x + y)
    RNNJAX_BINARY(sub, x - y)
    RNNJAX_BINARY(mul, x * y)
    RNNJAX_BINARY(div, x / y)
    RNNJAX_BINARY(max, ((x > y) | (x != x)) ? x : y)
    RNNJAX_BINARY(min, ((x < y) | (x != x)) ? x : y)
    RNNJAX_BINARY(rem, remainder(x, y))
    RNNJAX_BINARY(pow, by_lane(x, y, [](float v, float w) {
                    return __builtin_powf(v, w);
                  }))
    RNNJAX_UNARY(neg, -x)
    RNNJAX_UNARY(abs, abs(x))
    RNNJAX_UNARY(sign, x > 0.0f ? splat(1.0f) : x < 0.0f ? splat(-1.0f) : x)
    RNNJAX_UNARY(floor, floor(x))
    RNNJAX_UNARY(exp, exp(x))
    RNNJAX_UNARY(exp2, by_lane(x, [](float v) { return __builtin_exp2f(v); }))
    RNNJAX_UNARY(expm1, expm1(x))
    RNNJAX_UNARY(log, log(x))
    RNNJAX_UNARY(log1p, log1p(x))
    RNNJAX_UNARY(tanh, tanh(x))
    RNNJAX_UNARY(logistic, sigmoid(x))
    RNNJAX_UNARY(sqrt, sqrt(x))
    RNNJAX_UNARY(rsqrt, 1.0f / sqrt(x))
    RNNJAX_UNARY(sin, by_lane(x, [](float v) { return __builtin_sinf(v); }))
    RNNJAX_UNARY(cos, by_lane(x, [](float v) { return __builtin_cosf(v); }))
    RNNJAX_UNARY(erf, by_lane(x, [](float v) { return __builtin_erff(v); }))
    RNNJAX_BINARY(eq, truth(x == y))
    RNNJAX_BINARY(ne, truth(x != y))
    RNNJAX_BINARY(lt, truth(x < y))
    RNNJAX_BINARY(le, truth(x <= y))
    RNNJAX_BINARY(gt, truth(x > y))
    RNNJAX_BINARY(ge, truth(x >= y))
    RNNJAX_UNARY(not, 1.0f - x)
    RNNJAX_UNARY(is_finite, truth(abs(x) < __builtin_inff()))
    RNNJAX_TERNARY(select_n, x != 0.0f ? z : y)
    RNNJAX_TERNARY(clamp, clamp(x, y, z))
#undef RNNJAX_CASE
#undef RNNJAX_UNARY
#undef RNNJAX_BINARY
#undef RNNJAX_TERNARY
  }
  return nullptr;
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_ELEMENTWISE_H_
