// The cross-entropy of rows of logits and the numbers of the right columns,
// and its gradient, which may be where the logits are.

#ifndef RNNJAX_CROSS_ENTROPY_H_
#define RNNJAX_CROSS_ENTROPY_H_

#include "functions.h"
#include "memory.h"

namespace rnnjax::RNNJAX_ISA {

// About ten microseconds of one thread, in logits.
inline constexpr int64_t kWorthDividedRows = 1 << 15;

template <class D>
class CrossEntropyPass {
 public:
  CrossEntropyPass(const CrossEntropy& problem, Host& host)
      : p_(problem), host_(host) {}

  void run() {
    int64_t tasks = 1;
    if (p_.rows * p_.columns >= kWorthDividedRows) tasks = host_.threads();
    tasks_ = tasks < p_.rows ? tasks : p_.rows;
    divide(host_, tasks_, [this](int64_t task) { walk(task); });
  }

 private:
  void walk(int64_t task) const {
    const int64_t last = (task + 1) * p_.rows / tasks_;
    for (int64_t row = task * p_.rows / tasks_; row < last; ++row) {
      const D* logits = static_cast<const D*>(p_.logits) + row * p_.columns;
      if (p_.d_logits) {
        pull(row, logits);
      } else {
        measure(row, logits);
      }
    }
  }

  static float one(const D* value) { return to_float(*value); }

  // A target below zero counts from the end, as indices of arrays do. Null for
  // one that is no column.
  const D* at_target(int64_t row, const D* logits) const {
    int64_t target = p_.targets[row];
    if (target < 0) target += p_.columns;
    return target >= 0 && target < p_.columns ? logits + target : nullptr;
  }

  // The normalizer is the logarithm of the sum of exponentials, in two parts:
  // the largest logit, and the logarithm with it subtracted. Large logits would
  // leave few digits to their sum.
  void measure(int64_t row, const D* logits) const {
    const float low = -__builtin_inff();
    Vec highest = splat(low);
    for (int64_t c = 0; c < p_.columns; c += kLanes) {
      const Vec x = at(logits, c, low);
      highest = x > highest ? x : highest;
    }
    float most = low;
    for (int i = 0; i < kLanes; ++i) {
      most = highest[i] > most ? highest[i] : most;
    }
    // Differences of infinities would be no numbers.
    const float shift = most > low && most < -low ? most : 0.0f;
    Vec sums{};
    for (int64_t c = 0; c < p_.columns; c += kLanes) {
      sums += exp(at(logits, c, low) - shift);
    }
    const float rest = log(splat(total(sums)))[0];
    const D* right = at_target(row, logits);
    put(p_.losses, row,
        right ? rest - (one(right) - shift) : __builtin_nanf(""));
    p_.normalizers[2 * row] = shift;
    p_.normalizers[2 * row + 1] = rest;
  }

  static float total(Vec sums) {
    float result = 0.0f;
    for (int i = 0; i < kLanes; ++i) result += sums[i];
    return result;
  }

  // d_logits = (softmax - one at the target) d_loss.
  void pull(int64_t row, const D* logits) const {
    const float d_loss = one(static_cast<const D*>(p_.d_losses) + row);
    const float shift = p_.normalizers[2 * row];
    const float rest = p_.normalizers[2 * row + 1];
    D* d_logits = static_cast<D*>(p_.d_logits) + row * p_.columns;
    const D* right = at_target(row, logits);
    const float at_right =
        right ? (exp(splat(one(right) - shift - rest))[0] - 1.0f) * d_loss
              : 0.0f;
    for (int64_t c = 0; c < p_.columns; c += kLanes) {
      const int lanes = lanes_of(p_.columns, c);
      const Vec x = load(logits + c, lanes);
      store(d_logits + c, exp(x - shift - rest) * d_loss, lanes);
    }
    if (right) put(d_logits, right - logits, at_right);
  }

  // Logits from a column on; past the last one, those that count nothing.
  Vec at(const D* logits, int64_t column, float nothing) const {
    const int lanes = lanes_of(p_.columns, column);
    Vec x = load(logits + column, lanes);
    for (int i = lanes; i < kLanes; ++i) x[i] = nothing;
    return x;
  }

  static void put(void* array, int64_t place, float value) {
    store(static_cast<D*>(array) + place, splat(value), 1);
  }

  const CrossEntropy& p_;
  Host& host_;
  int64_t tasks_ = 1;
};

inline void run_cross_entropy(const CrossEntropy& problem, Host& host) {
  if (problem.rows == 0) return;
  if (problem.bfloat16) {
    CrossEntropyPass<BFloat16>(problem, host).run();
  } else {
    CrossEntropyPass<float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_CROSS_ENTROPY_H_
