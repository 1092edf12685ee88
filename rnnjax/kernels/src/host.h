// A kernel's surroundings on a pool of threads that belongs to someone else.

#ifndef RNNJAX_HOST_H_
#define RNNJAX_HOST_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "problem.h"

namespace rnnjax {

inline constexpr size_t kHugePage = size_t{2} << 20;

// Says of memory that is about to be written whole that pages of two megabytes
// would suit it. The system clears those at once, small ones one by one.
inline void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  if (bytes < kHugePage / 2) return;
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = address & -kHugePage;
  const uintptr_t last = (address + bytes + kHugePage - 1) & -kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// One divided loop. It is shared with every helper that was asked for, and
// outlives the call when a helper starts late: such a helper finds no index
// left and touches nothing else.
class Job {
 public:
  Job(int64_t count, void (*body)(void*, int64_t), void* context)
      : count_(count), body_(body), context_(context) {}

  void work() {
    for (;;) {
      const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      try {
        body_(context_, index);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        error_ = std::current_exception();
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        const std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_all();
      }
    }
  }

  // Waits for indices that other threads have taken, so never for a thread
  // that has not started: a pool whose threads are all busy cannot deadlock.
  void wait() {
    for (int spins = 0; spins < 20'000; ++spins) {
      if (done_.load(std::memory_order_acquire) == count_) break;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] {
      return done_.load(std::memory_order_acquire) == count_;
    });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int64_t count_;
  void (*const body_)(void*, int64_t);
  void* const context_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  std::exception_ptr error_;
};

// `Pool` has num_threads() and Schedule(callable).
template <class Pool>
class PoolHost final : public Host {
 public:
  explicit PoolHost(Pool& pool) : pool_(pool) {}
  PoolHost(const PoolHost&) = delete;
  PoolHost& operator=(const PoolHost&) = delete;
  ~PoolHost() {
    for (void* block : blocks_) std::free(block);
  }

  int threads() const override {
    const int64_t threads = pool_.num_threads();
    return threads < 1 ? 1 : static_cast<int>(threads);
  }

  void run(int64_t count, void (*body)(void*, int64_t),
           void* context) override {
    const int64_t helpers = std::min<int64_t>(count, threads()) - 1;
    if (helpers < 1) {
      for (int64_t index = 0; index < count; ++index) body(context, index);
      return;
    }
    const auto job = std::make_shared<Job>(count, body, context);
    for (int64_t i = 0; i < helpers; ++i) {
      pool_.Schedule([job] { job->work(); });
    }
    job->work();
    job->wait();
  }

  void* allocate(size_t bytes) override {
    const bool large = bytes >= kHugePage;
    const size_t alignment = large ? kHugePage : 64;
    const size_t size = (bytes + alignment - 1) / alignment * alignment;
    void* block = std::aligned_alloc(alignment, size < 64 ? 64 : size);
    if (block == nullptr) throw std::bad_alloc();
    // Weights of a large layer are read whole at every step: small pages would
    // stop the hardware's prefetching every four kilobytes.
    prefer_huge_pages(block, size);
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_back(block);
    return block;
  }

 private:
  Pool& pool_;
  std::mutex mutex_;
  std::vector<void*> blocks_;
};

}  // namespace rnnjax

#endif  // RNNJAX_HOST_H_
