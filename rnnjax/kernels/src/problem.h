// What one call computes, as plain data: filled in and checked by the
// handlers, read by the kernels. Shapes are batch-major and row-major;
// an absent buffer is a null pointer.

#ifndef RNNJAX_PROBLEM_H_
#define RNNJAX_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "program.h"

namespace rnnjax {

struct Sizes {
  int64_t batch, time, input, hidden;
  bool reverse = false;  // whether time is walked from the last step

  // The t-th step that is walked of a row, among all steps of all rows.
  int64_t step(int64_t row, int64_t t) const {
    return row * time + (reverse ? time - 1 - t : t);
  }
};

// What the traits of a cell say (see cells.h), in the words of
// rnnjax/kernels/equations.py.
struct Facts {
  const char* name;
  int columns, saved, carries, reads;
  bool joined;
};

// In the shapes, G is columns * H and S is saved * H. `c` belongs to cells with
// two carries, `b_hn` to those whose products are not joined.
struct Forward {
  Sizes size;
  bool bfloat16;
  const void* xs;        // (B, T, I)
  const void* w_ih;      // (I, G)
  const void* w_hh;      // (H, G)
  const void* b;         // (G)
  const void* b_hn;      // (H)
  const void* c0;        // (B, H)
  const void* h0;        // (B, H)
  const uint8_t* mask;   // (B, T)
  const uint8_t* reset;  // (B, T)
  const void* c_reset;   // (B, H)
  const void* h_reset;   // (B, H)
  void* ys;              // (B, T, H)
  void* c_last;          // (B, H)
  void* h_last;          // (B, H)
  void* saved;           // (B, T, S)
  void* c_prev;          // (B, T, H)
  void* h_prev;          // (B, T, H)
};

struct Backward {
  Sizes size;  // `input` is not used
  bool bfloat16;
  const void* saved;     // (B, T, S)
  const void* prev;      // (B, T, H): the first carry; null if none is read
  const void* w_hh;      // (H, G)
  const uint8_t* mask;   // (B, T)
  const uint8_t* reset;  // (B, T)
  const void* dys;       // (B, T, H)
  const void* dc_last;   // (B, H)
  const void* dh_last;   // (B, H)
  void* dz;              // (B, T, G): what h @ w_hh receives
  void* dz_input;        // (B, T, G): what x @ w_ih receives
  void* dc0;             // (B, H)
  void* dh0;             // (B, H)
  void* dc_reset;        // (B, H)
  void* dh_reset;        // (B, H)
};

// y = x w + b, or x w^T + b if w is turned. Rows that are not valid are zero.
struct WeightProduct {
  int64_t rows, inputs, outputs;
  bool bfloat16, turned;
  const void* x;         // (rows, inputs)
  const void* w;         // (inputs, outputs), or turned (outputs, inputs)
  const void* b;         // (outputs)
  const uint8_t* valid;  // (rows)
  void* y;               // (rows, outputs)
};

// d_w = x^T dz, summed over all rows that are valid.
struct WeightGradient {
  int64_t rows, inputs, outputs;
  bool bfloat16;
  const void* x;         // (rows, inputs)
  const void* dz;        // (rows, outputs)
  const uint8_t* valid;  // (rows)
  void* d_w;             // (inputs, outputs)
};

// The cross-entropy of each row, or its gradient where `d_logits` is there,
// which may be where the logits are.
struct CrossEntropy {
  int64_t rows, columns;
  bool bfloat16;
  const void* logits;      // (rows, columns)
  const int32_t* targets;  // (rows)
  void* losses;            // (rows)
  float* normalizers;      // (rows, 2): read for the gradient
  const void* d_losses;    // (rows)
  void* d_logits;          // (rows, columns)
};

// h_t = a_t h_{t-1} + b_t from a state of zero, or in reverse its transpose,
// h_t = a_{t+1}^T h_{t+1} + b_t. h may be where b is.
struct Linear {
  int64_t rows, time, units, size;
  bool float64, shared, reverse;
  const void* a;  // (rows, or 1 if shared; time, units, size, size)
  const void* b;  // (rows, time, units, size)
  void* h;        // (rows, time, units, size)
};

// What a kernel needs from its surroundings. `run` calls body(context, index)
// for every index below count, on any threads, and returns when all are done.
class Host {
 public:
  virtual int threads() const = 0;
  virtual void run(int64_t count, void (*body)(void* context, int64_t index),
                   void* context) = 0;
  // Memory aligned to 64 bytes that lives until the call ends.
  virtual void* allocate(size_t bytes) = 0;

 protected:
  ~Host() = default;
};

// One cell on one instruction set.
struct CellKernels {
  Facts facts;
  void (*forward)(const Forward&, Host&);
  void (*backward)(const Backward&, Host&);
};

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  const CellKernels* cells;
  int count;  // of cells
  void (*weight_product)(const WeightProduct&, Host&);
  void (*weight_gradient)(const WeightGradient&, Host&);
  void (*cross_entropy)(const CrossEntropy&, Host&);
  void (*linear)(const Linear&, Host&);
  void (*loop)(const LoopCall&, Host&);
  void (*remade)(const PairCall&, Host&);
  void (*ahead)(const PairCall&, Host&);
};

// The widest set this machine has, or the one named; null when this library
// or this machine does not have it. A null name asks for the widest.
const Kernels* find_kernels(const char* name);

}  // namespace rnnjax

#endif  // RNNJAX_PROBLEM_H_
