// The entry points that XLA calls, and the choice of an instruction set.

#include <atomic>

#include "buffers.h"
#include "host.h"
#include "problem.h"
#include "signatures.h"

namespace rnnjax {
namespace {

std::atomic<const Kernels*> active{nullptr};

template <class Buffers>
ffi::Error check_count(const char* target, const char* what,
                       const Buffers& buffers, size_t expected) {
  if (buffers.size() == expected) return ffi::Error::Success();
  return ffi::Error::InvalidArgument(
      std::string(target) + ": got " + std::to_string(buffers.size()) + " " +
      what + ", expected " + std::to_string(expected) + ".");
}

// Reads sizes and dtype off two buffers that tell them, `tells_time` with
// shape (B, T, I or H) and `tells_hidden` with H last; then checks all.
template <class Problem, class S>
ffi::Error read(const S& signature, ffi::RemainingArgs args,
                ffi::RemainingRets rets, size_t tells_time,
                size_t tells_hidden, Problem& problem) {
  const auto arg = [&](size_t i) { return *args.get<ffi::AnyBuffer>(i); };
  if (ffi::Error error = check_count(signature.target, "arguments", args,
                                     signature.inputs.size());
      error.failure()) {
    return error;
  }
  if (ffi::Error error = check_count(signature.target, "results", rets,
                                     signature.outputs.size());
      error.failure()) {
    return error;
  }
  const auto time_dims = arg(tells_time).dimensions();
  const auto hidden_dims = arg(tells_hidden).dimensions();
  const ffi::DataType dtype = arg(tells_time).element_type();
  Checker checker(signature.target,
                  time_dims.size() == 3 && hidden_dims.size() >= 1
                      ? Sizes{time_dims[0], time_dims[1], time_dims[2],
                              hidden_dims.back()}
                      : Sizes{},
                  signature.widths, dtype);
  if (time_dims.size() != 3) {
    checker.fail(std::string(signature.inputs[tells_time].name) +
                 " has shape " + describe(time_dims) +
                 ", expected three dimensions: batch, time and features");
  } else if (hidden_dims.size() < 1) {
    checker.fail(std::string(signature.inputs[tells_hidden].name) +
                 " is a scalar, expected hidden units on its last dimension");
  } else if (dtype != ffi::F32 && dtype != ffi::BF16) {
    checker.fail(std::string(signature.inputs[tells_time].name) + " is " +
                 describe(dtype) + ", expected float32 or bfloat16");
  } else {
    problem.size = {time_dims[0], time_dims[1], time_dims[2],
                    hidden_dims.back()};
    problem.bfloat16 = dtype == ffi::BF16;
    for (size_t i = 0; i < signature.inputs.size(); ++i) {
      const auto& field = signature.inputs[i];
      const void* address = checker.check(field, arg(i));
      if (field.flags) {
        problem.*field.flags = static_cast<const uint8_t*>(address);
      } else {
        problem.*field.data = address;
      }
    }
    for (size_t i = 0; i < signature.outputs.size(); ++i) {
      const auto& field = signature.outputs[i];
      problem.*field.data =
          checker.check(field, **rets.get<ffi::AnyBuffer>(i));
    }
  }
  return checker.error();
}

template <class Problem>
ffi::Error run(ffi::ThreadPool pool, const Problem& problem,
               void (*Kernels::*kernel)(const Problem&, Host&)) {
  try {
    PoolHost<ffi::ThreadPool> host(pool);
    (active.load()->*kernel)(problem, host);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "rnnjax: out of memory for packed weights and carries.");
  }
  return ffi::Error::Success();
}

// Runs a kernel over time, if there is anything to walk over.
template <class Problem>
ffi::Error walk(ffi::ThreadPool pool, const Problem& problem,
                void (*Kernels::*kernel)(const Problem&, Host&)) {
  if (problem.size.batch == 0 || problem.size.hidden == 0) {
    return ffi::Error::Success();
  }
  return run(pool, problem, kernel);
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args,
                   ffi::RemainingRets rets, bool relu,
                   const ForwardSignature& signature, size_t h0,
                   void (*Kernels::*kernel)(const Forward&, Host&)) {
  Forward problem{};
  problem.relu = relu;
  if (ffi::Error error = read(signature, args, rets, 0, h0, problem);
      error.failure()) {
    return error;
  }
  return walk(pool, problem, kernel);
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args,
                    ffi::RemainingRets rets, bool relu,
                    const BackwardSignature& signature, size_t dys,
                    void (*Kernels::*kernel)(const Backward&, Host&)) {
  Backward problem{};
  problem.relu = relu;
  if (ffi::Error error = read(signature, args, rets, dys, dys, problem);
      error.failure()) {
    return error;
  }
  return walk(pool, problem, kernel);
}

ffi::Error weight_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x,
                           ffi::AnyBuffer dz,
                           ffi::Result<ffi::AnyBuffer> d_w) {
  const auto wrong = [](const char* name, const ffi::AnyBuffer& buffer,
                        const char* expected) {
    return ffi::Error::InvalidArgument(
        std::string("rnnjax_weight_gradient: ") + name + " is " +
        describe(buffer.element_type()) + " of shape " +
        describe(buffer.dimensions()) + ", expected " + expected + ".");
  };
  const ffi::DataType dtype = x.element_type();
  if (x.dimensions().size() != 2 || (dtype != ffi::F32 && dtype != ffi::BF16)) {
    return wrong("x", x, "float32 or bfloat16 of two dimensions");
  }
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1];
  if (dz.element_type() != dtype || dz.dimensions().size() != 2 ||
      dz.dimensions()[0] != rows) {
    return wrong("dz", dz, "the dtype and the rows of x in two dimensions");
  }
  const int64_t outputs = dz.dimensions()[1];
  if (d_w->element_type() != dtype || d_w->dimensions().size() != 2 ||
      d_w->dimensions()[0] != inputs || d_w->dimensions()[1] != outputs) {
    return wrong("d_w", *d_w, "the dtype of x, and (columns of x, of dz)");
  }
  const WeightGradient problem{rows,
                               inputs,
                               outputs,
                               dtype == ffi::BF16,
                               x.untyped_data(),
                               dz.untyped_data(),
                               d_w->untyped_data()};
  return run(pool, problem, &Kernels::weight_gradient);
}

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

#define RNNJAX_CELL(symbol, implementation)                               \
  RNNJAX_EXPORT XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {         \
    static auto* handler = xla::ffi::Ffi::Bind()                          \
                               .Ctx<xla::ffi::ThreadPool>()               \
                               .RemainingArgs()                           \
                               .RemainingRets()                           \
                               .To([](xla::ffi::ThreadPool pool,          \
                                      xla::ffi::RemainingArgs args,       \
                                      xla::ffi::RemainingRets rets) {     \
                                 using namespace rnnjax;                  \
                                 const bool relu = false;                 \
                                 return implementation;                   \
                               })                                         \
                               .release();                                \
    return handler->Call(frame);                                          \
  }

#define RNNJAX_ELMAN(symbol, implementation)                              \
  RNNJAX_EXPORT XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {         \
    static auto* handler = xla::ffi::Ffi::Bind()                          \
                               .Ctx<xla::ffi::ThreadPool>()               \
                               .RemainingArgs()                           \
                               .RemainingRets()                           \
                               .Attr<bool>("relu")                        \
                               .To([](xla::ffi::ThreadPool pool,          \
                                      xla::ffi::RemainingArgs args,       \
                                      xla::ffi::RemainingRets rets,       \
                                      bool relu) {                        \
                                 using namespace rnnjax;                  \
                                 return implementation;                   \
                               })                                         \
                               .release();                                \
    return handler->Call(frame);                                          \
  }

RNNJAX_CELL(rnnjax_lstm_forward,
            forward(pool, args, rets, relu, kLstmForward, 5,
                    &Kernels::lstm_forward))
RNNJAX_CELL(rnnjax_lstm_forward_residuals,
            forward(pool, args, rets, relu, kLstmForwardResiduals, 5,
                    &Kernels::lstm_forward))
RNNJAX_CELL(rnnjax_lstm_backward,
            backward(pool, args, rets, relu, kLstmBackward, 5,
                     &Kernels::lstm_backward))
RNNJAX_CELL(rnnjax_gru_forward,
            forward(pool, args, rets, relu, kGruForward, 5,
                    &Kernels::gru_forward))
RNNJAX_CELL(rnnjax_gru_forward_residuals,
            forward(pool, args, rets, relu, kGruForwardResiduals, 5,
                    &Kernels::gru_forward))
RNNJAX_CELL(rnnjax_gru_backward,
            backward(pool, args, rets, relu, kGruBackward, 5,
                     &Kernels::gru_backward))
RNNJAX_ELMAN(rnnjax_elman_forward,
             forward(pool, args, rets, relu, kElmanForward, 4,
                     &Kernels::elman_forward))
RNNJAX_ELMAN(rnnjax_elman_forward_residuals,
             forward(pool, args, rets, relu, kElmanForwardResiduals, 4,
                     &Kernels::elman_forward))
RNNJAX_ELMAN(rnnjax_elman_backward,
             backward(pool, args, rets, relu, kElmanBackward, 4,
                      &Kernels::elman_backward))

RNNJAX_EXPORT XLA_FFI_Error* rnnjax_weight_gradient(XLA_FFI_CallFrame* frame) {
  static auto* handler = xla::ffi::Ffi::Bind()
                             .Ctx<xla::ffi::ThreadPool>()
                             .Arg<xla::ffi::AnyBuffer>()
                             .Arg<xla::ffi::AnyBuffer>()
                             .Ret<xla::ffi::AnyBuffer>()
                             .To(rnnjax::weight_gradient)
                             .release();
  return handler->Call(frame);
}
