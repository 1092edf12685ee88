// The backward pass of any of the cells: the gradient of every step's sums
// (dz) and of the carries. Gradients of weights and inputs are products of dz
// over all of time, which the caller leaves to XLA.

#ifndef RNNJAX_BACKWARD_H_
#define RNNJAX_BACKWARD_H_

#include "cells.h"
#include "memory.h"
#include "schedule.h"

namespace rnnjax::RNNJAX_ISA {

template <class Cell, class D>
class BackwardPass {
 public:
  BackwardPass(const Backward& problem, Host& host)
      : p_(problem),
        host_(host),
        cut_(problem.size.hidden, kVectors),
        padded_(cut_.blocks * kLanes),
        width_(Cell::kColumns * problem.size.hidden) {}

  void run() {
    pack();
    const int64_t cost = width_ * p_.size.hidden + 24 * Layout::kSums * padded_;
    schedule_ = make_schedule(p_.size, p_.mask, cost, host_);
    divide(host_, schedule_.tasks, [this](int64_t task) { walk(task); });
  }

 private:
  using Layout = rnnjax::RNNJAX_ISA::Layout<Cell>;
  static constexpr bool kStaged = sizeof(D) != sizeof(float);

  static const D* as(const void* buffer) {
    return static_cast<const D*>(buffer);
  }
  static D* as(void* buffer) { return static_cast<D*>(buffer); }

  void pack() {
    w_hh_ = take<float>(host_, padded_ * width_);
    const auto body = [this](int64_t panel) { pack_panel(panel); };
    if (padded_ * width_ >= kWorthDividedPacking) {
      divide(host_, cut_.panels, body);
    } else {
      for (int64_t panel = 0; panel < cut_.panels; ++panel) body(panel);
    }
  }

  void pack_panel(int64_t panel) {
    pack_rows(as(p_.w_hh), width_, width_, columns_of(cut_, panel),
              w_hh_ + cut_.first(panel) * kLanes * width_);
  }

  struct Task;

  // dh += dz @ w_hh^T for R rows and one panel of hidden units, over the
  // columns of one product; those that multiply r * h reach d_gated.
  template <class P, int R, int V>
  __attribute__((noinline)) void add_product(int64_t panel, int64_t block,
                                             const BackwardRow<D>* rows) const {
    const int64_t first = cut_.first(panel) * kLanes;
    const int64_t column = P::kFirst * p_.size.hidden;
    const float *dz[R], *start[R];
    float* dh[R];
    for (int r = 0; r < R; ++r) {
      dz[r] = rows[r].dz + column;
      start[r] = dh[r] = (P::kGated ? rows[r].d_gated : rows[r].dh) + first;
    }
    Vec sums[R][V];
    load_sums(sums, start);
    accumulate<0, V>(sums, dz, w_hh_ + first * width_ + column * V * kLanes,
                     P::kColumns * p_.size.hidden, block);
    store_sums(sums, dh);
  }

  template <class P>
  void add_products(const Task& task, int64_t count) const {
    for (int64_t panel = 0; panel < cut_.panels; ++panel) {
      with_width<kVectors>(cut_.width(panel), [&](auto width) {
        for_row_blocks(count, [&](auto rows, int64_t first, int64_t block) {
          add_product<P, decltype(rows)::value, decltype(width)::value>(
              panel, block, task.active + first);
        });
      });
    }
  }

  // From r * h to both: the first column receives its gradient here.
  void differentiate_gate(const BackwardRow<D>& row) const {
    for (int64_t block = 0; block < cut_.blocks; ++block) {
      const Units units = units_at(block);
      float* d_gated = row.d_gated + units.first;
      float* dh = row.dh + units.first;
      const Vec d = load(d_gated), r = saved_at(row.saved, units, 0);
      const Vec h = load(row.prev + units.first, units.lanes);
      save(row.dz, units, d * h * r * (1.0f - r));
      store(dh, load(dh) + d * r);
      store(d_gated, Vec{});
    }
  }

  Units units_at(int64_t block) const {
    return {block * kLanes, lanes_at(p_.size.hidden, block), p_.size.hidden};
  }

  // The state of the rows of one task between steps.
  struct Task {
    int64_t count;
    const int64_t* rows;
    float *dc, *dh;              // (count, padded)
    float* d_gated;              // (count, padded), of a gated cell
    float *dc_reset, *dh_reset;  // (count, padded), null without resets
    float *dz, *dz_input;        // (count, width), where D is not float
    BackwardRow<D>* active;
    int64_t* resets;  // rows whose step began with a reset
  };

  float* zeros(int64_t count) {
    float* values = take<float>(host_, count);
    std::memset(values, 0, sizeof(float) * count);
    return values;
  }

  void walk(int64_t index) {
    const Sizes& size = p_.size;
    Task task{};
    task.rows = schedule_.order + schedule_.start[index];
    task.count = schedule_.start[index + 1] - schedule_.start[index];
    task.active = take<BackwardRow<D>>(host_, task.count);
    task.dh = zeros(task.count * padded_);
    if (Layout::kHasMemory) task.dc = zeros(task.count * padded_);
    if (Cell::kGated > 0) task.d_gated = zeros(task.count * padded_);
    if (p_.reset) {
      task.resets = take<int64_t>(host_, task.count);
      task.dh_reset = zeros(task.count * padded_);
      if (Layout::kHasMemory) task.dc_reset = zeros(task.count * padded_);
    }
    if (kStaged) {
      task.dz = take<float>(host_, task.count * width_);
      if (!Cell::kJoined) {
        task.dz_input = take<float>(host_, task.count * width_);
      }
    }
    for (int64_t r = 0; r < task.count; ++r) {
      const int64_t row = task.rows[r] * size.hidden;
      convert(as(p_.dh_last) + row, task.dh + r * padded_, size.hidden);
      if constexpr (Layout::kHasMemory) {
        convert(as(p_.dc_last) + row, task.dc + r * padded_, size.hidden);
      }
    }
    for (int64_t t = size.time - 1; t >= 0; --t) step(task, t);
    for (int64_t r = 0; r < task.count; ++r) {
      const int64_t row = task.rows[r] * size.hidden;
      const int64_t at = r * padded_;
      convert(task.dh + at, as(p_.dh0) + row, size.hidden);
      if constexpr (Layout::kHasMemory) {
        convert(task.dc + at, as(p_.dc0) + row, size.hidden);
      }
      if (!p_.reset) continue;
      convert(task.dh_reset + at, as(p_.dh_reset) + row, size.hidden);
      if constexpr (Layout::kHasMemory) {
        convert(task.dc_reset + at, as(p_.dc_reset) + row, size.hidden);
      }
    }
  }

  void step(Task& task, int64_t t) const {
    const Sizes& size = p_.size;
    int64_t count = 0, resets = 0;
    for (int64_t r = 0; r < task.count; ++r) {
      const int64_t step = size.step(task.rows[r], t);
      D* dz = as(p_.dz) + step * width_;
      D* dz_input = Cell::kJoined ? nullptr : as(p_.dz_input) + step * width_;
      if (p_.mask && !p_.mask[step]) {
        // Where dz takes the place of what was saved, zeros are there already;
        // to see that takes half as long as to write them again.
        if (p_.dz != p_.saved || !is_zero(dz, width_)) {
          std::memset(dz, 0, sizeof(D) * width_);
        }
        if (!Cell::kJoined) std::memset(dz_input, 0, sizeof(D) * width_);
        continue;
      }
      if (p_.reset && p_.reset[step]) task.resets[resets++] = r;
      BackwardRow<D>& row = task.active[count++];
      row = {};
      row.saved = as(p_.saved) + step * Cell::kSaved * size.hidden;
      if (p_.prev) row.prev = as(p_.prev) + step * size.hidden;
      row.dy = as(p_.dys) + step * size.hidden;
      row.dh = task.dh + r * padded_;
      if constexpr (Layout::kHasMemory) row.dc = task.dc + r * padded_;
      if constexpr (kStaged) {
        row.dz = task.dz + r * width_;
        row.dz_input = task.dz_input + r * width_;
        row.rounded = dz;
        row.rounded_input = dz_input;
      } else {
        row.dz = dz;
        row.dz_input = dz_input;
      }
      if constexpr (Cell::kGated > 0) {
        row.d_gated = task.d_gated + r * padded_;
      }
      for (int64_t block = 0; block < cut_.blocks; ++block) {
        Cell::differentiate(units_at(block), row);
      }
    }
    if constexpr (Cell::kGated > 0) {
      add_products<Product<Cell, true>>(task, count);
      for (int64_t i = 0; i < count; ++i) differentiate_gate(task.active[i]);
    }
    add_products<Product<Cell, false>>(task, count);
    if constexpr (kStaged) {
      for (int64_t i = 0; i < count; ++i) {
        const BackwardRow<D>& row = task.active[i];
        convert(row.dz, row.rounded, width_);
        if (!Cell::kJoined) convert(row.dz_input, row.rounded_input, width_);
      }
    }
    for (int64_t i = 0; i < resets; ++i) {
      const int64_t at = task.resets[i] * padded_;
      move(task.dh + at, task.dh_reset + at);
      if (Layout::kHasMemory) move(task.dc + at, task.dc_reset + at);
    }
  }

  // The carry before a reset had no influence; the reset carry had.
  void move(float* from, float* to) const {
    for (int64_t i = 0; i < padded_; i += kLanes) {
      store(to + i, load(to + i) + load(from + i));
      store(from + i, Vec{});
    }
  }

  const Backward& p_;
  Host& host_;
  const Cut cut_;
  const int64_t padded_;  // hidden units, rounded up to whole vectors
  const int64_t width_;   // columns of w_hh
  float* w_hh_ = nullptr;
  Schedule schedule_{};
};

template <class Cell>
void run_backward(const Backward& problem, Host& host) {
  if (problem.bfloat16) {
    BackwardPass<Cell, BFloat16>(problem, host).run();
  } else {
    BackwardPass<Cell, float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_BACKWARD_H_
