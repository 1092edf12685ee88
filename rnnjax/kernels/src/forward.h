// The forward pass of any of the cells.

#ifndef RNNJAX_FORWARD_H_
#define RNNJAX_FORWARD_H_

#include "cells.h"
#include "memory.h"
#include "schedule.h"

namespace rnnjax::RNNJAX_ISA {

// A task multiplies the inputs of several steps at once in two cases: when it
// has few rows, because such a register block is bound by reading the weights;
// and when the weights do not fit in a second-level cache (4 MB are counted as
// too much), so that those of the inputs are read once for all these steps.
// In between, products of inputs that wait in memory only cost traffic: at
// 1.5 MB of weights they were a tenth slower.
inline constexpr int64_t kFewRows = 4;
inline constexpr int64_t kManyWeights = 1 << 20;

template <class Cell, class D>
class ForwardPass {
 public:
  ForwardPass(const Forward& problem, Host& host)
      : p_(problem),
        host_(host),
        padded_(blocks_of(problem.size.hidden) * kLanes) {}

  void run() {
    pack();
    const Sizes& size = p_.size;
    const int64_t cost =
        Cell::kColumns * size.hidden * (size.input + size.hidden) +
        24 * Layout::kSums * padded_;  // the activations
    schedule_ = make_schedule(size, p_.mask, cost, host_);
    divide(host_, schedule_.tasks, [this](int64_t task) { walk(task); });
  }

 private:
  using Layout = rnnjax::RNNJAX_ISA::Layout<Cell>;
  static constexpr int kPlain = Cell::kColumns - Cell::kGated;
  static constexpr bool kStaged = sizeof(D) != sizeof(float);

  static const D* as(const void* buffer) {
    return static_cast<const D*>(buffer);
  }
  static D* as(void* buffer) { return static_cast<D*>(buffer); }

  // ---- weights ------------------------------------------------------------

  void pack() {
    const Sizes& size = p_.size;
    const int64_t width = Cell::kColumns * padded_;
    w_ih_ = take<float>(host_, size.input * width);
    w_hh_ = take<float>(host_, size.hidden * width);
    bias_ = take<float>(host_, Layout::kSums * padded_);
    const bool divided =
        (size.input + size.hidden) * width >= kWorthDividedPacking;
    for_products<Cell>([&](auto product) {
      using P = decltype(product);
      const auto body = [this](int64_t panel) { pack_panel<P>(panel); };
      const int64_t panels = cut<P>().panels;
      if (divided) {
        divide(host_, panels, body);
      } else {
        for (int64_t panel = 0; panel < panels; ++panel) body(panel);
      }
    });
  }

  template <class P>
  Cut cut() const {
    return Cut(p_.size.hidden, P::kBlocks);
  }

  // Where the columns of this product, and its sums, stand from block `first`.
  template <class P>
  int64_t column_offset(int64_t first) const {
    return P::kFirst * padded_ + first * P::kColumns * kLanes;
  }
  template <class P>
  int64_t sum_offset(int64_t first) const {
    return P::kFirst * padded_ + first * P::kSums * kLanes;
  }

  template <class P>
  void pack_panel(int64_t panel) {
    const Sizes& size = p_.size;
    const int64_t stride = Cell::kColumns * size.hidden;
    const Cut cut = this->cut<P>();
    const int64_t first = cut.first(panel);
    Columns input{}, hidden{};
    input.vectors = hidden.vectors = cut.width(panel) * P::kColumns;
    for (int v = 0; v < input.vectors; ++v) {
      const int64_t block = first + v / P::kColumns;
      const int column = v % P::kColumns;
      input.count[v] = hidden.count[v] = lanes_at(size.hidden, block);
      input.column[v] = P::input_column(column) * size.hidden + block * kLanes;
      hidden.column[v] = (P::kFirst + column) * size.hidden + block * kLanes;
    }
    const int64_t offset = column_offset<P>(first);
    pack_columns(as(p_.w_ih), size.input, stride, input,
                 w_ih_ + offset * size.input);
    pack_columns(as(p_.w_hh), size.hidden, stride, hidden,
                 w_hh_ + offset * size.hidden);
    float* bias = bias_ + sum_offset<P>(first);
    pack_columns(as(p_.b), 1, stride, input, bias);
    if constexpr (!Cell::kJoined) {
      hidden.vectors = 1;
      pack_columns(as(p_.b_hn), 1, size.hidden, hidden,
                   bias + P::kColumns * kLanes);
    }
  }

  // ---- one register block -------------------------------------------------

  // start = bias + x @ w_ih for R rows and B blocks of units from `first` on.
  template <class P, int R, int B>
  __attribute__((noinline)) void project(int64_t first, int64_t block,
                                         const float* const* x,
                                         float* const* start) const {
    const int64_t offset = sum_offset<P>(first);
    const float *inputs[R], *bias[R];
    float* outputs[R];
    for (int r = 0; r < R; ++r) {
      inputs[r] = x[r];
      bias[r] = bias_ + offset;
      outputs[r] = start[r] + offset;
    }
    Vec sums[R][B * P::kSums];
    load_sums(sums, bias);
    accumulate<0, B * P::kColumns>(
        sums, inputs, w_ih_ + column_offset<P>(first) * p_.size.input,
        p_.size.input, block);
    store_sums(sums, outputs);
  }

  // One step, or its first half, of R rows for B blocks of units.
  template <class P, int R, int B>
  __attribute__((noinline)) void step(int64_t first, int64_t row_block,
                                      int64_t input_size,
                                      const ForwardRow<D>* rows) const {
    constexpr int V = B * P::kColumns;
    const int64_t hidden = p_.size.hidden;
    const int64_t offset = column_offset<P>(first);
    alignas(64) float results[R][B * P::kSums * kLanes];
    const float *x[R], *h[R], *start[R];
    float* outputs[R];
    for (int r = 0; r < R; ++r) {
      x[r] = rows[r].x;
      h[r] = P::kGated ? rows[r].gated : rows[r].h;
      start[r] = rows[r].start + sum_offset<P>(first);
      outputs[r] = results[r];
    }
    Vec sums[R][B * P::kSums];
    load_sums(sums, start);
    accumulate<0, V>(sums, x, w_ih_ + offset * p_.size.input, input_size,
                     row_block);
    accumulate<P::kHiddenFirst, V>(sums, h, w_hh_ + offset * hidden, hidden,
                                   row_block);
    store_sums(sums, outputs);
    for (int r = 0; r < R; ++r) {
      for (int block = 0; block < B; ++block) {
        const Units units{(first + block) * kLanes,
                          lanes_at(hidden, first + block), hidden};
        const float* found = results[r] + block * P::kSums * kLanes;
        if constexpr (!P::kLast) {
          gate<P>(found, units, rows[r]);
        } else if constexpr (P::kGated) {
          finish<P>(found, units, rows[r]);
        } else {
          Cell::activate(found, units, rows[r]);
        }
      }
    }
  }

  // What the second product multiplies, and what waits for it.
  template <class P>
  static RNNJAX_INLINE void gate(const float* sums, Units units,
                                 const ForwardRow<D>& row) {
    float* kept = row.kept + units.first * P::kSums;
    std::memcpy(kept, sums, sizeof(float) * P::kSums * kLanes);
    const Vec r = sigmoid(sum_at(sums, 0));
    store(kept, r);
    store(row.gated + units.first, r * load(row.h + units.first, units.lanes));
  }

  template <class P>
  static RNNJAX_INLINE void finish(const float* sums, Units units,
                                   const ForwardRow<D>& row) {
    alignas(64) float all[Cell::kColumns * kLanes];
    std::memcpy(all, row.kept + units.first * P::kPlain,
                sizeof(float) * P::kPlain * kLanes);
    std::memcpy(all + P::kPlain * kLanes, sums,
                sizeof(float) * P::kSums * kLanes);
    Cell::activate(all, units, row);
  }

  // ---- one task -----------------------------------------------------------

  // The state of the rows of one task between steps.
  struct Task {
    int64_t count;
    const int64_t* rows;
    const float** h;   // the carry each row stands at
    float* c;          // (count, padded)
    float* kept;       // (count, plain columns, padded), of a gated cell
    float* gated;      // (count, padded), of a gated cell
    float* h_buffers;  // (count, 2, padded): carries, where D is not float
    float* x_buffers;  // (count, input): inputs, where D is not float
    float* starts;     // (chunk, count, kSums, padded), with few rows
    int64_t chunk;     // steps projected at once; 0 when not done
    ForwardRow<D>* active;
    const float** project_x;
    float** project_start;
  };

  bool valid(int64_t step) const { return !p_.mask || p_.mask[step]; }

  // A place for the new carry of row r that its present one does not occupy.
  float* spare(const Task& task, int64_t r) const {
    float* both = task.h_buffers + 2 * r * padded_;
    return task.h[r] == both ? both + padded_ : both;
  }

  const float* carry_at(Task& task, int64_t r, const void* buffer) const {
    const D* row = as(buffer) + task.rows[r] * p_.size.hidden;
    if constexpr (kStaged) {
      float* target = spare(task, r);
      convert(row, target, p_.size.hidden);
      return target;
    } else {
      return row;
    }
  }

  void set_carry(Task& task, int64_t r, const void* c, const void* h) const {
    task.h[r] = carry_at(task, r, h);
    if constexpr (Layout::kHasMemory) {
      convert(as(c) + task.rows[r] * p_.size.hidden, task.c + r * padded_,
              p_.size.hidden);
    }
  }

  void walk(int64_t index) {
    const Sizes& size = p_.size;
    Task task{};
    task.rows = schedule_.order + schedule_.start[index];
    task.count = schedule_.start[index + 1] - schedule_.start[index];
    task.h = take<const float*>(host_, task.count);
    task.active = take<ForwardRow<D>>(host_, task.count);
    if (Layout::kHasMemory) {
      task.c = take<float>(host_, task.count * padded_);
      std::memset(task.c, 0, sizeof(float) * task.count * padded_);
    }
    if constexpr (Cell::kGated > 0) {
      task.kept = take<float>(host_, task.count * kPlain * padded_);
      task.gated = take<float>(host_, task.count * padded_);
    }
    if (kStaged) {
      task.h_buffers = take<float>(host_, 2 * task.count * padded_);
      task.x_buffers = take<float>(host_, task.count * size.input);
    }
    if (projects_ahead(task.count)) prepare_chunks(task);
    for (int64_t r = 0; r < task.count; ++r) {
      task.h[r] = nullptr;
      set_carry(task, r, p_.c0, p_.h0);
    }
    for (int64_t t = 0; t < size.time; ++t) {
      if (task.chunk && t % task.chunk == 0) project_chunk(task, t);
      const int64_t count = gather(task, t);
      for_panels([&](auto product, auto width, int64_t first_block) {
        const int64_t input_size = task.chunk ? 0 : size.input;
        for_row_blocks(count, [&](auto rows, int64_t first, int64_t block) {
          step<decltype(product), decltype(rows)::value,
               decltype(width)::value>(first_block, block, input_size,
                                       task.active + first);
        });
      });
    }
    for (int64_t r = 0; r < task.count; ++r) {
      const int64_t row = task.rows[r] * size.hidden;
      convert(task.h[r], as(p_.h_last) + row, size.hidden);
      if constexpr (Layout::kHasMemory) {
        convert(task.c + r * padded_, as(p_.c_last) + row, size.hidden);
      }
    }
  }

  // Lists the rows that take a step at time t, and moves the others on.
  int64_t gather(Task& task, int64_t t) const {
    const Sizes& size = p_.size;
    int64_t count = 0;
    for (int64_t r = 0; r < task.count; ++r) {
      const int64_t step = size.step(task.rows[r], t);
      D* ys = as(p_.ys) + step * size.hidden;
      if (!valid(step)) {
        hold(step, ys);
        continue;
      }
      if (p_.reset && p_.reset[step]) {
        set_carry(task, r, p_.c_reset, p_.h_reset);
      }
      ForwardRow<D>& row = task.active[count++];
      row = {};
      row.h = task.h[r];
      row.start = bias_;
      const D* x = as(p_.xs) + step * size.input;
      if (task.chunk) {
        row.start = task.starts +
                    (t % task.chunk * task.count + r) * Layout::kSums * padded_;
      } else if constexpr (kStaged) {
        float* copy = task.x_buffers + r * size.input;
        convert(x, copy, size.input);
        row.x = copy;
      } else {
        row.x = x;
      }
      if constexpr (Layout::kHasMemory) row.c = task.c + r * padded_;
      if constexpr (Cell::kGated > 0) {
        row.kept = task.kept + r * kPlain * padded_;
        row.gated = task.gated + r * padded_;
      }
      if constexpr (kStaged) {
        row.h_new = spare(task, r);
        row.ys = ys;
      } else {
        row.h_new = ys;
      }
      if (p_.saved) {
        row.saved = as(p_.saved) + step * Cell::kSaved * size.hidden;
        convert(row.h, as(p_.h_prev) + step * size.hidden, size.hidden);
        if constexpr (Layout::kHasMemory) {
          row.c_prev = as(p_.c_prev) + step * size.hidden;
        }
      }
      task.h[r] = row.h_new;
    }
    return count;
  }

  // A masked step: the output is zero, and what is saved is finite.
  void hold(int64_t step, D* ys) const {
    const int64_t hidden = p_.size.hidden;
    const size_t bytes = sizeof(D) * hidden;
    std::memset(ys, 0, bytes);
    if (!p_.saved) return;
    std::memset(as(p_.saved) + step * Cell::kSaved * hidden, 0,
                Cell::kSaved * bytes);
    std::memset(as(p_.h_prev) + step * hidden, 0, bytes);
    if (Layout::kHasMemory) {
      std::memset(as(p_.c_prev) + step * hidden, 0, bytes);
    }
  }

  // ---- inputs ahead of time -----------------------------------------------

  bool projects_ahead(int64_t rows) const {
    const Sizes& size = p_.size;
    const int64_t weights =
        (size.input + size.hidden) * Cell::kColumns * padded_;
    return size.time > 1 &&
           (rows <= kFewRows || (weights >= kManyWeights && size.input >= 64));
  }

  void prepare_chunks(Task& task) const {
    // As many steps as fit in a part of the second-level cache, but enough
    // rows to be worth reading the weights.
    const int64_t step_bytes =
        task.count * Layout::kSums * padded_ * sizeof(float);
    int64_t chunk = (128 << 10) / step_bytes;
    const int64_t least = (48 + task.count - 1) / task.count;
    chunk = chunk < least ? least : chunk > 96 ? 96 : chunk;
    task.chunk = chunk < p_.size.time ? chunk : p_.size.time;
    const int64_t rows = task.chunk * task.count;
    task.starts = take<float>(host_, rows * Layout::kSums * padded_);
    task.project_x = take<const float*>(host_, rows);
    task.project_start = take<float*>(host_, rows);
    if (kStaged) task.x_buffers = take<float>(host_, rows * p_.size.input);
  }

  void project_chunk(const Task& task, int64_t t) const {
    const Sizes& size = p_.size;
    const int64_t end = t + task.chunk < size.time ? t + task.chunk : size.time;
    int64_t count = 0;
    for (int64_t s = t; s < end; ++s) {
      for (int64_t r = 0; r < task.count; ++r) {
        const int64_t step = size.step(task.rows[r], s);
        if (!valid(step)) continue;
        const D* x = as(p_.xs) + step * size.input;
        if constexpr (kStaged) {
          float* copy = task.x_buffers + count * size.input;
          convert(x, copy, size.input);
          task.project_x[count] = copy;
        } else {
          task.project_x[count] = x;
        }
        task.project_start[count++] =
            task.starts + ((s - t) * task.count + r) * Layout::kSums * padded_;
      }
    }
    for_panels([&](auto product, auto width, int64_t first_block) {
      for_row_blocks(count, [&](auto rows, int64_t first, int64_t block) {
        project<decltype(product), decltype(rows)::value,
                decltype(width)::value>(first_block, block,
                                        task.project_x + first,
                                        task.project_start + first);
      });
    });
  }

  // Calls body(Product, Constant<blocks>, first block) for every panel of every
  // product: a second product needs all units of the first.
  template <class Body>
  RNNJAX_INLINE void for_panels(const Body& body) const {
    for_products<Cell>([&](auto product) {
      using P = decltype(product);
      const Cut cut = this->cut<P>();
      for (int64_t panel = 0; panel < cut.panels; ++panel) {
        with_width<P::kBlocks>(cut.width(panel), [&](auto width) {
          body(product, width, cut.first(panel));
        });
      }
    });
  }

  const Forward& p_;
  Host& host_;
  const int64_t padded_;  // hidden units, rounded up to whole vectors
  float* w_ih_ = nullptr;
  float* w_hh_ = nullptr;
  float* bias_ = nullptr;
  Schedule schedule_{};
};

template <class Cell>
void run_forward(const Forward& problem, Host& host) {
  if (problem.bfloat16) {
    ForwardPass<Cell, BFloat16>(problem, host).run();
  } else {
    ForwardPass<Cell, float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_FORWARD_H_
