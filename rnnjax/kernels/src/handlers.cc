// The entry points that XLA calls, and the choice of an instruction set.

#include <atomic>

#include "buffers.h"
#include "host.h"
#include "problem.h"

namespace rnnjax {
namespace {

std::atomic<const Kernels*> active{nullptr};

using In = const void*;
using Out = void*;
using ForwardIn = Field<Forward, In>;
using ForwardOut = Field<Forward, Out>;
using BackwardIn = Field<Backward, In>;
using BackwardOut = Field<Backward, Out>;

constexpr Presence kOptional = Presence::kOptional;
constexpr Presence kWithReset = Presence::kWithReset;

// What a target takes and gives, in order.
template <class Input, class Output>
struct Signature {
  const char* target;
  Widths widths;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
};

using ForwardSignature = Signature<ForwardIn, ForwardOut>;
using BackwardSignature = Signature<BackwardIn, BackwardOut>;

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
  if (problem.size.batch == 0 || problem.size.hidden == 0) {
    return ffi::Error::Success();
  }
  try {
    PoolHost<ffi::ThreadPool> host(pool);
    (active.load()->*kernel)(problem, host);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "rnnjax: out of memory for packed weights and carries.");
  }
  return ffi::Error::Success();
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
  return run(pool, problem, kernel);
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
  return run(pool, problem, kernel);
}

// The same target with what the backward pass will want.
ForwardSignature with(ForwardSignature signature, const char* target,
                      const std::vector<ForwardOut>& residuals) {
  signature.target = target;
  signature.outputs.insert(signature.outputs.end(), residuals.begin(),
                           residuals.end());
  return signature;
}

// ---- the signatures -------------------------------------------------------

const ForwardIn kForwardMask = {"mask", "BT", nullptr, kOptional,
                                &Forward::mask};
const ForwardIn kForwardReset = {"reset", "BT", nullptr, kOptional,
                                 &Forward::reset};
const BackwardIn kBackwardMask = {"mask", "BT", nullptr, kOptional,
                                  &Backward::mask};
const BackwardIn kBackwardReset = {"reset", "BT", nullptr, kOptional,
                                   &Backward::reset};

const ForwardSignature kLstmForward = {
    "rnnjax_lstm_forward",
    {4, 4},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"c0", "BH", &Forward::c0},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"c_reset", "BH", &Forward::c_reset, kWithReset},
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys},
     {"c_T", "BH", &Forward::c_last},
     {"h_T", "BH", &Forward::h_last}}};
const ForwardSignature kLstmForwardResiduals =
    with(kLstmForward, "rnnjax_lstm_forward_residuals",
         {{"gates", "BTS", &Forward::saved},
          {"c_prev", "BTH", &Forward::c_prev},
          {"h_prev", "BTH", &Forward::h_prev}});
const BackwardSignature kLstmBackward = {
    "rnnjax_lstm_backward",
    {4, 4},
    {{"gates", "BTS", &Backward::saved},
     {"c_prev", "BTH", &Backward::prev},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dc_T", "BH", &Backward::dc_last},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dz", "BTS", &Backward::dz},
     {"dc0", "BH", &Backward::dc0},
     {"dh0", "BH", &Backward::dh0},
     {"dc_reset", "BH", &Backward::dc_reset, kWithReset},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

const ForwardSignature kGruForward = {
    "rnnjax_gru_forward",
    {3, 4},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"b_hn", "H", &Forward::bias_hn},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys}, {"h_T", "BH", &Forward::h_last}}};
const ForwardSignature kGruForwardResiduals =
    with(kGruForward, "rnnjax_gru_forward_residuals",
         {{"gates", "BTS", &Forward::saved},
          {"h_prev", "BTH", &Forward::h_prev}});
const BackwardSignature kGruBackward = {
    "rnnjax_gru_backward",
    {3, 4},
    {{"gates", "BTS", &Backward::saved},
     {"h_prev", "BTH", &Backward::prev},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dpre", "BTS", &Backward::dz},
     {"dh0", "BH", &Backward::dh0},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

const ForwardSignature kElmanForward = {
    "rnnjax_elman_forward",
    {1, 1},
    {{"xs", "BTI", &Forward::xs},
     {"w_ih", "IG", &Forward::w_ih},
     {"w_hh", "HG", &Forward::w_hh},
     {"b", "G", &Forward::bias},
     {"h0", "BH", &Forward::h0},
     kForwardMask,
     kForwardReset,
     {"h_reset", "BH", &Forward::h_reset, kWithReset}},
    {{"ys", "BTH", &Forward::ys}, {"h_T", "BH", &Forward::h_last}}};
const ForwardSignature kElmanForwardResiduals =
    with(kElmanForward, "rnnjax_elman_forward_residuals",
         {{"h_new", "BTS", &Forward::saved},
          {"h_prev", "BTH", &Forward::h_prev}});
const BackwardSignature kElmanBackward = {
    "rnnjax_elman_backward",
    {1, 1},
    {{"h_new", "BTS", &Backward::saved},
     {"w_hh", "HG", &Backward::w_hh},
     kBackwardMask,
     kBackwardReset,
     {"dys", "BTH", &Backward::dys},
     {"dh_T", "BH", &Backward::dh_last}},
    {{"dz", "BTS", &Backward::dz},
     {"dh0", "BH", &Backward::dh0},
     {"dh_reset", "BH", &Backward::dh_reset, kWithReset}}};

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
