// The cells: what each does with the sums of one register block, and what its
// backward pass does with one step. Everything else follows from the facts that
// a cell states, in the words of rnnjax/kernels/equations.py,
//   kName, kColumns, kSaved, kCarries, kReads, kJoined, kGated,
// and a cell is known everywhere once it stands in the list at the end.

#ifndef RNNJAX_CELLS_H_
#define RNNJAX_CELLS_H_

#include "panel.h"

namespace rnnjax::RNNJAX_ISA {

// One row of one forward step. Pointers are to the row's first hidden unit;
// `h` is the carry that the step uses, `c` is updated in place.
template <class D>
struct ForwardRow {
  const float* x;
  const float* h;
  const float* start;  // what the sums start from: the bias or x @ w_ih + bias
  float* c;
  float* kept;   // of a gated cell, the other sums: (block, sum, lane), r first
  float* gated;  // and r * h
  float* h_new;
  D* ys;      // null where h_new already points into the output
  D* saved;   // null when nothing is saved
  D* c_prev;  // null when nothing is saved
};

// One row of one backward step. `dz` is what the recurrent product receives,
// `dz_input` what the other does where it differs; floats, in the output
// itself or in a buffer that is then rounded into it. `dz` may share its
// memory with `saved`: a unit's values are read before any is written.
template <class D>
struct BackwardRow {
  const D* saved;
  const D* prev;
  const D* dy;
  float* dc;
  float* dh;
  float* d_gated;  // of a gated cell, what r * h receives
  float* dz;
  float* dz_input;
  D* rounded;  // where dz is rounded to; null where it is the output itself
  D* rounded_input;
};

// A block of hidden units: its first unit, its lanes in use, the layer's size.
struct Units {
  int64_t first;
  int lanes;
  int64_t hidden;
};

// Values of these units, in the order in which they are saved.
template <class D, class... Values>
RNNJAX_INLINE void save(D* saved, Units units, Values... values) {
  D* to = saved + units.first;
  ((store(to, values, units.lanes), to += units.hidden), ...);
}

template <class D>
RNNJAX_INLINE Vec saved_at(const D* saved, Units units, int place) {
  return load(saved + place * units.hidden + units.first, units.lanes);
}

template <class D>
RNNJAX_INLINE void put_state(const ForwardRow<D>& row, Units units, Vec h) {
  store(row.h_new + units.first, h, units.lanes);
  if (row.ys) store(row.ys + units.first, h, units.lanes);
}

RNNJAX_INLINE Vec sum_at(const float* sums, int place) {
  return load(sums + place * kLanes);
}

// The gradient of a step's output: of its use as `y` and as the next carry.
template <class D>
RNNJAX_INLINE Vec d_output(const BackwardRow<D>& row, Units units) {
  return load(row.dh + units.first) + load(row.dy + units.first, units.lanes);
}

// What follows from a cell's facts.
template <class Cell>
struct Layout {
  static constexpr int kSums = Cell::kColumns + !Cell::kJoined;
  static constexpr bool kHasMemory = Cell::kCarries == 2;  // c beside h
};

// One of a step's products: that of all columns, or of a gated cell that of the
// columns that multiply h, and then that of the others, which multiply r * h.
// Sums stand in the order of the columns; if the products with x and with h are
// not joined, the last column has two, a first and u last.
template <class Cell, bool kSecond>
struct Product {
  static_assert(Cell::kGated == 0 ||
                (Cell::kJoined && Cell::kReads == Cell::kCarries));
  static constexpr bool kGated = kSecond, kLast = kSecond || Cell::kGated == 0;
  static constexpr int kPlain = Cell::kColumns - Cell::kGated;
  static constexpr int kFirst = kSecond ? kPlain : 0;
  static constexpr int kColumns = kSecond ? Cell::kGated : kPlain;
  static constexpr int kSums = kColumns + !Cell::kJoined;
  static constexpr int kHiddenFirst = !Cell::kJoined;  // h @ w_hh starts there
  static constexpr int kBlocks = kVectors / kSums;     // of units in one panel

  // Which column of w_ih is added to the sum at this place.
  static constexpr int input_column(int place) {
    if (Cell::kJoined) return kFirst + place;
    return place == 0 ? kColumns - 1 : place - 1;
  }
};

// Calls body(Product) for each, in the order of a step.
template <class Cell, class Body>
RNNJAX_INLINE void for_products(const Body& body) {
  body(Product<Cell, false>{});
  if constexpr (Cell::kGated > 0) body(Product<Cell, true>{});
}

struct Lstm {
  static constexpr const char* kName = "lstm";
  static constexpr int kColumns = 4, kSaved = 4, kCarries = 2, kReads = 1;
  static constexpr bool kJoined = true;
  static constexpr int kGated = 0;

  template <class D>
  static RNNJAX_INLINE void activate(const float* sums, Units units,
                                     const ForwardRow<D>& row) {
    const Vec i = sigmoid(sum_at(sums, 0)), f = sigmoid(sum_at(sums, 1));
    const Vec g = tanh(sum_at(sums, 2)), o = sigmoid(sum_at(sums, 3));
    const Vec c_prev = load(row.c + units.first);
    const Vec c = f * c_prev + i * g;
    store(row.c + units.first, c);
    put_state(row, units, o * tanh(c));
    if (row.saved) {
      save(row.saved, units, i, f, g, o);
      store(row.c_prev + units.first, c_prev, units.lanes);
    }
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units,
                                          const BackwardRow<D>& row) {
    const Vec i = saved_at(row.saved, units, 0);
    const Vec f = saved_at(row.saved, units, 1);
    const Vec g = saved_at(row.saved, units, 2);
    const Vec o = saved_at(row.saved, units, 3);
    const Vec c_prev = load(row.prev + units.first, units.lanes);
    const Vec tanh_c = tanh(f * c_prev + i * g);
    const Vec dh = d_output(row, units);
    const Vec dc =
        load(row.dc + units.first) + dh * o * (1.0f - tanh_c * tanh_c);
    store(row.dc + units.first, dc * f);
    save(row.dz, units, dc * g * i * (1.0f - i), dc * c_prev * f * (1.0f - f),
         dc * i * (1.0f - g * g), dh * tanh_c * o * (1.0f - o));
    store(row.dh + units.first, Vec{});
  }
};

// The reset after the product. Sums stand in the order n, r, z, q.
struct Gru {
  static constexpr const char* kName = "gru";
  static constexpr int kColumns = 3, kSaved = 4, kCarries = 1, kReads = 1;
  static constexpr bool kJoined = false;
  static constexpr int kGated = 0;

  template <class D>
  static RNNJAX_INLINE void activate(const float* sums, Units units,
                                     const ForwardRow<D>& row) {
    const Vec r = sigmoid(sum_at(sums, 1)), z = sigmoid(sum_at(sums, 2));
    const Vec q = sum_at(sums, 3), n = tanh(sum_at(sums, 0) + r * q);
    const Vec h = load(row.h + units.first, units.lanes);
    put_state(row, units, n + z * (h - n));
    if (row.saved) save(row.saved, units, n, r, z, q);
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units,
                                          const BackwardRow<D>& row) {
    const Vec n = saved_at(row.saved, units, 0);
    const Vec r = saved_at(row.saved, units, 1);
    const Vec z = saved_at(row.saved, units, 2);
    const Vec q = saved_at(row.saved, units, 3);
    const Vec h = load(row.prev + units.first, units.lanes);
    const Vec dh = d_output(row, units);
    const Vec dn = dh * (1.0f - z) * (1.0f - n * n);
    const Vec dr = dn * q * r * (1.0f - r);
    const Vec dz = dh * (h - n) * z * (1.0f - z);
    save(row.dz_input, units, dr, dz, dn);
    save(row.dz, units, dr, dz, dn * r);
    store(row.dh + units.first, dh * z);
  }
};

// The reset before the product. Sums stand in the order r, z, n, the first of
// them activated already.
struct GruBefore {
  static constexpr const char* kName = "gru_before";
  static constexpr int kColumns = 3, kSaved = 3, kCarries = 1, kReads = 1;
  static constexpr bool kJoined = true;
  static constexpr int kGated = 1;

  template <class D>
  static RNNJAX_INLINE void activate(const float* sums, Units units,
                                     const ForwardRow<D>& row) {
    const Vec r = sum_at(sums, 0), z = sigmoid(sum_at(sums, 1));
    const Vec n = tanh(sum_at(sums, 2));
    const Vec h = load(row.h + units.first, units.lanes);
    put_state(row, units, n + z * (h - n));
    if (row.saved) save(row.saved, units, r, z, n);
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units,
                                          const BackwardRow<D>& row) {
    const Vec z = saved_at(row.saved, units, 1);
    const Vec n = saved_at(row.saved, units, 2);
    const Vec h = load(row.prev + units.first, units.lanes);
    const Vec dh = d_output(row, units);
    save(row.dz + units.hidden, units, dh * (h - n) * z * (1.0f - z),
         dh * (1.0f - z) * (1.0f - n * n));
    store(row.dh + units.first, dh * z);
  }
};

template <bool kRelu>
struct Elman {
  static constexpr const char* kName = kRelu ? "elman_relu" : "elman_tanh";
  static constexpr int kColumns = 1, kSaved = 1, kCarries = 1, kReads = 0;
  static constexpr bool kJoined = true;
  static constexpr int kGated = 0;

  template <class D>
  static RNNJAX_INLINE void activate(const float* sums, Units units,
                                     const ForwardRow<D>& row) {
    const Vec h = kRelu ? relu(sum_at(sums, 0)) : tanh(sum_at(sums, 0));
    put_state(row, units, h);
    if (row.saved) save(row.saved, units, h);
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units,
                                          const BackwardRow<D>& row) {
    const Vec h = saved_at(row.saved, units, 0);
    const Vec dh = d_output(row, units);
    save(row.dz, units, kRelu ? (h > 0.0f ? dh : Vec{}) : dh * (1.0f - h * h));
    store(row.dh + units.first, Vec{});
  }
};

template <class... Cell>
struct List {};

using Cells = List<Lstm, Gru, GruBefore, Elman<false>, Elman<true>>;

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_CELLS_H_
