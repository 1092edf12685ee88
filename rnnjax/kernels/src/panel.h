// Packed weights and the register block that multiplies with them.
//
// A weight matrix is cut into panels of at most four vectors of columns, each
// stored as [k][vector][lane]: one pass over a panel is one stream of memory.
// The register block holds `R` rows of the batch times the panel's vectors.
// Products are always added in the order of k, whatever R is, so a row's
// result does not depend on which rows it was computed with.

#ifndef RNNJAX_PANEL_H_
#define RNNJAX_PANEL_H_

#include "problem.h"
#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

// Rows of a register block: 24 accumulators leave room for four weights and
// the broadcast input among 32 registers, 12 do among 16.
inline constexpr int kRows = kManyRegisters ? 6 : 3;
inline constexpr int kVectors = 4;

// Steps of k between a weight's prefetch and its use.
inline constexpr int kAhead = 8;

// Rows of weights from which on the next panel is fetched: fewer of them are in
// a second-level cache anyway, and fetching costs as many instructions.
inline constexpr int64_t kLongPanel = 256;

// About ten microseconds of one thread, in multiply-adds.
inline constexpr int64_t kWorthDividedProduct = 1'000'000;

inline int64_t blocks_of(int64_t hidden) {
  return (hidden + kLanes - 1) / kLanes;
}

inline int lanes_at(int64_t hidden, int64_t block) {
  const int64_t left = hidden - block * kLanes;
  return left < kLanes ? static_cast<int>(left) : kLanes;
}

// How the hidden units are cut: in blocks of kLanes, `blocks` in total, which
// form panels of `wide` blocks at most, as equal as they can be.
struct Cut {
  int64_t hidden, blocks, panels;

  Cut(int64_t hidden, int wide)
      : hidden(hidden),
        blocks(blocks_of(hidden)),
        panels((blocks + wide - 1) / wide) {}

  int64_t first(int64_t panel) const { return panel * blocks / panels; }
  int width(int64_t panel) const {
    return static_cast<int>(first(panel + 1) - first(panel));
  }
};

// How a product is divided over threads: its panels, or what else there are
// pieces of. The first is better, because each panel is then packed by one
// task, but has fewer pieces.
struct Division {
  bool by_panels;
  int64_t tasks;

  Division(int64_t products, int64_t panels, int64_t others, const Host& host) {
    const int64_t threads =
        products >= kWorthDividedProduct ? host.threads() : 1;
    by_panels = panels % threads == 0 || panels >= 4 * threads;
    const int64_t pieces = by_panels ? panels : others;
    tasks = threads < pieces ? threads : pieces;
  }
};

// Where the vectors of one panel come from: vector v is `count[v]` columns
// of the matrix from `column[v]` on.
struct Columns {
  int vectors;
  int64_t column[kVectors];
  int count[kVectors];
};

// Those of a panel of a matrix that is cut as it is.
inline Columns columns_of(const Cut& cut, int64_t panel) {
  Columns named{};
  named.vectors = cut.width(panel);
  for (int v = 0; v < named.vectors; ++v) {
    const int64_t block = cut.first(panel) + v;
    named.column[v] = block * kLanes;
    named.count[v] = lanes_at(cut.hidden, block);
  }
  return named;
}

template <class D>
void pack_columns(const D* matrix, int64_t rows, int64_t stride,
                  const Columns& from, float* packed,
                  const int64_t* chosen = nullptr) {
  const auto row_at = [&](int64_t k) {
    return matrix + (chosen == nullptr ? k : chosen[k]) * stride;
  };
  for (int64_t k = 0; k < rows; ++k) {
    // Each row is far from the one before it, so nothing else fetches it.
    if (k + kAhead < rows) {
      for (int v = 0; v < from.vectors; ++v) {
        __builtin_prefetch(row_at(k + kAhead) + from.column[v]);
      }
    }
    const D* row = row_at(k);
    for (int v = 0; v < from.vectors; ++v, packed += kLanes) {
      store(packed, load(row + from.column[v], from.count[v]));
    }
  }
}

// The same for the transposed matrix: its columns are rows of the matrix, of
// which the first `count` numbers are taken.
template <class D>
void pack_rows(const D* matrix, int64_t count, int64_t stride,
               const Columns& from, float* packed) {
  for (int v = 0; v < from.vectors; ++v) {
    const D* source = matrix + from.column[v] * stride;
    for (int64_t k = 0; k < count; ++k) {
      float* target = packed + (k * from.vectors + v) * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) {
        target[lane] =
            lane < from.count[v] ? to_float(source[lane * stride + k]) : 0.0f;
      }
    }
  }
}

// sums[r][First + v] += sum over k of inputs[r][k * stride] * panel[k][v], and
// with kFetch also a line of `next` at each k.
template <int First, int V, bool kFetch, int R, int A>
RNNJAX_INLINE void add_products(Vec (&sums)[R][A],
                                const float* const (&inputs)[R],
                                const float* panel, int64_t count,
                                int64_t stride, const float* next) {
  static_assert(First + V <= A);
  for (int64_t k = 0; k < count; ++k, panel += V * kLanes) {
    if constexpr (kFetch) __builtin_prefetch(next + k * kLanes, 0, 2);
    if constexpr (kManyRegisters) {
      Vec weights[V];
      // The hardware's own prefetching stops at every page.
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        __builtin_prefetch(panel + (kAhead * V + v) * kLanes);
      }
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) weights[v] = load(panel + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const Vec input = splat(inputs[r][k * stride]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][First + v] += input * weights[v];
      }
    } else {
      Vec input[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) input[r] = splat(inputs[r][k * stride]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec weight = load(panel + v * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) sums[r][First + v] += input[r] * weight;
      }
    }
  }
}

// The same without fetching, or with it where it pays.
//
// All row blocks pass over one panel, then over the one behind it in memory.
// Of a long panel the first few fetch a part each of the one behind it, so that
// weights too large for a second-level cache are there in time. A block of few
// rows has no time for that. `block` is the number of the row block.
template <int First, int V, int R, int A>
RNNJAX_INLINE void accumulate(Vec (&sums)[R][A],
                              const float* const (&inputs)[R],
                              const float* panel, int64_t count,
                              int64_t block = kVectors, int64_t stride = 1) {
  if constexpr (kManyRegisters && R > kRows / 2) {
    if (block < V && count >= kLongPanel) {
      const float* next = panel + (V + block) * count * kLanes;
      add_products<First, V, true>(sums, inputs, panel, count, stride, next);
      return;
    }
  }
  add_products<First, V, false>(sums, inputs, panel, count, stride, panel);
}

// The sums of a register block live in registers only if every index into them
// is a constant: all loops over them are unrolled, here and below.
template <int R, int A>
RNNJAX_INLINE void load_sums(Vec (&sums)[R][A], const float* const (&from)[R]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) sums[r][a] = load(from[r] + a * kLanes);
  }
}

template <int R, int A>
RNNJAX_INLINE void store_sums(const Vec (&sums)[R][A], float* const (&to)[R]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) store(to[r] + a * kLanes, sums[r][a]);
  }
}

// A number known to the compiler, as an argument.
template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls body(Constant<R>, first row, block) for blocks of at most kRows rows,
// as equal as they can be.
template <class Body>
RNNJAX_INLINE void for_row_blocks(int64_t count, const Body& body) {
  const int64_t blocks = (count + kRows - 1) / kRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * count / blocks;
    const int64_t rows = (block + 1) * count / blocks - first;
    if (rows == 1) body(Constant<1>{}, first, block);
    if (rows == 2) body(Constant<2>{}, first, block);
    if (rows == 3) body(Constant<3>{}, first, block);
    if constexpr (kRows > 3) {
      if (rows == 4) body(Constant<4>{}, first, block);
      if (rows == 5) body(Constant<5>{}, first, block);
      if (rows == 6) body(Constant<6>{}, first, block);
    }
  }
}

// Calls body(Constant<W>) for a panel that is W wide, at most kMost.
template <int kMost, class Body>
RNNJAX_INLINE void with_width(int width, const Body& body) {
  static_assert(kMost <= kVectors);
  if (width == 1) body(Constant<1>{});
  if constexpr (kMost >= 2) {
    if (width == 2) body(Constant<2>{});
  }
  if constexpr (kMost >= 3) {
    if (width == 3) body(Constant<3>{});
  }
  if constexpr (kMost >= 4) {
    if (width == 4) body(Constant<4>{});
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_PANEL_H_
