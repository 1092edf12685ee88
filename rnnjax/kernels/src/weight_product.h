// The product of many rows, which are all steps of all examples, with a weight
// matrix or with its transpose, and a bias: y = x w + b or x w^T + b. Rows that
// do not count are not read, and are zero in the result.

#ifndef RNNJAX_WEIGHT_PRODUCT_H_
#define RNNJAX_WEIGHT_PRODUCT_H_

#include "memory.h"
#include "panel.h"

namespace rnnjax::RNNJAX_ISA {

// Columns of x that are multiplied at a time: with a panel of as many weights,
// 128 KB, a row block stays in the second-level cache.
inline constexpr int64_t kDepth = 512;

// Numbers of x, 768 KB, that stay there while all panels pass.
inline constexpr int64_t kRowNumbers = 192 << 10;

template <class D>
class WeightProductPass {
 public:
  WeightProductPass(const WeightProduct& problem, Host& host)
      : p_(problem), host_(host), cut_(problem.outputs, kVectors) {}

  void run() {
    choose();
    if (count_ == 0 || p_.outputs == 0) return;
    const Division division(count_ * p_.inputs * p_.outputs, cut_.panels,
                            count_, host_);
    by_panels_ = division.by_panels;
    tasks_ = division.tasks;
    divide(host_, tasks_, [this](int64_t task) { walk(task); });
  }

 private:
  static constexpr bool kStaged = sizeof(D) != sizeof(float);

  const D* x(int64_t row) const {
    return static_cast<const D*>(p_.x) + row * p_.inputs;
  }
  D* y(int64_t row) const { return static_cast<D*>(p_.y) + row * p_.outputs; }

  // Lists the rows that count, and clears the others.
  void choose() {
    rows_ = take<int64_t>(host_, p_.rows);
    for (int64_t row = 0; row < p_.rows; ++row) {
      if (p_.inputs > 0 && (!p_.valid || p_.valid[row])) {
        rows_[count_++] = row;
      } else {
        std::memset(y(row), 0, sizeof(D) * p_.outputs);
      }
    }
  }

  // What one task makes: rows, by their places in the list, and panels.
  struct Part {
    int64_t first_row, last_row, first_panel, last_panel;
    int64_t chunk;    // rows at a time
    bool kept;        // whether packed weights are used again
    float* weights;   // of all panels, or of the one that is multiplied
    float* inputs;    // (chunk, depth), where D is not float
    float* sums;      // (chunk, columns), where D is not float and they grow
    const float** x;  // of each row of the chunk
    float** partial;  // and where its sums wait for more
  };

  int64_t column(int64_t panel) const { return cut_.first(panel) * kLanes; }

  void walk(int64_t task) const {
    Part part{};
    part.last_row = count_;
    part.last_panel = cut_.panels;
    if (by_panels_) {
      part.first_panel = task * cut_.panels / tasks_;
      part.last_panel = (task + 1) * cut_.panels / tasks_;
    } else {
      part.first_row = task * count_ / tasks_;
      part.last_row = (task + 1) * count_ / tasks_;
    }
    const int64_t depth = p_.inputs < kDepth ? p_.inputs : kDepth;
    const int64_t rows = part.last_row - part.first_row;
    const int64_t columns = column(part.last_panel) - column(part.first_panel);
    const int64_t most = kRowNumbers / depth;
    part.chunk = rows < most ? rows : most;
    part.kept = rows > part.chunk;
    part.weights = take<float>(
        host_, part.kept ? columns * p_.inputs : kVectors * kLanes * depth);
    part.x = take<const float*>(host_, part.chunk);
    part.partial = take<float*>(host_, part.chunk);
    if (kStaged) {
      part.inputs = take<float>(host_, part.chunk * depth);
      if (depth < p_.inputs) {
        part.sums = take<float>(host_, part.chunk * columns);
      }
    }
    for (int64_t row = part.first_row; row < part.last_row; row += part.chunk) {
      const int64_t left = part.last_row - row;
      multiply(part, row, left < part.chunk ? left : part.chunk);
    }
  }

  void multiply(const Part& part, int64_t row, int64_t count) const {
    const int64_t start = column(part.first_panel);
    const int64_t width = column(part.last_panel) - start;
    for (int64_t k = 0; k < p_.inputs; k += kDepth) {
      const int64_t left = p_.inputs - k;
      const int64_t depth = left < kDepth ? left : kDepth;
      for (int64_t i = 0; i < count; ++i) {
        const D* from = x(rows_[row + i]) + k;
        if constexpr (kStaged) {
          float* copy = part.inputs + i * depth;
          convert(from, copy, depth);
          part.x[i] = copy;
          part.partial[i] = part.sums + i * width;
        } else {
          part.x[i] = from;
          part.partial[i] = y(rows_[row + i]) + start;
        }
      }
      for (int64_t panel = part.first_panel; panel < part.last_panel; ++panel) {
        float* weights = part.weights;
        if (part.kept) weights += width * k + (column(panel) - start) * depth;
        if (!part.kept || row == part.first_row) {
          pack(panel, k, depth, weights);
        }
        const Step step{k, depth, column(panel), column(panel) - start,
                        weights};
        with_width<kVectors>(cut_.width(panel), [&](auto wide) {
          constexpr int V = decltype(wide)::value;
          for_row_blocks(count, [&](auto high, int64_t first, int64_t block) {
            add_block<decltype(high)::value, V>(part, step, row, first, block);
          });
        });
      }
    }
  }

  void pack(int64_t panel, int64_t k, int64_t depth, float* packed) const {
    const D* w = static_cast<const D*>(p_.w);
    const Columns from = columns_of(cut_, panel);
    if (p_.turned) {
      pack_rows(w + k, depth, p_.inputs, from, packed);
    } else {
      pack_columns(w + k * p_.outputs, depth, p_.outputs, from, packed);
    }
  }

  // Inputs `k` to `k + depth` and one panel: its column in the result and among
  // the part's sums, and its weights.
  struct Step {
    int64_t k, depth, column, place;
    const float* weights;
  };

  // Each step is summed on its own, so that rounding grows with the number of
  // steps and not with that of inputs.
  template <int R, int V>
  __attribute__((noinline)) void add_block(const Part& part, const Step& step,
                                           int64_t row, int64_t first,
                                           int64_t block) const {
    const float* inputs[R];
    for (int r = 0; r < R; ++r) inputs[r] = part.x[first + r];
    Vec sums[R][V] = {};
    accumulate<0, V>(sums, inputs, step.weights, step.depth, block);
    // The last vector of a row may have fewer lanes, which matters to the next
    // row of the result.
    const int last = lanes_of(p_.outputs, step.column + (V - 1) * kLanes);
    const bool complete = step.k + step.depth == p_.inputs;
    const D* bias = p_.b ? static_cast<const D*>(p_.b) + step.column : nullptr;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      float* partial = part.partial[first + r] + step.place;
      D* whole = y(rows_[row + first + r]) + step.column;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int lanes = v < V - 1 ? kLanes : last;
        Vec sum = sums[r][v];
        if (step.k > 0) {
          sum += load(partial + v * kLanes, lanes);
        } else if (bias != nullptr) {
          sum += load(bias + v * kLanes, lanes);
        }
        if (complete) {
          store(whole + v * kLanes, sum, lanes);
        } else {
          store(partial + v * kLanes, sum, lanes);
        }
      }
    }
  }

  const WeightProduct& p_;
  Host& host_;
  const Cut cut_;
  int64_t* rows_ = nullptr;  // those that count
  int64_t count_ = 0;
  bool by_panels_ = true;
  int64_t tasks_ = 1;
};

inline void run_weight_product(const WeightProduct& problem, Host& host) {
  if (problem.bfloat16) {
    WeightProductPass<BFloat16>(problem, host).run();
  } else {
    WeightProductPass<float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_WEIGHT_PRODUCT_H_
