// What one call computes, as plain data: filled in and checked by the
// handlers, read by the kernels. Shapes are batch-major and row-major;
// an absent buffer is a null pointer.

#ifndef RNNJAX_PROBLEM_H_
#define RNNJAX_PROBLEM_H_

#include <cstddef>
#include <cstdint>

namespace rnnjax {

struct Sizes {
  int64_t batch, time, input, hidden;
};

// Gates per cell G: LSTM 4, GRU 3, Elman 1. Saved values per step S: LSTM 4
// (i, f, g, o), GRU 4 (n, r, z, q), Elman 1 (h).
struct Forward {
  Sizes size;
  bool bfloat16;
  bool relu;             // Elman only
  const void* xs;        // (B, T, I)
  const void* w_ih;      // (I, G H)
  const void* w_hh;      // (H, G H)
  const void* bias;      // (G H)
  const void* bias_hn;   // (H), GRU only
  const void* c0;        // (B, H), LSTM only
  const void* h0;        // (B, H)
  const uint8_t* mask;   // (B, T)
  const uint8_t* reset;  // (B, T)
  const void* c_reset;   // (B, H), LSTM only
  const void* h_reset;   // (B, H)
  void* ys;              // (B, T, H)
  void* c_last;          // (B, H), LSTM only
  void* h_last;          // (B, H)
  void* saved;           // (B, T, S H)
  void* c_prev;          // (B, T, H), LSTM only
  void* h_prev;          // (B, T, H)
};

struct Backward {
  Sizes size;  // `input` is not used
  bool bfloat16;
  bool relu;             // Elman only
  const void* saved;     // (B, T, S H)
  const void* prev;      // (B, T, H): c_prev for LSTM, h_prev for GRU
  const void* w_hh;      // (H, G H)
  const uint8_t* mask;   // (B, T)
  const uint8_t* reset;  // (B, T)
  const void* dys;       // (B, T, H)
  const void* dc_last;   // (B, H), LSTM only
  const void* dh_last;   // (B, H)
  void* dz;              // (B, T, G H): what h @ w_hh receives
  void* dz_input;        // (B, T, G H): what x @ w_ih receives, GRU only
  void* dc0;             // (B, H), LSTM only
  void* dh0;             // (B, H)
  void* dc_reset;        // (B, H), LSTM only
  void* dh_reset;        // (B, H)
};

// d_w = x^T dz, summed over all rows, which are all steps of all examples.
struct WeightGradient {
  int64_t rows, inputs, outputs;
  bool bfloat16;
  const void* x;   // (rows, inputs)
  const void* dz;  // (rows, outputs)
  void* d_w;       // (inputs, outputs)
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

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  void (*lstm_forward)(const Forward&, Host&);
  void (*lstm_backward)(const Backward&, Host&);
  void (*gru_forward)(const Forward&, Host&);
  void (*gru_backward)(const Backward&, Host&);
  void (*elman_forward)(const Forward&, Host&);
  void (*elman_backward)(const Backward&, Host&);
  void (*weight_gradient)(const WeightGradient&, Host&);
};

// The widest set this machine has, or the one named; null when this library
// or this machine does not have it. A null name asks for the widest.
const Kernels* find_kernels(const char* name);

}  // namespace rnnjax

#endif  // RNNJAX_PROBLEM_H_
