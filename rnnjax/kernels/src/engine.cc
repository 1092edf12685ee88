// The native engine of any step: it walks through time with a program. Like
// kernels.cc, this file is compiled once for each instruction set.

#include <algorithm>

#include "contraction.h"
#include "elementwise.h"
#include "memory.h"
#include "panel.h"
#include "reduction.h"
#include "schedule.h"

namespace rnnjax::RNNJAX_ISA {

// A strip of a block is as wide as its rows, up to this, and as high as fits:
// an operation is then some sixty vectors for one decision, and its temporaries
// stay in the first-level cache.
inline constexpr int64_t kStripSize = 1024;

// Rows that are walked at the same time keep their values in the second-level
// cache, together with weights of the usual sizes.
inline constexpr int64_t kRowFloats = 1 << 16;

class Engine {
 public:
  Engine(const LoopCall& call, Host& host)
      : call_(call), p_(call.program), host_(host) {}

  void run() {
    pack();
    schedule_ =
        make_schedule({call_.batch, p_.length, 0, 0}, nullptr, p_.cost, host_);
    host_.run(
        schedule_.tasks,
        [](void* self, int64_t task) {
          static_cast<Engine*>(self)->walk(task);
        },
        this);
  }

 private:
  // ---- what all rows share --------------------------------------------------

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
    int64_t size = 0;
    for (int64_t i = 0; i < p_.weights; ++i) {
      const Weights& w = p_.weight[i];
      packed_[i] = take<float>(host_, w.k * blocks_of(w.n) * kLanes);
      size += w.k * w.n;
    }
    if (size < kWorthDividedPacking) {
      for (int64_t i = 0; i < p_.weights; ++i) pack(i);
      return;
    }
    host_.run(
        p_.weights,
        [](void* self, int64_t i) { static_cast<Engine*>(self)->pack(i); },
        this);
  }

  static constexpr int64_t kFilled = 16;  // a number, for vectors of any width

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
    }
  }

  // Reads row `row` of an input without time, and writes it out again.
  static void read(const Input& input, const void* from, int64_t row,
                   float* to) {
    const int64_t size = input.flags ? 1 : sizeof(float);
    char* start =
        static_cast<char*>(const_cast<void*>(from)) + row * input.size * size;
    const At at{start, 0, size}, target{reinterpret_cast<char*>(to), 0, 4};
    const Strip strip{1, input.size};
    input.flags ? load_flags(strip, target, at) : load(strip, target, at);
  }

  static void write(const Output& output, void* to, int64_t row, float* from) {
    const int64_t size = output.flags ? 1 : sizeof(float);
    char* start = static_cast<char*>(to) + row * output.size * size;
    const At at{start, 0, size}, source{reinterpret_cast<char*>(from), 0, 4};
    const Strip strip{1, output.size};
    output.flags ? store_flags(strip, at, source) : copy(strip, at, source);
  }

  // ---- the rows of one task -------------------------------------------------

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
    bool even;            // the rows of a strip may be read and written as one
    Operand operands[5];  // the result, then what is read
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

  // Rows that are walked at the same time, and their memory.
  struct Rows {
    int64_t first, count;
    float *records, *temporaries;
  };

  // The floats of one row's record: what is stored, the carry, and the next
  // one. An odd number of cache lines keeps the rows' places in the cache
  // apart.
  int64_t record() const {
    return ((p_.stored + 2 * p_.carry) / kFilled | 1) * kFilled;
  }

  void walk(int64_t task) {
    const int64_t begin = schedule_.start[task],
                  end = schedule_.start[task + 1];
    int64_t together = kRowFloats / record() / kRows * kRows;
    if (together < kRows) together = kRows;
    if (together > end - begin) together = end - begin;
    const int64_t temporaries = p_.temporaries * kStripSize;
    const int64_t size = together * record() + temporaries + kFilled;
    float* memory = take<float>(host_, size);
    for (int64_t i = 0; i < size; ++i) memory[i] = 0.0f;
    Instruction* programs[2] = {take<Instruction>(host_, p_.instructions),
                                take<Instruction>(host_, p_.instructions)};
    for (int64_t first = begin; first < end; first += together) {
      const int64_t left = end - first;
      const Rows rows{first, left < together ? left : together,
                      memory + temporaries, memory};
      for (int parity = 0; parity < 2; ++parity) {
        resolve(rows, parity, programs[parity], first == begin);
      }
      walk(rows, programs);
    }
  }

  void walk(const Rows& rows, Instruction* (&programs)[2]) {
    for (int64_t i = 0; i < p_.inputs; ++i) {
      const Input& input = p_.input[i];
      if (input.role != Role::kRow && input.role != Role::kCarry) continue;
      const int64_t carry = input.role == Role::kCarry ? p_.stored : 0;
      for (int64_t r = 0; r < rows.count; ++r) {
        read(input, call_.inputs[i], rows.first + r,
             rows.records + r * record() + carry + input.offset);
      }
    }
    for (int64_t step = 0; step < p_.length; ++step) {
      const int64_t t = p_.reverse ? p_.length - 1 - step : step;
      const Instruction* program = programs[step & 1];
      for (int64_t i = 0; i < p_.instructions; ++i) {
        execute(program[i], t, rows.count);
      }
    }
    const int64_t last = p_.stored + (p_.length & 1) * p_.carry;
    for (int64_t i = 0; i < p_.outputs; ++i) {
      const Output& output = p_.output[i];
      if (output.role == Role::kTimed) continue;
      const int64_t carry = output.role == Role::kCarry ? last : 0;
      for (int64_t r = 0; r < rows.count; ++r) {
        write(output, call_.outputs[i], rows.first + r,
              rows.records + r * record() + carry + output.offset);
      }
    }
  }

  // ---- a program for these rows ---------------------------------------------

  Operand resolve(const Rows& rows, int parity, const Place& place) const {
    constexpr int64_t kFloat = sizeof(float);
    const auto at = [](const void* base, int64_t offset) {
      return static_cast<char*>(const_cast<void*>(base)) + offset;
    };
    const auto in_record = [&](int64_t offset) {
      return Operand{at(rows.records + offset, 0), record() * kFloat, kFloat, 0,
                     false};
    };
    const auto timed = [&](const void* base, int64_t size, int64_t bytes) {
      const int64_t row = p_.length * size * bytes;
      return Operand{at(base, rows.first * row + place.offset * bytes), row,
                     bytes, size * bytes, false};
    };
    switch (place.space) {
      case Space::kStored: return in_record(place.offset);
      case Space::kNow:
        return in_record(p_.stored + parity * p_.carry + place.offset);
      case Space::kNext:
        return in_record(p_.stored + (1 - parity) * p_.carry + place.offset);
      case Space::kTemporary:
        return {at(rows.temporaries + place.which * kStripSize, 0), 0, kFloat,
                0, true};
      case Space::kShared:
        return {at(shared_ + place.offset, 0), 0, kFloat, 0, false};
      case Space::kFilled:
        return {at(shared_ + place.offset, 0), 0, 0, 0, false};
      case Space::kNumber:
        return {at(numbers_ + place.which * kFilled, 0), 0, 0, 0, false};
      case Space::kInput: {
        const Input& input = p_.input[place.which];
        return timed(call_.inputs[place.which], input.size,
                     input.flags ? 1 : kFloat);
      }
      case Space::kOutput: {
        const Output& output = p_.output[place.which];
        return timed(call_.outputs[place.which], output.size,
                     output.flags ? 1 : kFloat);
      }
      case Space::kNone: break;
    }
    return {};
  }

  void resolve(const Rows& rows, int parity, Instruction* program, bool fresh) {
    const int64_t* at = p_.code;
    const auto place = [&](Operand& operand, int64_t width = 0) {
      operand = resolve(rows, parity, *reinterpret_cast<const Place*>(at));
      if (operand.local) operand.row = strip_width(width) * sizeof(float);
      at += sizeof(Place) / sizeof(int64_t);
    };
    for (int64_t i = 0; i < p_.instructions; ++i) {
      Instruction& it = program[i];
      if (fresh) it = {};
      it.kind = static_cast<Kind>(*at++);
      switch (it.kind) {
        case Kind::kBlock: {
          it.width = *at++;
          it.count = *at++;
          if (fresh) it.works = take<Work>(host_, it.count);
          for (int64_t j = 0; j < it.count; ++j) {
            Work& work = it.works[j];
            const auto operation = static_cast<Operation>(*at++);
            work.apply = applied(operation);
            for (Operand& operand : work.operands) place(operand, it.width);
            // One element for all strips of a row.
            if (operation == Operation::k_splat) work.operands[1].column = 0;
            if (by_rows(operation)) {
              for (int k = 1; k < 5; ++k) work.operands[k].column = 0;
            }
            work.even = std::all_of(work.operands, work.operands + 5,
                                    [](const Operand& o) {
                                      return o.local || !(o.row | o.column);
                                    });
          }
          break;
        }
        case Kind::kProduct:
          it.width = *at++;
          place(it.out);
          place(it.a);
          it.count = *at++;
          if (fresh) it.factors = take<Factor>(host_, it.count);
          for (int64_t j = 0; j < it.count; ++j) {
            Factor& factor = it.factors[j];
            place(factor.a);
            factor.k = p_.weight[*at].k;
            factor.packed = packed_[*at++];
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
          if (!fresh) break;
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
        const Strip strip{rows - r < high ? rows - r : high,
                          it.width - c < wide ? it.width - c : wide, c};
        const bool whole = blocks_of(strip.width) * kLanes == wide;
        const Strip as_one{1, strip.rows * wide};
        for (int64_t i = 0; i < it.count; ++i) {
          const Work& w = it.works[i];
          At at[5];
          for (int j = 0; j < 5; ++j) at[j] = w.operands[j].at(t, r, c);
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

  const LoopCall& call_;
  const Program& p_;
  Host& host_;
  float *shared_, *numbers_;
  float** packed_;
  Schedule schedule_;
};

void run_loop(const LoopCall&, Host&);
void run_loop(const LoopCall& call, Host& host) { Engine(call, host).run(); }

}  // namespace rnnjax::RNNJAX_ISA
