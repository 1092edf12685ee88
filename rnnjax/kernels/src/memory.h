// Small helpers over the call's own memory and threads.

#ifndef RNNJAX_MEMORY_H_
#define RNNJAX_MEMORY_H_

#include "problem.h"
#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

// From this many weights on, packing them is divided over the threads.
inline constexpr int64_t kWorthDividedPacking = 1 << 17;

template <class T>
T* take(Host& host, int64_t count) {
  return static_cast<T*>(host.allocate(sizeof(T) * count));
}

// Calls body(index) for all indices below `count`, divided over the threads.
template <class Body>
void divide(Host& host, int64_t count, Body body) {
  host.run(
      count,
      [](void* context, int64_t index) {
        (*static_cast<Body*>(context))(index);
      },
      &body);
}

template <class From, class To>
void convert(const From* source, To* target, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    store(target + i, load(source + i, lanes), lanes);
  }
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_MEMORY_H_
