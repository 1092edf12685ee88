// The gradient of a weight matrix: x^T dz over all rows, which are all steps
// of all examples. There are many more rows than columns of either, so a task
// walks over the rows in chunks, and keeps the sums of its part of the result.
// Rows that do not count are left out, and rows of dz that are zero: those of
// steps that no loss has asked for.

#ifndef RNNJAX_WEIGHT_GRADIENT_H_
#define RNNJAX_WEIGHT_GRADIENT_H_

#include "memory.h"
#include "panel.h"

namespace rnnjax::RNNJAX_ISA {

// A chunk of a panel stays in the first-level cache while all inputs pass.
inline constexpr int64_t kChunk = 128;

// Sums, 512 KB, that stay in the second-level cache while all rows pass.
inline constexpr int64_t kSums = 128 << 10;

template <class D>
class WeightGradientPass {
 public:
  WeightGradientPass(const WeightGradient& problem, Host& host)
      : p_(problem), host_(host), cut_(problem.outputs, kVectors) {}

  void run() {
    if (p_.inputs == 0 || p_.outputs == 0) return;
    choose();
    const Division division(count_ * p_.inputs * p_.outputs, cut_.panels,
                            row_blocks(p_.inputs), host_);
    by_panels_ = division.by_panels;
    tasks_ = division.tasks;
    divide(host_, tasks_, [this](int64_t task) { walk(task); });
  }

 private:
  void choose() {
    rows_ = take<int64_t>(host_, p_.rows);
    count_ = 0;
    const D* dz = static_cast<const D*>(p_.dz);
    for (int64_t row = 0; row < p_.rows; ++row, dz += p_.outputs) {
      if (p_.valid && !p_.valid[row]) continue;
      if (!is_zero(dz, p_.outputs)) rows_[count_++] = row;
    }
  }

  static int64_t row_blocks(int64_t rows) { return (rows + kRows - 1) / kRows; }

  // The part of the result that one task makes.
  struct Part {
    int64_t first_panel, last_panel, first_input, inputs;
    float* sums = nullptr;  // (panel, input, vector, lane)
    float* dz = nullptr;    // (row of the chunk, vector, lane)
    float* x = nullptr;     // (row of the chunk, input and padding)
  };

  Part part_of(int64_t task) const {
    if (by_panels_) {
      return {task * cut_.panels / tasks_, (task + 1) * cut_.panels / tasks_, 0,
              p_.inputs};
    }
    const int64_t blocks = row_blocks(p_.inputs);
    const int64_t first = task * blocks / tasks_ * kRows;
    const int64_t last = (task + 1) * blocks / tasks_ * kRows;
    return {0, cut_.panels, first,
            (last < p_.inputs ? last : p_.inputs) - first};
  }

  // Rows of x are read down their columns: a power of two between them would
  // put all of a column into the same few places of a cache.
  static int64_t stride(const Part& part) { return part.inputs / 64 * 64 + 80; }

  void walk(int64_t task) const {
    const Part whole = part_of(task);
    const int64_t panel_size = kVectors * kLanes * whole.inputs;
    // As many panels at once as have sums that stay in a second-level cache.
    int64_t most = kSums / panel_size;
    if (most < 1) most = 1;
    const int64_t panels = whole.last_panel - whole.first_panel;
    const int64_t groups = (panels + most - 1) / most;
    Part part = whole;
    part.sums = take<float>(host_, (panels + groups - 1) / groups * panel_size);
    part.dz = take<float>(host_, kChunk * kVectors * kLanes);
    part.x = take<float>(host_, kChunk * stride(part));
    for (int64_t group = 0; group < groups; ++group) {
      part.first_panel = whole.first_panel + group * panels / groups;
      part.last_panel = whole.first_panel + (group + 1) * panels / groups;
      add_up(part, panel_size);
    }
  }

  void add_up(const Part& part, int64_t panel_size) const {
    const int64_t panels = part.last_panel - part.first_panel;
    std::memset(part.sums, 0, sizeof(float) * panels * panel_size);
    for (int64_t first = 0; first < count_; first += kChunk) {
      const int64_t left = count_ - first;
      add_chunk(part, rows_ + first, left < kChunk ? left : kChunk);
    }
    for (int64_t i = 0; i < panels; ++i) {
      write(part.first_panel + i, part, part.sums + i * panel_size);
    }
  }

  void add_chunk(const Part& part, const int64_t* rows, int64_t count) const {
    const D* x = static_cast<const D*>(p_.x) + part.first_input;
    for (int64_t r = 0; r < count; ++r) {
      convert(x + rows[r] * p_.inputs, part.x + r * stride(part), part.inputs);
    }
    float* sums = part.sums;
    for (int64_t panel = part.first_panel; panel < part.last_panel; ++panel) {
      pack_columns(static_cast<const D*>(p_.dz), count, p_.outputs,
                   columns_of(cut_, panel), part.dz, rows);
      with_width<kVectors>(cut_.width(panel), [&](auto width) {
        constexpr int V = decltype(width)::value;
        for_row_blocks(part.inputs, [&](auto high, int64_t first, int64_t) {
          constexpr int R = decltype(high)::value;
          add_block<R, V>(part.x + first, stride(part), part.dz, count,
                          sums + first * V * kLanes);
        });
      });
      sums += kVectors * kLanes * part.inputs;
    }
  }

  // A chunk is summed on its own, so that rounding grows with the number of
  // chunks and not with that of rows.
  template <int R, int V>
  __attribute__((noinline)) static void add_block(const float* x,
                                                  int64_t stride,
                                                  const float* dz,
                                                  int64_t count, float* sums) {
    Vec block[R][V] = {};
    const float* inputs[R];
    for (int r = 0; r < R; ++r) inputs[r] = x + r;
    accumulate<0, V>(block, inputs, dz, count, kVectors, stride);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* sum = sums + (r * V + v) * kLanes;
        store(sum, load(sum) + block[r][v]);
      }
    }
  }

  void write(int64_t panel, const Part& part, const float* sums) const {
    const Columns to = columns_of(cut_, panel);
    for (int64_t i = 0; i < part.inputs; ++i) {
      D* row = static_cast<D*>(p_.d_w) + (part.first_input + i) * p_.outputs;
      for (int v = 0; v < to.vectors; ++v, sums += kLanes) {
        store(row + to.column[v], load(sums), to.count[v]);
      }
    }
  }

  const WeightGradient& p_;
  Host& host_;
  const Cut cut_;
  int64_t* rows_ = nullptr;  // those that count
  int64_t count_ = 0;
  bool by_panels_ = true;
  int64_t tasks_ = 1;
};

inline void run_weight_gradient(const WeightGradient& problem, Host& host) {
  if (problem.bfloat16) {
    WeightGradientPass<BFloat16>(problem, host).run();
  } else {
    WeightGradientPass<float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_WEIGHT_GRADIENT_H_
