// A walk through time with the program of any step.

#ifndef RNNJAX_WALK_H_
#define RNNJAX_WALK_H_

#include <algorithm>
#include <cstring>
#include <iterator>

#include "contraction.h"
#include "elementwise.h"
#include "memory.h"
#include "panel.h"
#include "reduction.h"

namespace rnnjax::RNNJAX_ISA {

// A strip of a block is as wide as its rows, up to this, and as high as fits:
// an operation is then some sixty vectors for one decision, and its temporaries
// stay in the first-level cache.
inline constexpr int64_t kStripSize = 1024;

// Rows that are walked at the same time keep their values in the second-level
// cache, together with weights of the usual sizes. Larger weights are read from
// further away in each step, once for all these rows, so that there are as many
// as have no more values than there are weights. Where there are weights at
// all, as many rows as a register block has go together even if they do not
// fit.
inline constexpr int64_t kRowFloats = 1 << 16;

// Where an input or output with time is: the element of row 0 at time 0, which
// may be in front of its memory, and the bytes from one row to the next.
struct Timed {
  char* start;
  int64_t row;
};

class Walk;

// A program and what all rows share.
class Engine {
 public:
  Engine(const LoopCall& call, Host& host)
      : call_(call), p_(call.program), host_(host) {}

  void pack() {
    shared_ = take<float>(host_, p_.shared + kLanes);
    for (int64_t i = 0; i < p_.inputs; ++i) {
      const Input& input = p_.input[i];
      if (input.role != Role::kShared || input.offset < 0) continue;
      float* target = shared_ + input.offset;
      read(input, call_.inputs[i], 0, target);
      if (input.size == 1) fill(target, *target);
    }
    numbers_ = take<float>(host_, call_.count * kFilled);
    for (int64_t i = 0; i < call_.count; ++i) {
      fill(numbers_ + i * kFilled, call_.numbers[i]);
    }
    packed_ = take<float*>(host_, p_.weights);
    for (int64_t i = 0; i < p_.weights; ++i) {
      const Weights& w = p_.weight[i];
      packed_[i] = take<float>(host_, w.k * blocks_of(w.n) * kLanes);
    }
    if (weight_floats() < kWorthDividedPacking) {
      for (int64_t i = 0; i < p_.weights; ++i) pack(i);
      return;
    }
    divide(host_, p_.weights, [this](int64_t i) { pack(i); });
  }

  // How many rows of a task are walked at the same time.
  int64_t together(int64_t rows) const {
    const int64_t least = p_.weights > 0 ? kRows : 1;
    const int64_t floats = std::max(kRowFloats, weight_floats());
    const int64_t most = std::max(floats / record(), least);
    const int64_t groups = (rows + most - 1) / most;
    return (rows + groups - 1) / groups;
  }

 private:
  friend class Walk;

  static constexpr int64_t kFilled = 16;  // a number, for vectors of any width

  // The floats of one row's record: what is stored, the carry, and the next
  // one. An odd number of cache lines keeps the rows' places in the cache
  // apart.
  int64_t record() const {
    return ((p_.stored + 2 * p_.carry) / kFilled | 1) * kFilled;
  }

  int64_t weight_floats() const {
    int64_t floats = 0;
    for (int64_t i = 0; i < p_.weights; ++i) {
      floats += p_.weight[i].k * p_.weight[i].n;
    }
    return floats;
  }

  static void fill(float* target, float value) {
    for (int64_t i = 0; i < kFilled; ++i) target[i] = value;
  }

  void pack(int64_t i) {
    const Weights& w = p_.weight[i];
    const float* matrix =
        static_cast<const float*>(call_.inputs[w.input]) + w.offset;
    const Cut cut(w.n, kVectors);
    for (int64_t panel = 0; panel < cut.panels; ++panel) {
      const Columns columns = columns_of(cut, panel);
      float* target = packed_[i] + cut.first(panel) * kLanes * w.k;
      if (w.turned) {
        pack_rows(matrix, w.k, w.k, columns, target);
      } else {
        pack_columns(matrix, w.k, w.n, columns, target);
      }
      if (!w.negative) continue;
      for (int64_t j = 0; j < columns.vectors * kLanes * w.k; ++j) {
        target[j] = -target[j];
      }
    }
  }

  // Reads row `row` of an input without time, and writes it out again.
  static void read(const Input& input, const void* from, int64_t row,
                   float* to) {
    const int64_t size = input.flags ? 1 : sizeof(float);
    char* start =
        static_cast<char*>(const_cast<void*>(from)) + row * input.size * size;
    const At at{start, 0, size}, target{reinterpret_cast<char*>(to), 0, 4};
    const Strip strip{1, input.size, 0, true};
    input.flags ? load_flags(strip, target, at) : copy(strip, target, at);
  }

  static void write(const Output& output, void* to, int64_t row, float* from) {
    const int64_t size = output.flags ? 1 : sizeof(float);
    char* start = static_cast<char*>(to) + row * output.size * size;
    const At at{start, 0, size}, source{reinterpret_cast<char*>(from), 0, 4};
    const Strip strip{1, output.size, 0, true};
    output.flags ? store_flags(strip, at, source) : copy(strip, at, source);
  }

  const LoopCall& call_;
  const Program& p_;
  Host& host_;
  float *shared_, *numbers_;
  float** packed_;
};

// A walk through time with some rows of an engine's batch, then with others.
class Walk {
 public:
  Walk(const Engine& engine, int64_t together)
      : e_(engine), call_(engine.call_), p_(engine.p_), host_(engine.host_) {
    const int64_t temporaries = p_.temporaries * kStripSize;
    const int64_t size = together * e_.record() + temporaries + kFilled;
    temporaries_ = take<float>(host_, size);
    records_ = temporaries_ + temporaries;
    for (int64_t i = 0; i < size; ++i) temporaries_[i] = 0.0f;
    inputs_ = take<Timed>(host_, p_.inputs);
    outputs_ = take<Timed>(host_, p_.outputs);
    for (auto& program : programs_) {
      program = take<Instruction>(host_, p_.instructions);
      for (int64_t i = 0; i < p_.instructions; ++i) program[i] = {};
    }
  }

  // Stands before the first step of these rows, with all inputs and outputs
  // where the call has them. They can be elsewhere; then `resolve`.
  void start(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    taken_ = 0;
    for (int64_t i = 0; i < p_.inputs; ++i) {
      const Input& input = p_.input[i];
      inputs_[i] = in_call(call_.inputs[i], input.size, input.flags);
      if (input.role != Role::kRow && input.role != Role::kCarry) continue;
      const int64_t carry = input.role == Role::kCarry ? p_.stored : 0;
      for (int64_t r = 0; r < count_; ++r) {
        e_.read(input, call_.inputs[i], first_ + r,
                record(r) + carry + input.offset);
      }
    }
    for (int64_t i = 0; i < p_.outputs; ++i) {
      const Output& output = p_.output[i];
      outputs_[i] = in_call(call_.outputs[i], output.size, output.flags);
    }
  }

  Timed* inputs() { return inputs_; }
  Timed* outputs() { return outputs_; }

  // Finds all operands.
  void resolve() {
    for (int parity = 0; parity < 2; ++parity) resolve(parity);
  }

  // Takes `count` steps.
  void go(int64_t count) {
    for (const int64_t end = taken_ + count; taken_ < end; ++taken_) {
      const int64_t t = p_.reverse ? p_.length - 1 - taken_ : taken_;
      const Instruction* program = programs_[taken_ & 1];
      for (int64_t i = 0; i < p_.instructions; ++i) {
        execute(program[i], t, count_);
      }
    }
  }

  // Writes what is there after the last step.
  void finish() {
    const int64_t last = p_.stored + (taken_ & 1) * p_.carry;
    for (int64_t i = 0; i < p_.outputs; ++i) {
      const Output& output = p_.output[i];
      if (output.role == Role::kTimed) continue;
      const int64_t carry = output.role == Role::kCarry ? last : 0;
      for (int64_t r = 0; r < count_; ++r) {
        e_.write(output, call_.outputs[i], first_ + r,
                 record(r) + carry + output.offset);
      }
    }
  }

  // What there is between two steps, for `count` rows.
  int64_t size(int64_t count) const { return count * e_.record(); }
  void save(float* to) const {
    std::memcpy(to, records_, sizeof(float) * size(count_));
  }
  void restore(const float* from, int64_t taken) {
    std::memcpy(records_, from, sizeof(float) * size(count_));
    taken_ = taken;
  }

 private:
  static constexpr int64_t kFilled = Engine::kFilled;

  float* record(int64_t row) const { return records_ + row * e_.record(); }

  Timed in_call(const void* base, int64_t size, int64_t flags) const {
    if (base == nullptr) return {};
    const int64_t row = p_.length * size * (flags ? 1 : sizeof(float));
    return {static_cast<char*>(const_cast<void*>(base)) + first_ * row, row};
  }

  // An operand: its first element, and the bytes to those beside it.
  struct Operand {
    char* start;
    int64_t row, column, time;
    bool local;  // to a strip

    At at(int64_t t, int64_t r, int64_t c) const {
      if (local) return {start, row, column};
      return {start + t * time + r * row + c * column, row, column};
    }
    float* floats(int64_t t, int64_t r) const {
      return reinterpret_cast<float*>(start + t * time + r * row);
    }
  };

  struct Work {
    Apply apply;
    bool exactly;
    bool even;     // the rows of a strip may be read and written as one
    int operated;  // operands that there are
    Operand operands[1 + kOperands];  // the result, then what is read
  };

  struct Factor {
    Operand a;
    const float* packed;
    int64_t k;
  };

  // How a vector of a gathered row comes to be: elements next to each other,
  // one element, or any.
  enum class Chunk : int8_t { kRun, kOne, kAny };

  static Chunk chunk_of(const int64_t* index, int64_t count) {
    const auto all = [&](int64_t step) {
      for (int64_t i = 1; i < count; ++i) {
        if (index[i] != index[0] + i * step) return false;
      }
      return true;
    };
    return all(1) ? Chunk::kRun : all(0) ? Chunk::kOne : Chunk::kAny;
  }

  struct Instruction {
    Kind kind;
    int64_t width, count;
    Operand out, a, b;
    Work* works;
    Factor* factors;
    const int64_t* details;
    Chunk* chunks;
  };

  // ---- a program for these rows ---------------------------------------------

  Operand resolve(int parity, const Place& place) const {
    constexpr int64_t kFloat = sizeof(float);
    const auto at = [](const void* base) {
      return static_cast<char*>(const_cast<void*>(base));
    };
    const auto in_record = [&](int64_t offset) {
      return Operand{at(records_ + offset), e_.record() * kFloat, kFloat, 0,
                     false};
    };
    const auto timed = [&](const Timed& where, int64_t size, int64_t flags) {
      const int64_t bytes = flags ? 1 : kFloat;
      return Operand{where.start + place.offset * bytes, where.row, bytes,
                     size * bytes, false};
    };
    switch (place.space) {
      case Space::kStored: return in_record(place.offset);
      case Space::kNow:
        return in_record(p_.stored + parity * p_.carry + place.offset);
      case Space::kNext:
        return in_record(p_.stored + (1 - parity) * p_.carry + place.offset);
      case Space::kTemporary:
        return {at(temporaries_ + place.which * kStripSize), 0, kFloat, 0,
                true};
      case Space::kSpread:
        return {at(temporaries_ + place.which * kStripSize), 0, 0, 0, true};
      case Space::kShared:
        return {at(e_.shared_ + place.offset), 0, kFloat, 0, false};
      case Space::kFilled:
        return {at(e_.shared_ + place.offset), 0, 0, 0, false};
      case Space::kNumber:
        return {at(e_.numbers_ + place.which * kFilled), 0, 0, 0, false};
      case Space::kInput: {
        const Input& input = p_.input[place.which];
        return timed(inputs_[place.which], input.size, input.flags);
      }
      case Space::kOutput: {
        const Output& output = p_.output[place.which];
        return timed(outputs_[place.which], output.size, output.flags);
      }
      case Space::kNone: break;
    }
    return {};
  }

  void resolve(int parity) {
    const int64_t* at = p_.code;
    const auto place = [&](Operand& operand, int64_t width = 0) {
      operand = resolve(parity, *reinterpret_cast<const Place*>(at));
      if (operand.local) operand.row = strip_width(width) * sizeof(float);
      at += sizeof(Place) / sizeof(int64_t);
    };
    for (int64_t i = 0; i < p_.instructions; ++i) {
      Instruction& it = programs_[parity][i];
      it.kind = static_cast<Kind>(*at++);
      switch (it.kind) {
        case Kind::kBlock: {
          it.width = *at++;
          it.count = *at++;
          if (!it.works) it.works = take<Work>(host_, it.count);
          for (int64_t j = 0; j < it.count; ++j) {
            Work& work = it.works[j];
            const auto operation = static_cast<Operation>(*at++);
            work.apply = applied(operation);
            work.exactly = *at++;
            for (Operand& operand : work.operands) place(operand, it.width);
            for (int k = 1 + along(operation); k <= kOperands; ++k) {
              work.operands[k].column = 0;
            }
            work.operated = 1 + kOperands;
            while (!work.operands[work.operated - 1].start) --work.operated;
            work.even = std::all_of(
                work.operands, std::end(work.operands),
                [](const Operand& o) { return o.column ? o.local : !o.row; });
          }
          break;
        }
        case Kind::kProduct:
          it.width = *at++;
          place(it.out);
          place(it.a);
          it.count = *at++;
          if (!it.factors) it.factors = take<Factor>(host_, it.count);
          for (int64_t j = 0; j < it.count; ++j) {
            Factor& factor = it.factors[j];
            place(factor.a);
            factor.k = p_.weight[*at].k;
            factor.packed = e_.packed_[*at++];
          }
          break;
        case Kind::kReduce:
          it.details = at;
          at += 4;
          place(it.out);
          place(it.a);
          break;
        case Kind::kGather:
          it.width = *at++;
          place(it.out);
          place(it.a);
          it.details = at;
          at += it.width;
          if (it.chunks) break;
          it.chunks = take<Chunk>(host_, blocks_of(it.width));
          for (int64_t c = 0; c < it.width; c += kLanes) {
            it.chunks[c / kLanes] =
                chunk_of(it.details + c, lanes_of(it.width, c));
          }
          break;
        case Kind::kContract:
          it.details = at;
          at += 15;
          place(it.out);
          place(it.a);
          place(it.b);
          break;
      }
    }
  }

  static int64_t strip_width(int64_t width) {
    const int64_t whole = blocks_of(width) * kLanes;
    return whole < kStripSize ? whole : kStripSize;
  }

  // ---- one instruction at one time, for all of these rows -------------------

  static void execute(const Instruction& it, int64_t t, int64_t rows) {
    switch (it.kind) {
      case Kind::kBlock: return block(it, t, rows);
      case Kind::kProduct: return product(it, t, rows);
      case Kind::kReduce: return reduce(it, t, rows);
      case Kind::kGather: return gather(it, t, rows);
      case Kind::kContract: return contract(it, t, rows);
    }
  }

  static void block(const Instruction& it, int64_t t, int64_t rows) {
    const int64_t wide = strip_width(it.width), high = kStripSize / wide;
    for (int64_t r = 0; r < rows; r += high) {
      for (int64_t c = 0; c < it.width; c += wide) {
        Strip strip{rows - r < high ? rows - r : high,
                    it.width - c < wide ? it.width - c : wide, c};
        const bool whole = blocks_of(strip.width) * kLanes == wide;
        const Strip as_one{1, strip.rows * wide};
        for (int64_t i = 0; i < it.count; ++i) {
          const Work& w = it.works[i];
          At at[1 + kOperands];
          for (int j = 0; j < w.operated; ++j) {
            at[j] = w.operands[j].at(t, r, c);
          }
          strip.exactly = w.exactly;
          w.apply(whole && w.even ? as_one : strip, at);
        }
      }
    }
  }

  // out = a + the sum of the factors' products.
  static void product(const Instruction& it, int64_t t, int64_t rows) {
    const Cut cut(it.width, kVectors);
    for (int64_t panel = 0; panel < cut.panels; ++panel) {
      with_width<kVectors>(cut.width(panel), [&](auto width) {
        for_row_blocks(rows, [&](auto count, int64_t r, int64_t block) {
          product<decltype(count)::value, decltype(width)::value>(
              it, t, r, block, cut.first(panel) * kLanes);
        });
      });
    }
  }

  // What one factor of R rows is, next to the columns of a panel.
  template <int R>
  struct Multiplied {
    const float* rows[R];
    const float* packed;
    int64_t k;
  };

  // Factors of a product that are added up in registers.
  static constexpr int64_t kFactors = 4;

  template <int R, int V>
  static void product(const Instruction& it, int64_t t, int64_t r,
                      int64_t block, int64_t column) {
    const bool started = it.a.start != nullptr;
    const float* start[R] = {};
    float* to[R];
    for (int i = 0; i < R; ++i) {
      to[i] = it.out.floats(t, r + i) + column;
      if (started) start[i] = it.a.floats(t, r + i) + column;
    }
    for (int64_t first = 0; first < it.count; first += kFactors) {
      const int64_t count = std::min(kFactors, it.count - first);
      Multiplied<R> factors[kFactors];
      for (int64_t j = 0; j < count; ++j) {
        const Factor& factor = it.factors[first + j];
        for (int i = 0; i < R; ++i) {
          factors[j].rows[i] = factor.a.floats(t, r + i);
        }
        factors[j].packed = factor.packed + column * factor.k;
        factors[j].k = factor.k;
      }
      if (first > 0) {
        multiply<R, V, true>(to, factors, count, block, to);
      } else if (started) {
        multiply<R, V, true>(start, factors, count, block, to);
      } else {
        multiply<R, V, false>(start, factors, count, block, to);
      }
    }
  }

  // A function of its own, so that all registers are the sums' and the
  // weights'.
  template <int R, int V, bool kStart>
  __attribute__((noinline)) static void multiply(const float* const* start,
                                                 const Multiplied<R>* factors,
                                                 int64_t count, int64_t block,
                                                 float* const* to) {
    Vec sums[R][V] = {};
    if constexpr (kStart) {
      const float* from[R];
      for (int i = 0; i < R; ++i) from[i] = start[i];
      load_sums(sums, from);
    }
    for (const Multiplied<R>* f = factors; f < factors + count; ++f) {
      accumulate<0, V>(sums, f->rows, f->packed, f->k, block);
    }
    float* outputs[R];
    for (int i = 0; i < R; ++i) outputs[i] = to[i];
    store_sums(sums, outputs);
  }

  static void reduce(const Instruction& it, int64_t t, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      reduced(it.details, it.a.floats(t, r), it.out.floats(t, r));
    }
  }

  static void gather(const Instruction& it, int64_t t, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* a = it.a.floats(t, r);
      float* out = it.out.floats(t, r);
      for (int64_t c = 0; c < it.width; c += kLanes) {
        const int64_t* index = it.details + c;
        const int lanes = lanes_of(it.width, c);
        switch (it.chunks[c / kLanes]) {
          case Chunk::kRun: store(out + c, load(a + *index, lanes)); break;
          case Chunk::kOne: store(out + c, splat(a[*index])); break;
          case Chunk::kAny:
            for (int i = 0; i < lanes; ++i) out[c + i] = a[index[i]];
        }
      }
    }
  }

  static void contract(const Instruction& it, int64_t t, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      contracted(it.details, it.a.floats(t, r), it.b.floats(t, r),
                 it.out.floats(t, r));
    }
  }

  const Engine& e_;
  const LoopCall& call_;
  const Program& p_;
  Host& host_;
  float *temporaries_, *records_;
  Timed *inputs_, *outputs_;
  Instruction* programs_[2];
  int64_t first_ = 0, count_ = 0, taken_ = 0;
};

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_WALK_H_
