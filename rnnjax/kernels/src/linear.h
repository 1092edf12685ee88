// Linear recurrences h_t = a_t h_{t-1} + b_t, in either direction of time. All
// they do is read a and b and write h, so a task walks all of time of as many
// units as a thread takes, and the step before is still in its cache.

#ifndef RNNJAX_LINEAR_H_
#define RNNJAX_LINEAR_H_

#include "memory.h"
#include "problem.h"
#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

// About ten microseconds of one thread, in numbers read.
inline constexpr int64_t kWorthDividedWalk = 1 << 16;

// A line of the cache is written by one thread alone.
inline constexpr int64_t kLine = 64;

template <class T>
struct Wide {
  typedef T Lanes __attribute__((vector_size(kLanes * 4)));
  static constexpr int kCount = kLanes * 4 / sizeof(T);
};

// a h, and zero where a is: a reset forgets a state whatever that is, also
// infinity.
template <class T>
RNNJAX_INLINE T carried(T a, T h) {
  return a == 0 ? T{} : a * h;
}

template <class T>
class LinearPass {
 public:
  LinearPass(const Linear& problem, Host& host)
      : p_(problem),
        host_(host),
        a_(static_cast<const T*>(problem.a)),
        b_(static_cast<const T*>(problem.b)),
        h_(static_cast<T*>(problem.h)) {}

  void run() {
    if (p_.rows == 0 || p_.units == 0 || p_.size == 0) return;
    const int64_t read = p_.rows * p_.time * p_.units * p_.size * p_.size;
    if (read >= kWorthDividedWalk) {
      const int64_t bytes = p_.size * static_cast<int64_t>(sizeof(T));
      piece_ = (kLine + bytes - 1) / bytes;
      pieces_ = (p_.units + piece_ - 1) / piece_;
      const int64_t wanted = (host_.threads() + p_.rows - 1) / p_.rows;
      parts_ = wanted < pieces_ ? wanted : pieces_;
    }
    divide(host_, p_.rows * parts_, [this](int64_t task) { walk(task); });
  }

 private:
  void walk(int64_t task) const {
    const int64_t row = task / parts_, part = task % parts_;
    const int64_t first = part * pieces_ / parts_ * piece_;
    int64_t last = (part + 1) * pieces_ / parts_ * piece_;
    if (part + 1 == parts_) last = p_.units;
    const int64_t step = p_.units * p_.size, matrices = step * p_.size;
    const T* a = a_ + (p_.shared ? 0 : row) * p_.time * matrices;
    const T* b = b_ + row * p_.time * step;
    T* h = h_ + row * p_.time * step;
    const T* before = nullptr;
    for (int64_t done = 0; done < p_.time; ++done) {
      const int64_t t = p_.reverse ? p_.time - 1 - done : done;
      const T* own = a + (p_.reverse ? t + 1 : t) * matrices;
      advance(own, b + t * step, before, h + t * step, first, last);
      before = h + t * step;
    }
  }

  // One step of the units from first to last. h may be where b is.
  RNNJAX_INLINE void advance(const T* a, const T* b, const T* before, T* h,
                             int64_t first, int64_t last) const {
    if (before == nullptr) {
      copy(b + first * p_.size, h + first * p_.size, (last - first) * p_.size);
    } else if (p_.size == 1) {
      single(a, b, before, h, first, last);
    } else if (p_.size == 2) {
      if (p_.reverse) {
        pairs<true>(a, b, before, h, first, last);
      } else {
        pairs<false>(a, b, before, h, first, last);
      }
    } else {
      matrices(a, b, before, h, first, last);
    }
  }

  static void copy(const T* b, T* h, int64_t count) {
    for (int64_t i = 0; b != h && i < count; ++i) h[i] = b[i];
  }

  static void single(const T* a, const T* b, const T* before, T* h,
                     int64_t first, int64_t last) {
    int64_t i = first;
    for (; i + Wide<T>::kCount <= last; i += Wide<T>::kCount) {
      const Lanes decay = read(a + i), state = read(before + i);
      const Lanes kept = decay == 0 ? Lanes{} : decay * state;
      write(h + i, kept + read(b + i));
    }
    for (; i < last; ++i) h[i] = carried(a[i], before[i]) + b[i];
  }

  // Matrices of two rows, such as those of complex numbers.
  template <bool kReverse>
  static void pairs(const T* a, const T* b, const T* before, T* h,
                    int64_t first, int64_t last) {
    constexpr int kUpper = kReverse ? 2 : 1, kLower = kReverse ? 1 : 2;
    for (int64_t i = first; i < last; ++i) {
      const T* m = a + 4 * i;
      const T x = before[2 * i], y = before[2 * i + 1];
      const T next_x = carried(m[0], x) + carried(m[kUpper], y) + b[2 * i];
      const T next_y = carried(m[kLower], x) + carried(m[3], y) + b[2 * i + 1];
      h[2 * i] = next_x;
      h[2 * i + 1] = next_y;
    }
  }

  void matrices(const T* a, const T* b, const T* before, T* h, int64_t first,
                int64_t last) const {
    const int64_t n = p_.size;
    for (int64_t unit = first; unit < last; ++unit) {
      const T* m = a + unit * n * n;
      const T* state = before + unit * n;
      T* next = h + unit * n;
      copy(b + unit * n, next, n);
      for (int64_t i = 0; i < n; ++i) {
        if (p_.reverse) {
          add(m + i * n, state[i], next, n);
        } else {
          next[i] += product(m + i * n, state, n);
        }
      }
    }
  }

  static void add(const T* row, T state, T* next, int64_t count) {
    const Lanes all = state - Lanes{};
    int64_t j = 0;
    for (; j + Wide<T>::kCount <= count; j += Wide<T>::kCount) {
      const Lanes m = read(row + j);
      write(next + j, read(next + j) + (m == 0 ? Lanes{} : m * all));
    }
    for (; j < count; ++j) next[j] += carried(row[j], state);
  }

  static T product(const T* row, const T* state, int64_t count) {
    Lanes sums{};
    int64_t j = 0;
    for (; j + Wide<T>::kCount <= count; j += Wide<T>::kCount) {
      const Lanes m = read(row + j);
      sums += m == 0 ? Lanes{} : m * read(state + j);
    }
    T sum{};
    for (int lane = 0; lane < Wide<T>::kCount; ++lane) sum += sums[lane];
    for (; j < count; ++j) sum += carried(row[j], state[j]);
    return sum;
  }

  using Lanes = typename Wide<T>::Lanes;

  RNNJAX_INLINE static Lanes read(const T* source) {
    Lanes value;
    std::memcpy(&value, source, sizeof value);
    return value;
  }

  RNNJAX_INLINE static void write(T* target, Lanes value) {
    std::memcpy(target, &value, sizeof value);
  }

  const Linear& p_;
  Host& host_;
  const T* const a_;
  const T* const b_;
  T* const h_;
  // Units are divided into parts of whole pieces, each of which is a line.
  int64_t parts_ = 1, pieces_ = 1, piece_ = 0;
};

inline void run_linear(const Linear& problem, Host& host) {
  if (problem.float64) {
    LinearPass<double>(problem, host).run();
  } else {
    LinearPass<float>(problem, host).run();
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_LINEAR_H_
