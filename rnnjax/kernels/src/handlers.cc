// The entry points that XLA calls, and the choice of an instruction set.

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "buffers.h"
#include "host.h"
#include "problem.h"

namespace rnnjax {
namespace {

std::atomic<const Kernels*> active{nullptr};

const CellKernels* find_cell(std::string_view name) {
  const Kernels& kernels = *active.load();
  for (int i = 0; i < kernels.count; ++i) {
    if (name == kernels.cells[i].facts.name) return &kernels.cells[i];
  }
  return nullptr;
}

ffi::Error no_cell(std::string_view name) {
  return ffi::Error::InvalidArgument("rnnjax: there is no kernel of " +
                                     std::string(name) + ".");
}

template <class Problem>
ffi::Error run(ffi::ThreadPool pool, const Problem& problem,
               void (*kernel)(const Problem&, Host&)) {
  try {
    PoolHost<ffi::ThreadPool> host(pool);
    kernel(problem, host);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "rnnjax: out of memory for packed weights and carries.");
  }
  return ffi::Error::Success();
}

// Runs a kernel over time, if there is anything to walk over.
template <class Problem>
ffi::Error walk(ffi::ThreadPool pool, const Problem& problem,
                void (*kernel)(const Problem&, Host&)) {
  if (problem.size.batch == 0 || problem.size.hidden == 0) {
    return ffi::Error::Success();
  }
  return run(pool, problem, kernel);
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args,
                   ffi::RemainingRets rets, std::string_view name, bool reverse,
                   bool residuals) {
  const CellKernels* cell = find_cell(name);
  if (cell == nullptr) return no_cell(name);
  const bool has_c = cell->facts.carries == 2;
  Buffers take("rnnjax_forward", cell->facts, args, rets);
  Forward p{};
  take.measure(p, "xs", "w_hh", 2);
  p.size.reverse = reverse;
  p.xs = take.in("xs", "BTI");
  p.w_ih = take.in("w_ih", "IG");
  p.w_hh = take.in("w_hh", "HG");
  p.b = take.in("b", "G");
  if (!cell->facts.joined) p.b_hn = take.in("b_hn", "H");
  if (has_c) p.c0 = take.in("c0", "BH");
  p.h0 = take.in("h0", "BH");
  p.mask = take.mask();
  p.reset = take.reset();
  if (has_c) p.c_reset = take.in_with_reset("c_reset", "BH");
  p.h_reset = take.in_with_reset("h_reset", "BH");
  p.ys = take.out("ys", "BTH");
  if (has_c) p.c_last = take.out("c_T", "BH");
  p.h_last = take.out("h_T", "BH");
  if (residuals) {
    p.saved = take.out("saved", "BTS");
    if (has_c) p.c_prev = take.out("c_prev", "BTH");
    p.h_prev = take.out("h_prev", "BTH");
  }
  if (ffi::Error error = take.error(); error.failure()) return error;
  return walk(pool, p, cell->forward);
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args,
                    ffi::RemainingRets rets, std::string_view name,
                    bool reverse) {
  const CellKernels* cell = find_cell(name);
  if (cell == nullptr) return no_cell(name);
  const bool has_c = cell->facts.carries == 2;
  const int reads = cell->facts.reads;
  Buffers take("rnnjax_backward", cell->facts, args, rets);
  Backward p{};
  take.measure(p, "saved", "w_hh", 1 + reads);
  p.size.reverse = reverse;
  p.saved = take.in("saved", "BTS");
  if (reads) p.prev = take.in("previous", "BTH");
  p.w_hh = take.in("w_hh", "HG");
  p.mask = take.mask();
  p.reset = take.reset();
  p.dys = take.in("dys", "BTH");
  if (has_c) p.dc_last = take.in("dc_T", "BH");
  p.dh_last = take.in("dh_T", "BH");
  if (!cell->facts.joined) p.dz_input = take.out("dz_input", "BTG");
  p.dz = take.out("dz", "BTG");
  if (has_c) p.dc0 = take.out("dc0", "BH");
  p.dh0 = take.out("dh0", "BH");
  if (has_c) p.dc_reset = take.out_with_reset("dc_reset", "BH");
  p.dh_reset = take.out_with_reset("dh_reset", "BH");
  if (ffi::Error error = take.error(); error.failure()) return error;
  return walk(pool, p, cell->backward);
}

using Shape = std::vector<int64_t>;

Shape all_axes(const ffi::AnyBuffer& buffer) {
  return Shape(buffer.dimensions().begin(), buffer.dimensions().end());
}

bool has_shape(const ffi::AnyBuffer& buffer, ffi::DataType dtype,
               const Shape& shape) {
  return buffer.element_type() == dtype && all_axes(buffer) == shape;
}

ffi::Error unexpected(const char* target, const char* name,
                      const ffi::AnyBuffer& buffer, const char* expected) {
  return ffi::Error::InvalidArgument(
      std::string(target) + ": " + name + " is " +
      describe(buffer.element_type()) + " of shape " +
      describe(buffer.dimensions()) + ", expected " + expected + ".");
}

// Which rows count: an absent array, or one flag for each.
bool are_flags(const ffi::AnyBuffer& valid, int64_t rows) {
  const Shape shape = all_axes(valid);
  return valid.element_type() == ffi::PRED &&
         (shape == Shape{0} || shape == Shape{rows, 1});
}

const uint8_t* flags_or_null(const ffi::AnyBuffer& valid) {
  if (valid.dimensions().size() == 1) return nullptr;
  return static_cast<const uint8_t*>(valid.untyped_data());
}

ffi::Error weight_product(ffi::ThreadPool pool, ffi::AnyBuffer x,
                          ffi::AnyBuffer w, ffi::AnyBuffer b,
                          ffi::AnyBuffer valid, ffi::Result<ffi::AnyBuffer> y,
                          bool turned) {
  const char* const target = "rnnjax_weight_product";
  const ffi::DataType dtype = x.element_type();
  const Shape rows = all_axes(x), weights = all_axes(w);
  if (rows.size() != 2 || (dtype != ffi::F32 && dtype != ffi::BF16)) {
    return unexpected(target, "x", x, "float32 or bfloat16 of two dimensions");
  }
  if (w.element_type() != dtype || weights.size() != 2 ||
      weights[turned] != rows[1]) {
    return unexpected(target, "w", w,
                      "the dtype of x and as many rows as x has columns");
  }
  if (!are_flags(valid, rows[0])) {
    return unexpected(target, "valid", valid, "bool, (0,) or (rows of x, 1)");
  }
  const int64_t outputs = weights[1 - turned];
  const bool biased = b.element_count() > 0;
  if (!has_shape(b, dtype, {biased ? outputs : 0})) {
    return unexpected(target, "b", b,
                      "the dtype of x, and (0,) or (columns of w,)");
  }
  if (y->element_type() != dtype || all_axes(*y) != Shape{rows[0], outputs}) {
    return unexpected(target, "y", *y,
                      "the dtype of x, and (rows of x, columns of w)");
  }
  prefer_huge_pages(y->untyped_data(), y->size_bytes());
  WeightProduct p{};
  p.rows = rows[0];
  p.inputs = rows[1];
  p.outputs = outputs;
  p.bfloat16 = dtype == ffi::BF16;
  p.turned = turned;
  p.x = x.untyped_data();
  p.w = w.untyped_data();
  p.b = biased ? b.untyped_data() : nullptr;
  p.valid = flags_or_null(valid);
  p.y = y->untyped_data();
  return run(pool, p, active.load()->weight_product);
}

// One product, or for x and dz of three dimensions one for each of their first,
// which is how XLA divides the rows over devices. All rows count then.
ffi::Error weight_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x,
                           ffi::AnyBuffer dz, ffi::AnyBuffer valid,
                           ffi::Result<ffi::AnyBuffer> d_w) {
  const char* const target = "rnnjax_weight_gradient";
  const ffi::DataType dtype = x.element_type();
  const Shape x_shape = all_axes(x), dz_shape = all_axes(dz);
  const size_t rank = x_shape.size();
  if ((rank != 2 && rank != 3) || (dtype != ffi::F32 && dtype != ffi::BF16)) {
    return unexpected(target, "x", x,
                      "float32 or bfloat16 of two dimensions, or of three");
  }
  const int64_t rows = x_shape[rank - 2], inputs = x_shape[rank - 1];
  const int64_t outputs = dz_shape.empty() ? 0 : dz_shape.back();
  Shape expected = x_shape;
  expected.back() = outputs;
  if (dz.element_type() != dtype || dz_shape != expected) {
    return unexpected(target, "dz", dz,
                      "the dtype and the rows of x in as many dimensions");
  }
  if (!are_flags(valid, rank == 2 ? rows : 0)) {
    return unexpected(target, "valid", valid,
                      "bool, (0,) or for x of two dimensions (rows of x, 1)");
  }
  expected[rank - 2] = inputs;
  if (d_w->element_type() != dtype || all_axes(*d_w) != expected) {
    return unexpected(target, "d_w", *d_w,
                      "the dtype of x, and (columns of x, of dz)");
  }
  prefer_huge_pages(d_w->untyped_data(), d_w->size_bytes());
  const int64_t size = dtype == ffi::BF16 ? 2 : 4;
  const int64_t parts = rank == 3 ? x_shape[0] : 1;
  for (int64_t part = 0; part < parts; ++part) {
    const auto at = [&](const ffi::AnyBuffer& buffer, int64_t elements) {
      return static_cast<char*>(buffer.untyped_data()) + part * elements * size;
    };
    const WeightGradient problem{rows,
                                 inputs,
                                 outputs,
                                 dtype == ffi::BF16,
                                 at(x, rows * inputs),
                                 at(dz, rows * outputs),
                                 flags_or_null(valid),
                                 at(*d_w, inputs * outputs)};
    ffi::Error error = run(pool, problem, active.load()->weight_gradient);
    if (error.failure()) return error;
  }
  return ffi::Error::Success();
}

// The sizes of logits, and the numbers of the right columns.
std::optional<ffi::Error> read_logits(const char* target, CrossEntropy& p,
                                      const ffi::AnyBuffer& logits,
                                      const ffi::AnyBuffer& targets) {
  const ffi::DataType dtype = logits.element_type();
  const Shape shape = all_axes(logits);
  if (shape.size() != 2 || (dtype != ffi::F32 && dtype != ffi::BF16)) {
    return unexpected(target, "logits", logits,
                      "float32 or bfloat16 of two dimensions");
  }
  if (!has_shape(targets, ffi::S32, {shape[0]})) {
    return unexpected(target, "targets", targets,
                      "int32, one for each row of logits");
  }
  p.rows = shape[0];
  p.columns = shape[1];
  p.bfloat16 = dtype == ffi::BF16;
  p.logits = logits.untyped_data();
  p.targets = static_cast<const int32_t*>(targets.untyped_data());
  return {};
}

ffi::Error cross_entropy(ffi::ThreadPool pool, ffi::AnyBuffer logits,
                         ffi::AnyBuffer targets,
                         ffi::Result<ffi::AnyBuffer> losses,
                         ffi::Result<ffi::AnyBuffer> normalizers) {
  const char* const target = "rnnjax_cross_entropy";
  CrossEntropy p{};
  if (auto wrong = read_logits(target, p, logits, targets)) return *wrong;
  if (!has_shape(*losses, logits.element_type(), {p.rows})) {
    return unexpected(target, "losses", *losses,
                      "the dtype of logits, one for each of their rows");
  }
  if (!has_shape(*normalizers, ffi::F32, {p.rows, 2})) {
    return unexpected(target, "normalizers", *normalizers,
                      "float32, two for each row of logits");
  }
  p.losses = losses->untyped_data();
  p.normalizers = static_cast<float*>(normalizers->untyped_data());
  return run(pool, p, active.load()->cross_entropy);
}

ffi::Error cross_entropy_gradient(ffi::ThreadPool pool, ffi::AnyBuffer logits,
                                  ffi::AnyBuffer targets,
                                  ffi::AnyBuffer normalizers,
                                  ffi::AnyBuffer d_losses,
                                  ffi::Result<ffi::AnyBuffer> d_logits) {
  const char* const target = "rnnjax_cross_entropy_gradient";
  CrossEntropy p{};
  if (auto wrong = read_logits(target, p, logits, targets)) return *wrong;
  if (!has_shape(normalizers, ffi::F32, {p.rows, 2})) {
    return unexpected(target, "normalizers", normalizers,
                      "float32, two for each row of logits");
  }
  if (!has_shape(d_losses, logits.element_type(), {p.rows})) {
    return unexpected(target, "d_losses", d_losses,
                      "the dtype of logits, one for each of their rows");
  }
  if (!has_shape(*d_logits, logits.element_type(), {p.rows, p.columns})) {
    return unexpected(target, "d_logits", *d_logits,
                      "the dtype and shape of logits");
  }
  prefer_huge_pages(d_logits->untyped_data(), d_logits->size_bytes());
  p.normalizers = static_cast<float*>(normalizers.untyped_data());
  p.d_losses = d_losses.untyped_data();
  p.d_logits = d_logits->untyped_data();
  return run(pool, p, active.load()->cross_entropy);
}

// The axes before the last three of b are rows, however many there are: XLA
// divides the leading ones over devices.
ffi::Error linear(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b,
                  ffi::Result<ffi::AnyBuffer> h, bool reverse) {
  const auto wrong = [](const char* name, const ffi::AnyBuffer& buffer,
                        const char* expected) {
    return unexpected("rnnjax_linear", name, buffer, expected);
  };
  const ffi::DataType dtype = b.element_type();
  const Shape shape = all_axes(b);
  if (shape.size() < 4 || (dtype != ffi::F32 && dtype != ffi::F64)) {
    return wrong("b", b, "float32 or float64 of four dimensions or more");
  }
  Linear p{};
  const int64_t* last = shape.data() + shape.size() - 3;
  p.time = last[0], p.units = last[1], p.size = last[2];
  p.rows = 1;
  for (const int64_t* axis = shape.data(); axis < last; ++axis) p.rows *= *axis;
  Shape each = shape, one = shape;
  each.push_back(p.size);
  one.push_back(p.size);
  for (size_t axis = 0; axis + 3 < shape.size(); ++axis) one[axis] = 1;
  const Shape given = all_axes(a);
  if (a.element_type() != dtype || (given != each && given != one)) {
    return wrong("a", a,
                 "the dtype and shape of b, of 1 row or as many, and "
                 "an axis more, as long as the last one");
  }
  if (h->element_type() != dtype || all_axes(*h) != shape) {
    return wrong("h", *h, "the dtype and shape of b");
  }
  p.float64 = dtype == ffi::F64;
  p.shared = given != each;
  p.reverse = reverse;
  p.a = a.untyped_data();
  p.b = b.untyped_data();
  p.h = h->untyped_data();
  return run(pool, p, active.load()->linear);
}

// A loop and its buffers, which have as many elements for each row as its
// program says. What is made again, or for another loop, has none.
class LoopBuffers {
 public:
  LoopBuffers(const char* target, ffi::Span<const int64_t> code,
              ffi::Span<const float> numbers, int64_t batch)
      : target_(target),
        call_{Program(code.begin()),
              batch,
              numbers.begin(),
              static_cast<int64_t>(numbers.size()),
              nullptr,
              nullptr} {}

  // The next input or output, which has the next buffer unless it is absent.
  std::optional<ffi::Error> input(const ffi::RemainingArgs& args, size_t* next,
                                  bool absent = false) {
    const int64_t i = inputs_.size();
    inputs_.push_back(nullptr);
    if (absent) return {};
    const Input& input = call_.program.input[i];
    if (*next >= args.size()) return wrong("input", i);
    const ffi::AnyBuffer buffer = *args.get<ffi::AnyBuffer>((*next)++);
    const bool shared = input.role == Role::kShared;
    if (!fits(buffer, shared ? 1 : rows(input.role), input.size, input.flags)) {
      return wrong("input", i);
    }
    inputs_[i] = buffer.untyped_data();
    return {};
  }

  std::optional<ffi::Error> output(const ffi::RemainingRets& rets) {
    const int64_t i = outputs_.size();
    const Output& output = call_.program.output[i];
    const ffi::AnyBuffer buffer = **rets.get<ffi::AnyBuffer>(i);
    if (!fits(buffer, rows(output.role), output.size, output.flags)) {
      return wrong("output", i);
    }
    prefer_huge_pages(buffer.untyped_data(), buffer.size_bytes());
    outputs_.push_back(buffer.untyped_data());
    return {};
  }

  void no_outputs() { outputs_.resize(call_.program.outputs); }

  const Program& program() const { return call_.program; }

  const LoopCall& call() {
    call_.inputs = inputs_.data();
    call_.outputs = outputs_.data();
    return call_;
  }

  ffi::Error wrong(const char* what, int64_t i) const {
    return ffi::Error::InvalidArgument(std::string(target_) + ": " + what +
                                       " " + std::to_string(i) +
                                       " is not what its program expects.");
  }

 private:
  int64_t rows(Role role) const {
    return call_.batch * (role == Role::kTimed ? call_.program.length : 1);
  }

  static bool fits(const ffi::AnyBuffer& buffer, int64_t rows, int64_t size,
                   bool flags) {
    return static_cast<int64_t>(buffer.element_count()) == rows * size &&
           buffer.element_type() == (flags ? ffi::PRED : ffi::F32);
  }

  const char* target_;
  LoopCall call_;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
};

ffi::Error loop(ffi::ThreadPool pool, ffi::RemainingArgs args,
                ffi::RemainingRets rets, ffi::Span<const int64_t> code,
                ffi::Span<const float> numbers, int64_t batch) {
  LoopBuffers loop("rnnjax_loop", code, numbers, batch);
  const Program& program = loop.program();
  if (static_cast<int64_t>(args.size()) != program.inputs ||
      static_cast<int64_t>(rets.size()) != program.outputs) {
    return loop.wrong("the number of buffers", args.size());
  }
  size_t next = 0;
  for (int64_t i = 0; i < program.inputs; ++i) {
    if (auto error = loop.input(args, &next)) return *error;
  }
  for (int64_t i = 0; i < program.outputs; ++i) {
    if (auto error = loop.output(rets)) return *error;
  }
  if (batch == 0) return ffi::Error::Success();
  return run(pool, loop.call(), active.load()->loop);
}

// Whether each step of a loop can be made alone.
bool is_alone(const Program& program) {
  return std::all_of(
      program.input, program.input + program.inputs, [](const Input& input) {
        return input.role == Role::kShared || input.role == Role::kTimed;
      });
}

// The maker's inputs come first; its outputs are the loop's inputs at `places`.
template <bool kAhead>
ffi::Error two_loops(ffi::ThreadPool pool, ffi::RemainingArgs args,
                     ffi::RemainingRets rets,
                     ffi::Span<const int64_t> maker_code,
                     ffi::Span<const float> maker_numbers,
                     ffi::Span<const int64_t> code,
                     ffi::Span<const float> numbers,
                     ffi::Span<const int64_t> places, int64_t batch) {
  const char* const target =
      kAhead ? "rnnjax_loop_ahead" : "rnnjax_remade_loop";
  LoopBuffers maker(target, maker_code, maker_numbers, batch);
  LoopBuffers loop(target, code, numbers, batch);
  const Program &makes = maker.program(), &reads = loop.program();
  const int64_t count = places.size();
  if (kAhead && (!is_alone(makes) || makes.outputs != count)) {
    return ffi::Error::InvalidArgument(
        "rnnjax_loop_ahead: what is made ahead is not of one step alone.");
  }
  if (static_cast<int64_t>(args.size()) !=
          makes.inputs + reads.inputs - count ||
      static_cast<int64_t>(rets.size()) != reads.outputs ||
      count > makes.outputs || makes.length != reads.length) {
    return loop.wrong("the number of buffers", args.size());
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = places.begin()[i];
    if (place < 0 || place >= reads.inputs) return loop.wrong("place", i);
    const Output& made = makes.output[makes.outputs - count + i];
    const Input& read = reads.input[place];
    if (made.role != Role::kTimed || read.role != Role::kTimed || made.flags ||
        read.flags || made.size != read.size) {
      return loop.wrong("place", i);
    }
  }
  size_t next = 0;
  for (int64_t i = 0; i < makes.inputs; ++i) {
    if (auto error = maker.input(args, &next)) return *error;
  }
  for (int64_t i = 0; i < reads.inputs; ++i) {
    const bool absent =
        std::find(places.begin(), places.end(), i) != places.end();
    if (auto error = loop.input(args, &next, absent)) return *error;
  }
  for (int64_t i = 0; i < reads.outputs; ++i) {
    if (auto error = loop.output(rets)) return *error;
  }
  maker.no_outputs();
  if (batch == 0) return ffi::Error::Success();
  const PairCall call{maker.call(), loop.call(), count, places.begin()};
  const Kernels* kernels = active.load();
  return run(pool, call, kAhead ? kernels->ahead : kernels->remade);
}

constexpr auto remade_loop = two_loops<false>;
constexpr auto loop_ahead = two_loops<true>;

constexpr const char* kOperations[] = {
#define RNNJAX_OPERATION(name) #name,
    RNNJAX_OPERATIONS(RNNJAX_OPERATION)
#undef RNNJAX_OPERATION
};

}  // namespace
}  // namespace rnnjax

// ---- what the library exports ----------------------------------------------

#define RNNJAX_EXPORT extern "C" __attribute__((visibility("default")))

// Chooses an instruction set by name, or the widest for null, and returns the
// name of the one in use; null when this machine does not have it.
RNNJAX_EXPORT const char* rnnjax_use(const char* name) {
  const rnnjax::Kernels* kernels = rnnjax::find_kernels(name);
  if (kernels == nullptr) return nullptr;
  rnnjax::active = kernels;
  return kernels->name;
}

// The version of XLA's interface that this library was compiled for. A jaxlib
// accepts its own and older ones.
RNNJAX_EXPORT int rnnjax_ffi_major() { return XLA_FFI_API_MAJOR; }
RNNJAX_EXPORT int rnnjax_ffi_minor() { return XLA_FFI_API_MINOR; }

// Whether there are kernels of this cell.
RNNJAX_EXPORT bool rnnjax_has(const char* cell) {
  return rnnjax::find_cell(cell) != nullptr;
}

// The engine's elementwise operations in their order, then null.
RNNJAX_EXPORT const char* rnnjax_operation(int i) {
  constexpr int count = sizeof(rnnjax::kOperations) / sizeof(const char*);
  return i < count ? rnnjax::kOperations[i] : nullptr;
}

// What XLA calls by this name, with its arguments, results and attributes.
#define RNNJAX_HANDLER(name, ...)                                        \
  RNNJAX_EXPORT XLA_FFI_Error* rnnjax_##name(XLA_FFI_CallFrame* frame) { \
    static auto* handler = xla::ffi::Ffi::Bind()                         \
                               .Ctx<xla::ffi::ThreadPool>()              \
                                   __VA_ARGS__.To(rnnjax::name)          \
                               .release();                               \
    return handler->Call(frame);                                         \
  }

RNNJAX_HANDLER(forward, .RemainingArgs()
                            .RemainingRets()
                            .Attr<std::string_view>("cell")
                            .Attr<bool>("reverse")
                            .Attr<bool>("residuals"))

RNNJAX_HANDLER(backward, .RemainingArgs()
                             .RemainingRets()
                             .Attr<std::string_view>("cell")
                             .Attr<bool>("reverse"))

RNNJAX_HANDLER(weight_product, .Arg<xla::ffi::AnyBuffer>()
                                   .Arg<xla::ffi::AnyBuffer>()
                                   .Arg<xla::ffi::AnyBuffer>()
                                   .Arg<xla::ffi::AnyBuffer>()
                                   .Ret<xla::ffi::AnyBuffer>()
                                   .Attr<bool>("turned"))

RNNJAX_HANDLER(weight_gradient, .Arg<xla::ffi::AnyBuffer>()
                                    .Arg<xla::ffi::AnyBuffer>()
                                    .Arg<xla::ffi::AnyBuffer>()
                                    .Ret<xla::ffi::AnyBuffer>())

RNNJAX_HANDLER(cross_entropy, .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>())

RNNJAX_HANDLER(cross_entropy_gradient, .Arg<xla::ffi::AnyBuffer>()
                                           .Arg<xla::ffi::AnyBuffer>()
                                           .Arg<xla::ffi::AnyBuffer>()
                                           .Arg<xla::ffi::AnyBuffer>()
                                           .Ret<xla::ffi::AnyBuffer>())

RNNJAX_HANDLER(linear, .Arg<xla::ffi::AnyBuffer>()
                           .Arg<xla::ffi::AnyBuffer>()
                           .Ret<xla::ffi::AnyBuffer>()
                           .Attr<bool>("reverse"))

RNNJAX_HANDLER(loop, .RemainingArgs()
                         .RemainingRets()
                         .Attr<xla::ffi::Span<const int64_t>>("code")
                         .Attr<xla::ffi::Span<const float>>("numbers")
                         .Attr<int64_t>("batch"))

#define RNNJAX_TWO_LOOPS(name)                                                 \
  RNNJAX_HANDLER(name, .RemainingArgs()                                        \
                           .RemainingRets()                                    \
                           .Attr<xla::ffi::Span<const int64_t>>("maker_code")  \
                           .Attr<xla::ffi::Span<const float>>("maker_numbers") \
                           .Attr<xla::ffi::Span<const int64_t>>("code")        \
                           .Attr<xla::ffi::Span<const float>>("numbers")       \
                           .Attr<xla::ffi::Span<const int64_t>>("places")      \
                           .Attr<int64_t>("batch"))
RNNJAX_TWO_LOOPS(remade_loop)
RNNJAX_TWO_LOOPS(loop_ahead)
