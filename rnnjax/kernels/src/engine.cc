// The native engine of any step: it walks through time with a program. Like
// kernels.cc, this file is compiled once for each instruction set.

#include <algorithm>

#include "memory.h"
#include "schedule.h"
#include "walk.h"

namespace rnnjax::RNNJAX_ISA {

// Numbers that one loop makes again for another, 512 KB, and their steps: at
// least as many as there are then carries to remember.
inline constexpr int64_t kMadeFloats = 1 << 17;

// Steps that are made ahead of a loop at once: enough rows for the weights to
// be read once for many.
inline constexpr int64_t kAheadSteps = 64;

// All rows of a batch, divided over the threads.
class LoopPass {
 public:
  LoopPass(const LoopCall& call, Host& host)
      : call_(call), host_(host), engine_(call, host) {}

  void run() {
    engine_.pack();
    const Program& p = call_.program;
    schedule_ =
        make_schedule({call_.batch, p.length, 0, 0}, nullptr, p.cost, host_);
    divide(host_, schedule_.tasks, [this](int64_t task) { walk(task); });
  }

 private:
  void walk(int64_t task) {
    const int64_t begin = schedule_.start[task],
                  end = schedule_.start[task + 1];
    const int64_t together = engine_.together(end - begin);
    Walk walk(engine_, together);
    for (int64_t first = begin; first < end; first += together) {
      walk.start(first, std::min(together, end - first));
      walk.resolve();
      walk.go(call_.program.length);
      walk.finish();
    }
  }

  const LoopCall& call_;
  Host& host_;
  Engine engine_;
  Schedule schedule_;
};

// The same, with inputs that another loop makes again: it stays some steps
// ahead, so that they never leave a cache. Where the two walk in opposite
// directions, it goes to the end first and remembers what it had on its way.
class RemadePass {
 public:
  RemadePass(const PairCall& call, Host& host)
      : call_(call),
        host_(host),
        maker_(call.maker, host),
        loop_(call.loop, host) {}

  void run() {
    maker_.pack();
    loop_.pack();
    const Program &maker = call_.maker.program, &loop = call_.loop.program;
    schedule_ = make_schedule({call_.loop.batch, loop.length, 0, 0}, nullptr,
                              2 * maker.cost + loop.cost, host_);
    divide(host_, schedule_.tasks, [this](int64_t task) { walk(task); });
  }

 private:
  // What is made again, for some rows and steps.
  struct Made {
    int64_t steps;
    float** values;  // of each kind
  };

  Made made(int64_t rows) const {
    const Program& maker = call_.maker.program;
    const int64_t length = maker.length;
    int64_t size = 0, least = 1;
    for (int64_t i = 0; i < call_.count; ++i) size += output(i).size;
    while (least * least < length) ++least;
    const int64_t steps =
        std::min(length, std::max(least, kMadeFloats / (rows * size)));
    Made made{steps, take<float*>(host_, call_.count)};
    for (int64_t i = 0; i < call_.count; ++i) {
      made.values[i] = take<float>(host_, rows * steps * output(i).size);
    }
    return made;
  }

  const Output& output(int64_t i) const {
    const Program& maker = call_.maker.program;
    return maker.output[maker.outputs - call_.count + i];
  }

  void walk(int64_t task) {
    const int64_t begin = schedule_.start[task],
                  end = schedule_.start[task + 1];
    const int64_t together =
        std::min(maker_.together(end - begin), loop_.together(end - begin));
    const int64_t length = call_.loop.program.length;
    const Made made = this->made(together);
    const int64_t parts = (length + made.steps - 1) / made.steps;
    const bool turned =
        call_.maker.program.reverse != call_.loop.program.reverse;
    Walk maker(maker_, together), loop(loop_, together);
    float* saved = take<float>(host_, turned * parts * maker.size(together));
    for (int64_t first = begin; first < end; first += together) {
      const int64_t count = std::min(together, end - first);
      maker.start(first, count);
      loop.start(first, count);
      const auto steps = [&](int64_t part) {
        return std::min(made.steps, length - part * made.steps);
      };
      const auto make = [&](int64_t part) {
        place(made, part, maker, loop);
        maker.go(steps(part));
      };
      if (!turned) {
        for (int64_t part = 0; part < parts; ++part) {
          make(part);
          loop.go(steps(part));
        }
      } else {
        for (int64_t part = 0; part < parts; ++part) {
          maker.save(saved + part * maker.size(together));
          make(part);
        }
        for (int64_t part = parts - 1; part >= 0; --part) {
          if (part < parts - 1) {
            maker.restore(saved + part * maker.size(together),
                          part * made.steps);
            make(part);
          }
          loop.go(steps(part));
        }
      }
      loop.finish();
    }
  }

  // Has the steps of one part of the maker's way written to, and read from,
  // the memory of what is made again.
  void place(const Made& made, int64_t part, Walk& maker, Walk& loop) const {
    const Program& p = call_.maker.program;
    const int64_t before = part * made.steps;
    const int64_t first =
        p.reverse ? p.length - std::min(p.length, before + made.steps) : before;
    for (int64_t i = 0; i < call_.count; ++i) {
      const int64_t bytes = output(i).size * sizeof(float);
      const Timed timed{reinterpret_cast<char*>(made.values[i]) - first * bytes,
                        made.steps * bytes};
      maker.outputs()[p.outputs - call_.count + i] = timed;
      loop.inputs()[call_.places[i]] = timed;
    }
    maker.resolve();
    loop.resolve();
  }

  const PairCall& call_;
  Host& host_;
  Engine maker_, loop_;
  Schedule schedule_;
};

// The same where the other loop has no carry, so that each of its steps can be
// made alone: threads that have no rows to walk with make them ahead of those
// that have, many steps at once. A part is made by whoever gets to it first,
// so a loop never waits for a thread that has not started.
class AheadPass {
 public:
  AheadPass(const PairCall& call, Host& host)
      : host_(host),
        steps_(each_alone(call.maker)),
        loop_call_(call.loop),
        maker_(steps_, host),
        loop_(loop_call_, host) {
    const int64_t inputs = loop_call_.program.inputs;
    auto** outputs = take<void*>(host, call.count);
    auto** read = take<const void*>(host, inputs);
    std::copy(loop_call_.inputs, loop_call_.inputs + inputs, read);
    for (int64_t i = 0; i < call.count; ++i) {
      const int64_t size = steps_.batch * steps_.program.output[i].size;
      read[call.places[i]] = outputs[i] = take<float>(host, size);
    }
    steps_.outputs = outputs;
    loop_call_.inputs = read;
    const int64_t length = loop_call_.program.length;
    parts_ = (length + kAheadSteps - 1) / kAheadSteps;
    states_ = take<int32_t>(host, loop_call_.batch * parts_);
    std::fill(states_, states_ + loop_call_.batch * parts_, kWaiting);
  }

  void run() {
    maker_.pack();
    loop_.pack();
    const Program &maker = steps_.program, &loop = loop_call_.program;
    schedule_ = make_schedule({loop_call_.batch, loop.length, 0, 0}, nullptr,
                              maker.cost + loop.cost, host_);
    const bool helped = steps_.batch * maker.cost >= kWorthDividedProduct;
    const int64_t threads = helped ? host_.threads() : 1;
    divide(host_, std::max(schedule_.tasks, threads), [this](int64_t i) {
      if (i < schedule_.tasks) {
        walk(i);
      } else {
        help();
      }
    });
  }

 private:
  // Of a part: some steps of one row.
  static constexpr int32_t kWaiting = 0, kTaken = 1, kMade = 2;

  // A loop of one step, whose rows are all steps of all rows.
  static LoopCall each_alone(LoopCall call) {
    call.batch *= call.program.length;
    call.program.length = 1;
    return call;
  }

  void walk(int64_t task) {
    const int64_t begin = schedule_.start[task],
                  end = schedule_.start[task + 1];
    const int64_t together = loop_.together(end - begin);
    Walk walk(loop_, together), maker = this->maker();
    for (int64_t first = begin; first < end; first += together) {
      const int64_t count = std::min(together, end - first);
      walk.start(first, count);
      walk.resolve();
      for (int64_t part = 0; part < parts_; ++part) {
        for (int64_t row = first; row < first + count; ++row) {
          if (!make(maker, row, part)) wait_until(state(row, part), kMade);
        }
        walk.go(steps(part));
      }
      walk.finish();
    }
  }

  void help() {
    Walk maker = this->maker();
    for (int64_t part = 0; part < parts_; ++part) {
      for (int64_t row = 0; row < loop_call_.batch; ++row) {
        make(maker, row, part);
      }
    }
  }

  Walk maker() const { return Walk(maker_, maker_.together(kAheadSteps)); }

  // Makes a part, unless someone has taken it.
  bool make(Walk& maker, int64_t row, int64_t part) const {
    int32_t waiting = kWaiting;
    int32_t* state = this->state(row, part);
    if (!__atomic_compare_exchange_n(state, &waiting, kTaken, false,
                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      return false;
    }
    const Program& loop = loop_call_.program;
    const int64_t taken = part * kAheadSteps, count = steps(part);
    int64_t first = row * loop.length +
                    (loop.reverse ? loop.length - taken - count : taken);
    const int64_t together = maker_.together(kAheadSteps), end = first + count;
    for (; first < end; first += together) {
      maker.start(first, std::min(together, end - first));
      maker.resolve();
      maker.go(1);
    }
    __atomic_store_n(state, kMade, __ATOMIC_RELEASE);
    return true;
  }

  int64_t steps(int64_t part) const {
    return std::min(kAheadSteps,
                    loop_call_.program.length - part * kAheadSteps);
  }

  int32_t* state(int64_t row, int64_t part) const {
    return states_ + row * parts_ + part;
  }

  Host& host_;
  LoopCall steps_, loop_call_;
  Engine maker_, loop_;
  int64_t parts_;
  int32_t* states_;
  Schedule schedule_;
};

void run_loop(const LoopCall&, Host&);
void run_loop(const LoopCall& call, Host& host) { LoopPass(call, host).run(); }

void run_remade(const PairCall&, Host&);
void run_remade(const PairCall& call, Host& host) {
  RemadePass(call, host).run();
}

void run_ahead(const PairCall&, Host&);
void run_ahead(const PairCall& call, Host& host) {
  AheadPass(call, host).run();
}

}  // namespace rnnjax::RNNJAX_ISA
