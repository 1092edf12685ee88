// Runs every kernel over odd shapes with heap buffers of exact size, on pools
// that start helpers at once, late or never. Built with address and undefined
// behaviour sanitizers; the sums it returns must not depend on the pool.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "host.h"

namespace {

using rnnjax::Backward;
using rnnjax::CellKernels;
using rnnjax::Forward;
using rnnjax::Kernels;

enum class Start { kAtOnce, kLate, kNever };

// Threads of its own, joined at the end: helpers may outlive the call.
class Pool {
 public:
  Pool(int threads, Start start) : threads_(threads), start_(start) {}
  ~Pool() {
    for (auto& task : waiting_) task();
    for (auto& thread : running_) thread.join();
  }
  int64_t num_threads() const { return threads_; }
  void Schedule(std::function<void()> task) {
    if (start_ == Start::kAtOnce) running_.emplace_back(std::move(task));
    if (start_ == Start::kLate) waiting_.push_back(std::move(task));
  }

 private:
  const int threads_;
  const Start start_;
  std::vector<std::thread> running_;
  std::vector<std::function<void()>> waiting_;
};

// The buffers of one call; each is its own allocation of exactly its size.
class Buffers {
 public:
  explicit Buffers(bool bfloat16) : bfloat16_(bfloat16) {}

  void* floats(int64_t count, float scale = 1.0f) {
    const size_t width = bfloat16_ ? 2 : 4;
    char* data = bytes(count * width);
    std::uniform_real_distribution<float> uniform(-scale, scale);
    for (int64_t i = 0; i < count; ++i) {
      const float value = uniform(random_);
      // The upper half of a float is a bfloat16 on a little-endian machine.
      std::memcpy(data + i * width,
                  reinterpret_cast<const char*>(&value) + 4 - width, width);
    }
    return data;
  }

  uint8_t* flags(int64_t count, double probability) {
    auto* data = reinterpret_cast<uint8_t*>(bytes(count));
    std::bernoulli_distribution flip(probability);
    for (int64_t i = 0; i < count; ++i) data[i] = flip(random_);
    return data;
  }

  void* output(int64_t count) {
    char* data = bytes(count * (bfloat16_ ? 2 : 4));
    outputs_.push_back(blocks_.size() - 1);
    return data;
  }

  // A hash of every byte of every output.
  uint64_t digest() const {
    uint64_t hash = 1469598103934665603u;
    for (const size_t index : outputs_) {
      for (size_t i = 0; i < sizes_[index]; ++i) {
        hash =
            (hash ^ static_cast<uint8_t>(blocks_[index][i])) * 1099511628211u;
      }
    }
    return hash;
  }

 private:
  char* bytes(size_t size) {
    blocks_.push_back(std::make_unique<char[]>(size));
    sizes_.push_back(size);
    return blocks_.back().get();
  }

  const bool bfloat16_;
  std::mt19937 random_{7};
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::vector<size_t> sizes_, outputs_;
};

uint64_t run(const CellKernels& cell, rnnjax::Sizes size, bool bfloat16,
             bool masked, bool resets, int threads, Start start) {
  Buffers make(bfloat16);
  const int64_t state = size.batch * size.hidden;
  const int64_t steps = size.batch * size.time;
  const int64_t width = cell.facts.columns * size.hidden;
  const bool has_c = cell.facts.carries == 2;
  Forward f{};
  f.size = size;
  f.bfloat16 = bfloat16;
  f.xs = make.floats(steps * size.input);
  f.w_ih = make.floats(size.input * width, 0.3f);
  f.w_hh = make.floats(size.hidden * width, 0.1f);
  f.b = make.floats(width);
  if (!cell.facts.joined) f.b_hn = make.floats(size.hidden);
  f.h0 = make.floats(state);
  if (masked) f.mask = make.flags(steps, 0.7);
  if (resets) {
    f.reset = make.flags(steps, 0.3);
    f.h_reset = make.floats(state);
  }
  f.ys = make.output(steps * size.hidden);
  f.h_last = make.output(state);
  f.saved = make.output(steps * cell.facts.saved * size.hidden);
  f.h_prev = make.output(steps * size.hidden);
  Backward b{};
  if (has_c) {
    f.c0 = make.floats(state);
    if (resets) f.c_reset = make.floats(state);
    f.c_last = make.output(state);
    f.c_prev = make.output(steps * size.hidden);
    b.dc_last = make.floats(state);
    b.dc0 = make.output(state);
    if (resets) b.dc_reset = make.output(state);
  }
  b.size = size;
  b.bfloat16 = bfloat16;
  b.saved = f.saved;
  if (cell.facts.reads) b.prev = has_c ? f.c_prev : f.h_prev;
  b.w_hh = f.w_hh;
  b.mask = f.mask;
  b.reset = f.reset;
  b.dys = make.floats(steps * size.hidden);
  b.dh_last = make.floats(state);
  b.dz = make.output(steps * width);
  if (!cell.facts.joined) b.dz_input = make.output(steps * width);
  b.dh0 = make.output(state);
  if (resets) b.dh_reset = make.output(state);

  Pool pool(threads, start);
  {
    rnnjax::PoolHost<Pool> host(pool);
    cell.forward(f, host);
  }
  {
    rnnjax::PoolHost<Pool> host(pool);
    cell.backward(b, host);
  }
  return make.digest();
}

uint64_t multiply(const Kernels& kernels, rnnjax::Sizes size, bool bfloat16,
                  bool masked, bool turned, int threads, Start start) {
  Buffers make(bfloat16);
  const int64_t rows = size.batch * size.time;
  const uint8_t* valid = masked ? make.flags(rows, 0.7) : nullptr;
  rnnjax::WeightProduct product{};
  product.rows = rows;
  product.inputs = size.input;
  product.outputs = size.hidden;
  product.bfloat16 = bfloat16;
  product.turned = turned;
  product.valid = valid;
  product.x = make.floats(rows * size.input);
  product.w = make.floats(size.input * size.hidden);
  product.b = masked ? nullptr : make.floats(size.hidden);
  product.y = make.output(rows * size.hidden);
  rnnjax::WeightGradient gradient{};
  gradient.rows = rows;
  gradient.inputs = size.input;
  gradient.outputs = size.hidden;
  gradient.bfloat16 = bfloat16;
  gradient.valid = valid;
  gradient.x = product.x;
  gradient.dz = make.floats(rows * size.hidden);
  gradient.d_w = make.output(size.input * size.hidden);
  Pool pool(threads, start);
  {
    rnnjax::PoolHost<Pool> host(pool);
    kernels.weight_product(product, host);
  }
  rnnjax::PoolHost<Pool> host(pool);
  kernels.weight_gradient(gradient, host);
  return make.digest();
}

uint64_t lose(const Kernels& kernels, rnnjax::Sizes size, bool bfloat16,
              int threads, Start start) {
  Buffers make(bfloat16);
  Buffers wide(false);
  const int64_t rows = size.batch * size.time;
  std::vector<int32_t> targets(rows);
  // Some count from the end, and some are no column.
  for (int64_t i = 0; i < rows; ++i) {
    targets[i] = static_cast<int32_t>(i % (2 * size.hidden + 2) - size.hidden);
  }
  rnnjax::CrossEntropy p{};
  p.rows = rows;
  p.columns = size.hidden;
  p.bfloat16 = bfloat16;
  p.logits = make.floats(rows * size.hidden, 4.0f);
  p.targets = targets.data();
  p.losses = make.output(rows);
  p.normalizers = static_cast<float*>(wide.output(2 * rows));
  Pool pool(threads, start);
  {
    rnnjax::PoolHost<Pool> host(pool);
    kernels.cross_entropy(p, host);
  }
  p.d_losses = make.floats(rows);
  p.d_logits = make.output(rows * size.hidden);
  {
    rnnjax::PoolHost<Pool> host(pool);
    kernels.cross_entropy(p, host);
  }
  return make.digest() ^ wide.digest();
}

// Forward, and in reverse in place, as XLA calls it where it can.
template <class T>
uint64_t solve(const Kernels& kernels, rnnjax::Sizes size, bool shared,
               int threads, Start start) {
  Buffers make(false);
  const int64_t width = sizeof(T) / 4, numbers = size.input;
  const int64_t states = size.batch * size.time * size.hidden * numbers;
  const int64_t rows = shared ? 1 : size.batch;
  const int64_t matrices = rows * size.time * size.hidden * numbers * numbers;
  const auto floats = [&](int64_t count) {
    void* data = make.floats(count * width);
    for (int64_t i = 0; sizeof(T) == 8 && i < count; ++i) {
      const T value = static_cast<T>(i % 17) / 20 - T{0.4};
      std::memcpy(static_cast<char*>(data) + i * 8, &value, 8);
    }
    return data;
  };
  rnnjax::Linear p{size.batch,     size.time,
                   size.hidden,    numbers,
                   sizeof(T) == 8, shared,
                   false,          floats(matrices),
                   floats(states), make.output(states * width)};
  Pool pool(threads, start);
  {
    rnnjax::PoolHost<Pool> host(pool);
    kernels.linear(p, host);
  }
  p.reverse = true;
  p.b = p.h;
  rnnjax::PoolHost<Pool> host(pool);
  kernels.linear(p, host);
  return make.digest();
}

}  // namespace

int main() {
  const rnnjax::Sizes sizes[] = {
      {1, 1, 1, 1},    {1, 5, 3, 7},        {2, 3, 1, 15},   {3, 4, 5, 16},
      {5, 0, 2, 9},    {4, 6, 0, 17},       {7, 3, 9, 33},   {12, 2, 4, 47},
      {13, 3, 8, 64},  {23, 2, 30, 70},     {1, 40, 20, 90}, {9, 4, 130, 131},
      {5, 3, 64, 520}, {3, 9, 4, 33, true},
  };
  const rnnjax::Sizes products[] = {
      {0, 3, 4, 5},   {3, 2, 1, 1},     {5, 7, 6, 63},     {43, 3, 7, 65},
      {9, 40, 5, 33}, {16, 25, 50, 64}, {20, 20, 60, 200}, {2, 20, 1100, 70}};
  // Rows, steps, numbers that see each other, and units.
  const rnnjax::Sizes walks[] = {{3, 5, 1, 7},    {2, 0, 1, 3},   {1, 4, 2, 19},
                                 {2, 3, 3, 5},    {3, 2, 33, 2},  {0, 2, 1, 4},
                                 {1, 70, 2, 300}, {7, 150, 1, 90}};
  int runs = 0, failures = 0;
  for (const char* set : {"avx512", "avx2", "portable"}) {
    const Kernels* kernels = rnnjax::find_kernels(set);
    if (kernels == nullptr) continue;
    const auto check = [&](const char* name, rnnjax::Sizes size, auto digest) {
      const uint64_t alone = digest(1, Start::kNever);
      runs += 5;
      if (alone == digest(2, Start::kAtOnce) &&
          alone == digest(5, Start::kAtOnce) &&
          alone == digest(3, Start::kLate) &&
          alone == digest(4, Start::kNever)) {
        return;
      }
      ++failures;
      std::printf("%s %s (%ld, %ld, %ld, %ld): not the same bits\n", set, name,
                  static_cast<long>(size.batch), static_cast<long>(size.time),
                  static_cast<long>(size.input),
                  static_cast<long>(size.hidden));
    };
    for (const auto& size : products) {
      for (int variant = 0; variant < 8; ++variant) {
        const bool bfloat16 = variant & 1, masked = variant & 2,
                   turned = variant & 4;
        check("product", size, [&](int threads, Start start) {
          return multiply(*kernels, size, bfloat16, masked, turned, threads,
                          start);
        });
        if (masked || turned) continue;
        check("cross-entropy", size, [&](int threads, Start start) {
          return lose(*kernels, size, bfloat16, threads, start);
        });
      }
    }
    for (const auto& size : walks) {
      for (const bool shared : {false, true}) {
        check("linear, float", size, [&](int threads, Start start) {
          return solve<float>(*kernels, size, shared, threads, start);
        });
        check("linear, double", size, [&](int threads, Start start) {
          return solve<double>(*kernels, size, shared, threads, start);
        });
      }
    }
    for (int i = 0; i < kernels->count; ++i) {
      const CellKernels& cell = kernels->cells[i];
      for (const auto& size : sizes) {
        // Large sizes take most of the time, above all on an emulated machine.
        const int step = size.hidden > 100 ? 7 : 1;
        for (int variant = 0; variant < 8; variant += step) {
          const bool bfloat16 = variant & 1, mask = variant & 2,
                     reset = variant & 4;
          check(cell.facts.name, size, [&](int threads, Start start) {
            return run(cell, size, bfloat16, mask, reset, threads, start);
          });
        }
      }
    }
  }
  std::printf("%d runs, %d failures\n", runs, failures);
  return failures != 0;
}
