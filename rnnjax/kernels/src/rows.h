// Operations on strips of blocks of rows, such as matrices: of outer products,
// and of one number for each row.

#ifndef RNNJAX_ROWS_H_
#define RNNJAX_ROWS_H_

#include <algorithm>

#include "panel.h"
#include "strip.h"

namespace rnnjax::RNNJAX_ISA {

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

// The elements from `begin` to `end` of so many rows, by panels. They end where
// they end: what is stored after one may be another's, or not a strip's at all.
template <class F, class... Operand>
RNNJAX_INLINE void map_columns(const Rows& rows, int64_t count, int64_t begin,
                               int64_t end, int64_t width, const F& f, At out,
                               Operand... operand) {
  const auto go = [&](auto vectors, int lanes) RNNJAX_LAMBDA {
    constexpr int V = decltype(vectors)::value;
    for (; begin + (V - 1) * kLanes + lanes <= end; begin += V * kLanes) {
      map_panel<V>(count, lanes, width, f,
                   out(rows.strip_row, rows.column + begin),
                   operand.template panel<V>(rows, begin, width)...);
    }
  };
  go(Constant<kVectors>{}, kLanes);
  go(Constant<2>{}, kLanes);
  go(Constant<1>{}, kLanes);
  if (begin < end) go(Constant<1>{}, end - begin);
}

// Blocks of rows, (i, j, l), of which the sizes of l and j are given.
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
      map_columns(rows, count, begin, end, width, f, out, operand...);
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

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_ROWS_H_
