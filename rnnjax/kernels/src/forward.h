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
        cut_(problem.size.hidden, Layout::kBlocks),
        padded_(cut_.blocks * kLanes) {}

  void run() {
    pack();
    const Sizes& size = p_.size;
    const int64_t cost =
        Cell::kColumns * size.hidden * (size.input + size.hidden) +
        24 * Layout::kSums * padded_;  // the activations
    schedule_ = make_schedule(size, p_.mask, cost, host_);
    host_.run(
        schedule_.tasks,
        [](void* self, int64_t task) {
          static_cast<ForwardPass*>(self)->walk(task);
        },
        this);
  }

 private:
  using Layout = rnnjax::RNNJAX_ISA::Layout<Cell>;
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
    const auto body = [](void* self, int64_t panel) {
      static_cast<ForwardPass*>(self)->pack_panel(panel);
    };
    if ((size.input + size.hidden) * width >= kWorthDividedPacking) {
      host_.run(cut_.panels, body, this);
    } else {
      for (int64_t panel = 0; panel < cut_.panels; ++panel) body(this, panel);
    }
  }

  void pack_panel(int64_t panel) {
    const Sizes& size = p_.size;
    const int64_t stride = Cell::kColumns * size.hidden;
    const int64_t first = cut_.first(panel);
    Columns input{}, hidden{};
    input.vectors = hidden.vectors = cut_.width(panel) * Cell::kColumns;
    for (int v = 0; v < input.vectors; ++v) {
      const int64_t block = first + v / Cell::kColumns;
      const int column = v % Cell::kColumns;
      input.count[v] = hidden.count[v] = lanes_at(size.hidden, block);
      input.column[v] =
          Layout::input_column(column) * size.hidden + block * kLanes;
      hidden.column[v] = column * size.hidden + block * kLanes;
    }
    const int64_t offset = first * Cell::kColumns * kLanes;
    pack_columns(as(p_.w_ih), size.input, stride, input,
                 w_ih_ + offset * size.input);
    pack_columns(as(p_.w_hh), size.hidden, stride, hidden,
                 w_hh_ + offset * size.hidden);
    float* bias = bias_ + first * Layout::kSums * kLanes;
    pack_columns(as(p_.b), 1, stride, input, bias);
    if constexpr (!Cell::kJoined) {
      hidden.vectors = 1;
      pack_columns(as(p_.b_hn), 1, size.hidden, hidden,
                   bias + Cell::kColumns * kLanes);
    }
  }

  // ---- one register block -------------------------------------------------

  // start = bias + x @ w_ih for R rows and one panel of B blocks of units.
  template <int R, int B>
  __attribute__((noinline)) void project(int64_t panel, const float* const* x,
                                         float* const* start) const {
    const int64_t first = cut_.first(panel);
    const int64_t offset = first * Layout::kSums * kLanes;
    const float *inputs[R], *bias[R];
    float* outputs[R];
    for (int r = 0; r < R; ++r) {
      inputs[r] = x[r];
      bias[r] = bias_ + offset;
      outputs[r] = start[r] + offset;
    }
    Vec sums[R][B * Layout::kSums];
    load_sums(sums, bias);
    accumulate<0, B * Cell::kColumns>(
        sums, inputs, w_ih_ + first * Cell::kColumns * kLanes * p_.size.input,
        p_.size.input);
    store_sums(sums, outputs);
  }

  // One step of R rows for one panel of B blocks of units.
  template <int R, int B>
  __attribute__((noinline)) void step(int64_t panel, int64_t input_size,
                                      const ForwardRow<D>* rows) const {
    constexpr int V = B * Cell::kColumns;
    const int64_t first = cut_.first(panel);
    const int64_t hidden = p_.size.hidden;
    const int64_t offset = first * Cell::kColumns * kLanes;
    alignas(64) float results[R][B * Layout::kSums * kLanes];
    const float *x[R], *h[R], *start[R];
    float* outputs[R];
    for (int r = 0; r < R; ++r) {
      x[r] = rows[r].x;
      h[r] = rows[r].h;
      start[r] = rows[r].start + first * Layout::kSums * kLanes;
      outputs[r] = results[r];
    }
    Vec sums[R][B * Layout::kSums];
    load_sums(sums, start);
    accumulate<0, V>(sums, x, w_ih_ + offset * p_.size.input, input_size);
    accumulate<Layout::kHiddenFirst, V>(sums, h, w_hh_ + offset * hidden,
                                        hidden);
    store_sums(sums, outputs);
    for (int r = 0; r < R; ++r) {
      for (int block = 0; block < B; ++block) {
        const Units units{(first + block) * kLanes,
                          lanes_at(hidden, first + block), hidden};
        Cell::activate(results[r] + block * Layout::kSums * kLanes, units,
                       rows[r]);
      }
    }
  }

  // ---- one task -----------------------------------------------------------

  // The state of the rows of one task between steps.
  struct Task {
    int64_t count;
    const int64_t* rows;
    const float** h;    // the carry each row stands at
    float* c;           // (count, padded)
    float* h_buffers;   // (count, 2, padded): carries, where D is not float
    float* x_buffers;   // (count, input): inputs, where D is not float
    float* starts;      // (chunk, count, kSums, padded), with few rows
    int64_t chunk;      // steps projected at once; 0 when not done
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
      for (int64_t panel = 0; panel < cut_.panels; ++panel) {
        with_width<Layout::kBlocks>(cut_.width(panel), [&](auto width) {
          const int64_t input_size = task.chunk ? 0 : size.input;
          for_row_blocks(count, [&](auto rows, int64_t first) {
            step<decltype(rows)::value, decltype(width)::value>(
                panel, input_size, task.active + first);
          });
        });
      }
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
      const int64_t step = task.rows[r] * size.time + t;
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
        row.start = task.starts + (t % task.chunk * task.count + r) *
                                      Layout::kSums * padded_;
      } else if constexpr (kStaged) {
        float* copy = task.x_buffers + r * size.input;
        convert(x, copy, size.input);
        row.x = copy;
      } else {
        row.x = x;
      }
      if constexpr (Layout::kHasMemory) row.c = task.c + r * padded_;
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
        const int64_t step = task.rows[r] * size.time + s;
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
    for (int64_t panel = 0; panel < cut_.panels; ++panel) {
      with_width<Layout::kBlocks>(cut_.width(panel), [&](auto width) {
        for_row_blocks(count, [&](auto rows, int64_t first) {
          project<decltype(rows)::value, decltype(width)::value>(
              panel, task.project_x + first, task.project_start + first);
        });
      });
    }
  }

  const Forward& p_;
  Host& host_;
  const Cut cut_;
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
