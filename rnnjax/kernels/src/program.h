// A loop over any step, as rnnjax/kernels/assembly.py writes it down.

#ifndef RNNJAX_PROGRAM_H_
#define RNNJAX_PROGRAM_H_

#include <cstdint>

namespace rnnjax {

// The elementwise operations, by the names of JAX's primitives; those of the
// first rows are the engine's own.
// clang-format off
#define RNNJAX_OPERATIONS(X)                                          \
  X(copy) X(load_flags) X(store_flags) X(splat) X(power)              \
  X(multiply_add) X(multiply_subtract) X(subtract_product) X(outer)   \
  X(add_products) X(subtract_products) X(repeat) X(tile)              \
  X(add_outer) X(multiply_repeated) X(multiply_add_repeated)          \
  X(gated_add_outer) X(rows_gated_add_outer)                          \
  X(matrices_gated_add_outer)                                         \
  X(add) X(sub) X(mul) X(div) X(max) X(min) X(rem) X(pow)             \
  X(neg) X(abs) X(sign) X(floor) X(exp) X(exp2) X(expm1) X(log)       \
  X(log1p) X(tanh) X(logistic) X(sqrt) X(rsqrt) X(sin) X(cos) X(erf)  \
  X(eq) X(ne) X(lt) X(le) X(gt) X(ge) X(not) X(is_finite)             \
  X(select_n) X(clamp)
// clang-format on

enum class Operation : int64_t {
#define RNNJAX_OPERATION(name) k_##name,
  RNNJAX_OPERATIONS(RNNJAX_OPERATION)
#undef RNNJAX_OPERATION
};

// Where a value is. Each row has a record with what is stored in a step and
// with the carry before and after it; a temporary lives within a block, and may
// be one vector for all of a row; a shared number and one of the program fill a
// whole vector. Inputs and outputs with time are where XLA has them: `which`
// says which one it is, or temporary.
enum class Space : int64_t {
  kNone = -1,
  kStored,
  kNow,
  kNext,
  kTemporary,
  kShared,
  kFilled,
  kNumber,
  kInput,
  kOutput,
  kSpread
};

struct Place {
  Space space;
  int64_t which, offset;
};

inline constexpr int kOperands = 6;  // that an operation reads at most

struct Element {
  Operation operation;
  int64_t exactly;  // no more is read or written than there is
  Place out, in[kOperands];
};

// A carry that is written over is one of a row.
enum class Role : int64_t { kShared, kRow, kCarry, kTimed };

struct Input {
  Role role;
  int64_t size, flags, offset;  // the offset is -1 where it is not copied
};

struct Output {
  Role role;
  int64_t size, flags, offset;
};

// A matrix of n columns, to be multiplied from the left by vectors of k; if
// turned, its rows are the columns. If negative, what it makes is subtracted.
struct Weights {
  int64_t input, offset, k, n, turned, negative;
};

enum class Kind : int64_t { kBlock, kProduct, kReduce, kGather, kContract };

struct Term {
  Place a;
  int64_t weights;
};

// The program as it lies in the attribute of the call: whole numbers in a row.
struct Program {
  int64_t cost, stored, carry, shared, temporaries, length, reverse;
  int64_t inputs, outputs, weights, instructions;
  const Input* input;
  const Output* output;
  const Weights* weight;
  const int64_t* code;

  explicit Program(const int64_t* at) {
    cost = *at++;
    stored = *at++;
    carry = *at++;
    shared = *at++;
    temporaries = *at++;
    length = *at++;
    reverse = *at++;
    inputs = *at++;
    input = reinterpret_cast<const Input*>(at);
    at += inputs * sizeof(Input) / sizeof(int64_t);
    outputs = *at++;
    output = reinterpret_cast<const Output*>(at);
    at += outputs * sizeof(Output) / sizeof(int64_t);
    weights = *at++;
    weight = reinterpret_cast<const Weights*>(at);
    at += weights * sizeof(Weights) / sizeof(int64_t);
    instructions = *at++;
    code = at;
  }
};

// One call: `batch` rows of the program's inputs.
struct LoopCall {
  Program program;
  int64_t batch;
  const float* numbers;
  int64_t count;  // of them
  const void* const* inputs;
  void* const* outputs;
};

// A loop of which some inputs over time, at these places, are what another one
// makes: the last `count` of its outputs. Neither is anywhere.
struct PairCall {
  LoopCall maker, loop;
  int64_t count;
  const int64_t* places;
};

}  // namespace rnnjax

#endif  // RNNJAX_PROGRAM_H_
