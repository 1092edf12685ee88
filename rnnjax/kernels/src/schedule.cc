#include "schedule.h"

#include <algorithm>
#include <numeric>
#include <thread>
#include <vector>

namespace rnnjax {
namespace {

// About ten microseconds of one thread.
constexpr int64_t kWorthDividing = 1'000'000;

}  // namespace

Schedule make_schedule(const Sizes& size, const uint8_t* mask,
                       int64_t step_cost, Host& host) {
  const int64_t batch = size.batch;
  const bool divide = batch * size.time * step_cost >= kWorthDividing;
  const int64_t tasks =
      divide ? std::clamp<int64_t>(host.threads(), 1, batch) : 1;
  auto* order = static_cast<int64_t*>(host.allocate(sizeof(int64_t) * batch));
  auto* start =
      static_cast<int64_t*>(host.allocate(sizeof(int64_t) * (tasks + 1)));
  for (int64_t i = 0; i <= tasks; ++i) start[i] = i * batch / tasks;
  std::iota(order, order + batch, int64_t{0});
  if (mask == nullptr || tasks == 1) return {tasks, order, start};

  std::vector<int64_t> valid(batch);
  for (int64_t row = 0; row < batch; ++row) {
    const uint8_t* begin = mask + row * size.time;
    valid[row] = size.time - std::count(begin, begin + size.time, 0);
  }
  std::vector<int64_t> longest_first(order, order + batch);
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](int64_t a, int64_t b) { return valid[a] > valid[b]; });
  // Each row goes to the task with the least work that still has a free place.
  std::vector<int64_t> filled(start, start + tasks), load(tasks, 0);
  for (const int64_t row : longest_first) {
    int64_t best = -1;
    for (int64_t i = 0; i < tasks; ++i) {
      if (filled[i] < start[i + 1] && (best < 0 || load[i] < load[best])) {
        best = i;
      }
    }
    order[filled[best]++] = row;
    load[best] += valid[row];
  }
  return {tasks, order, start};
}

void wait_until(const int32_t* place, int32_t value) {
  while (__atomic_load_n(place, __ATOMIC_ACQUIRE) != value) {
    std::this_thread::yield();
  }
}

}  // namespace rnnjax
