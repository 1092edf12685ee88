// Which rows of the batch a thread takes.

#ifndef RNNJAX_SCHEDULE_H_
#define RNNJAX_SCHEDULE_H_

#include "problem.h"

namespace rnnjax {

// Rows order[start[i]] ... order[start[i + 1] - 1] are task i. A task walks
// all of time on its own: nothing waits for anything in between.
struct Schedule {
  int64_t tasks;
  const int64_t* order;
  const int64_t* start;
};

// `step_cost` is the work of one step of one row, in multiply-adds. Work that
// is over before a second thread has woken up is not divided. With a mask,
// rows are dealt by their number of valid steps, so that ragged batches load
// the threads equally.
Schedule make_schedule(const Sizes& size, const uint8_t* mask,
                       int64_t step_cost, Host& host);

// Returns when another thread has written this value there, and sees all that
// it wrote before.
void wait_until(const int32_t* place, int32_t value);

}  // namespace rnnjax

#endif  // RNNJAX_SCHEDULE_H_
