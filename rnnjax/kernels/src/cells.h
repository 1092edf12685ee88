// The three cells: what each does with the sums of one register block, and
// what its backward pass does with one step. Everything else is shared.
//
// A cell names, for the vectors of one panel of hidden units,
//   kGates         column groups of its weights,
//   kSaved         values it saves per unit for the backward pass,
//   kSums          sums it forms per unit; the input product adds to those
//                  from kInputFirst on, the recurrent one from kHiddenFirst on,
//   kInputOrder    which gate of w_ih stands at each place of a panel,
//   kHasMemory     whether its carry has a `c` beside `h`,
//   kApart         whether the two products enter apart, and so receive
//                  different gradients,
//   kUnitBlocks    how many blocks of hidden units share a panel.

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
  float* dz;
  float* dz_input;
};

// A block of hidden units: its first unit, its lanes in use, the layer's size.
struct Units {
  int64_t first;
  int lanes;
  int64_t hidden;
};

template <class D>
RNNJAX_INLINE void save(D* saved, Units units, int place, Vec value) {
  store(saved + place * units.hidden + units.first, value, units.lanes);
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

struct Lstm {
  static constexpr int kGates = 4, kSaved = 4, kSums = 4;
  static constexpr int kInputFirst = 0, kHiddenFirst = 0, kUnitBlocks = 1;
  static constexpr int kInputOrder[] = {0, 1, 2, 3};
  static constexpr bool kHasMemory = true, kApart = false;

  template <class D>
  static RNNJAX_INLINE void finish(const float* sums, Units units, bool,
                                   const ForwardRow<D>& row) {
    const Vec i = sigmoid(sum_at(sums, 0)), f = sigmoid(sum_at(sums, 1));
    const Vec g = tanh(sum_at(sums, 2)), o = sigmoid(sum_at(sums, 3));
    const Vec c_prev = load(row.c + units.first);
    const Vec c = f * c_prev + i * g;
    store(row.c + units.first, c);
    put_state(row, units, o * tanh(c));
    if (row.saved) {
      save(row.saved, units, 0, i);
      save(row.saved, units, 1, f);
      save(row.saved, units, 2, g);
      save(row.saved, units, 3, o);
      store(row.c_prev + units.first, c_prev, units.lanes);
    }
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units, bool,
                                          const BackwardRow<D>& row) {
    const Vec i = saved_at(row.saved, units, 0);
    const Vec f = saved_at(row.saved, units, 1);
    const Vec g = saved_at(row.saved, units, 2);
    const Vec o = saved_at(row.saved, units, 3);
    const Vec c_prev = load(row.prev + units.first, units.lanes);
    const Vec tanh_c = tanh(f * c_prev + i * g);
    const Vec dh =
        load(row.dh + units.first) + load(row.dy + units.first, units.lanes);
    const Vec dc =
        load(row.dc + units.first) + dh * o * (1.0f - tanh_c * tanh_c);
    store(row.dc + units.first, dc * f);
    save(row.dz, units, 0, dc * g * i * (1.0f - i));
    save(row.dz, units, 1, dc * c_prev * f * (1.0f - f));
    save(row.dz, units, 2, dc * i * (1.0f - g * g));
    save(row.dz, units, 3, dh * tanh_c * o * (1.0f - o));
    store(row.dh + units.first, Vec{});
  }
};

// Sums stand in the order n, r, z, q: the input product reaches the first
// three, the recurrent one the last three.
struct Gru {
  static constexpr int kGates = 3, kSaved = 4, kSums = 4;
  static constexpr int kInputFirst = 0, kHiddenFirst = 1, kUnitBlocks = 1;
  static constexpr int kInputOrder[] = {2, 0, 1};
  static constexpr bool kHasMemory = false, kApart = true;

  template <class D>
  static RNNJAX_INLINE void finish(const float* sums, Units units, bool,
                                   const ForwardRow<D>& row) {
    const Vec r = sigmoid(sum_at(sums, 1)), z = sigmoid(sum_at(sums, 2)), q = sum_at(sums, 3);
    const Vec n = tanh(sum_at(sums, 0) + r * q);
    const Vec h = load(row.h + units.first, units.lanes);
    put_state(row, units, n + z * (h - n));
    if (row.saved) {
      save(row.saved, units, 0, n);
      save(row.saved, units, 1, r);
      save(row.saved, units, 2, z);
      save(row.saved, units, 3, q);
    }
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units, bool,
                                          const BackwardRow<D>& row) {
    const Vec n = saved_at(row.saved, units, 0);
    const Vec r = saved_at(row.saved, units, 1);
    const Vec z = saved_at(row.saved, units, 2);
    const Vec q = saved_at(row.saved, units, 3);
    const Vec h = load(row.prev + units.first, units.lanes);
    const Vec dh =
        load(row.dh + units.first) + load(row.dy + units.first, units.lanes);
    const Vec dn = dh * (1.0f - z) * (1.0f - n * n);
    const Vec dr = dn * q * r * (1.0f - r);
    const Vec dz = dh * (h - n) * z * (1.0f - z);
    save(row.dz_input, units, 0, dr);
    save(row.dz_input, units, 1, dz);
    save(row.dz_input, units, 2, dn);
    save(row.dz, units, 0, dr);
    save(row.dz, units, 1, dz);
    save(row.dz, units, 2, dn * r);
    store(row.dh + units.first, dh * z);
  }
};

struct Elman {
  static constexpr int kGates = 1, kSaved = 1, kSums = 1;
  static constexpr int kInputFirst = 0, kHiddenFirst = 0;
  static constexpr int kUnitBlocks = kVectors;
  static constexpr int kInputOrder[] = {0};
  static constexpr bool kHasMemory = false, kApart = false;

  template <class D>
  static RNNJAX_INLINE void finish(const float* sums, Units units,
                                   bool rectify, const ForwardRow<D>& row) {
    const Vec h = rectify ? relu(sum_at(sums, 0)) : tanh(sum_at(sums, 0));
    put_state(row, units, h);
    if (row.saved) save(row.saved, units, 0, h);
  }

  template <class D>
  static RNNJAX_INLINE void differentiate(Units units, bool rectify,
                                          const BackwardRow<D>& row) {
    const Vec h = saved_at(row.saved, units, 0);
    const Vec dh =
        load(row.dh + units.first) + load(row.dy + units.first, units.lanes);
    save(row.dz, units, 0, rectify ? (h > 0.0f ? dh : Vec{})
                                   : dh * (1.0f - h * h));
    store(row.dh + units.first, Vec{});
  }
};

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_CELLS_H_
