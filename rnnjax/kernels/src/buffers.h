// Takes the buffers of a call one after the other, and checks each.

#ifndef RNNJAX_BUFFERS_H_
#define RNNJAX_BUFFERS_H_

#include <optional>
#include <string>
#include <vector>

#include "host.h"
#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace rnnjax {

namespace ffi = ::xla::ffi;

inline std::string describe(const ffi::AnyBuffer::Dimensions& dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(dims[i]);
  }
  return text + (dims.size() == 1 ? ",)" : ")");
}

inline std::string describe(ffi::DataType dtype) {
  switch (dtype) {
    case ffi::F32: return "float32";
    case ffi::F64: return "float64";
    case ffi::F16: return "float16";
    case ffi::BF16: return "bfloat16";
    case ffi::S32: return "int32";
    case ffi::PRED: return "bool";
    default: return "type " + std::to_string(static_cast<int>(dtype));
  }
}

// The shape of a buffer, which may have two axes of one element after that of
// the batch: XLA divides a batch over devices in arrays of three axes or more
// alone, so that weights, which have two, stay whole (see
// rnnjax/kernels/partitioning.py).
inline std::vector<int64_t> shape_of(const ffi::AnyBuffer& buffer) {
  const auto dims = buffer.dimensions();
  std::vector<int64_t> shape(dims.begin(), dims.end());
  if (shape.size() > 3 && shape[1] == 1 && shape[2] == 1) {
    shape.erase(shape.begin() + 1, shape.begin() + 3);
  }
  return shape;
}

// A dimension is a letter: B, T, I, H as in `Sizes`, G for all columns of the
// weights and S for all saved values of a step. Flags, and what belongs to
// those of the reset, may be absent, as an array of shape (0,).
class Buffers {
 public:
  Buffers(const char* target, const Facts& cell, ffi::RemainingArgs args,
          ffi::RemainingRets rets)
      : call_(std::string(target) + " of " + cell.name),
        cell_(cell),
        args_(args),
        rets_(rets) {}

  // Reads sizes and dtype off two arguments, of shapes (B, T, …) and (H, …).
  template <class Problem>
  void measure(Problem& problem, const char* timed, const char* weights,
               size_t place_of_weights) {
    if (args_.size() <= place_of_weights) return;  // `error` tells
    const ffi::AnyBuffer first = *args_.get<ffi::AnyBuffer>(0);
    const auto time = shape_of(first);
    const auto hidden =
        args_.get<ffi::AnyBuffer>(place_of_weights)->dimensions();
    dtype_ = first.element_type();
    if (time.size() != 3) {
      fail(std::string(timed) + " has shape " + describe(first.dimensions()) +
           ", expected three dimensions: batch, time and features");
    } else if (hidden.size() != 2) {
      fail(std::string(weights) + " has shape " + describe(hidden) +
           ", expected two dimensions: units and columns");
    } else if (dtype_ != ffi::F32 && dtype_ != ffi::BF16) {
      fail(std::string(timed) + " is " + describe(dtype_) +
           ", expected float32 or bfloat16");
    } else {
      size_ = {time[0], time[1], time[2], hidden[0]};
      problem.size = size_;
      problem.bfloat16 = dtype_ == ffi::BF16;
    }
  }

  const void* in(const char* name, const char* shape) {
    return check(name, shape, next_argument(), dtype_, false);
  }

  const uint8_t* mask() { return flags("mask"); }

  const uint8_t* reset() {
    const uint8_t* reset = flags("reset");
    has_reset_ = reset != nullptr;
    return reset;
  }

  // What is there exactly when the reset is.
  const void* in_with_reset(const char* name, const char* shape) {
    return with_reset(name, shape, next_argument());
  }

  void* out(const char* name, const char* shape) {
    const Buffer buffer = next_result();
    void* const address = check(name, shape, buffer, dtype_, false);
    if (address) prefer_huge_pages(address, buffer->size_bytes());
    return address;
  }

  void* out_with_reset(const char* name, const char* shape) {
    return with_reset(name, shape, next_result());
  }

  // The first thing that is wrong, but first of all a wrong number of buffers.
  ffi::Error error() const {
    if (args_.size() != arguments_) {
      return count_error("arguments", args_.size(), arguments_);
    }
    if (rets_.size() != results_) {
      return count_error("results", rets_.size(), results_);
    }
    return error_;
  }

 private:
  using Buffer = std::optional<ffi::AnyBuffer>;

  Buffer next_argument() {
    const size_t place = arguments_++;
    if (place >= args_.size()) return {};
    return *args_.get<ffi::AnyBuffer>(place);
  }

  Buffer next_result() {
    const size_t place = results_++;
    if (place >= rets_.size()) return {};
    return **rets_.get<ffi::AnyBuffer>(place);
  }

  const uint8_t* flags(const char* name) {
    return static_cast<const uint8_t*>(
        check(name, "BT", next_argument(), ffi::PRED, true));
  }

  void* with_reset(const char* name, const char* shape, Buffer buffer) {
    if (has_reset_) return check(name, shape, buffer, dtype_, false);
    if (buffer && !is_absent(*buffer)) {
      fail(std::string(name) + " has shape " + describe(buffer->dimensions()) +
           ", expected (0,) because reset is absent");
    }
    return nullptr;
  }

  static bool is_absent(const ffi::AnyBuffer& buffer) {
    const auto dims = buffer.dimensions();
    return dims.size() == 1 && dims[0] == 0;
  }

  // The buffer's address, or null when it is absent or wrong.
  void* check(const char* name, const char* shape, Buffer buffer,
              ffi::DataType dtype, bool optional) {
    if (!buffer || (optional && is_absent(*buffer))) return nullptr;
    std::vector<int64_t> extents;
    for (const char* letter = shape; *letter; ++letter) {
      extents.push_back(extent(*letter));
    }
    if (shape_of(*buffer) != extents) {
      const ffi::Span<const int64_t> expected(extents.data(), extents.size());
      fail(std::string(name) + " has shape " + describe(buffer->dimensions()) +
           ", expected " + describe(expected));
      return nullptr;
    }
    if (buffer->element_type() != dtype) {
      fail(std::string(name) + " is " + describe(buffer->element_type()) +
           ", expected " + describe(dtype));
      return nullptr;
    }
    // An array without elements may have no address, but it is not absent.
    static char nothing;
    void* address = buffer->untyped_data();
    return address ? address : &nothing;
  }

  int64_t extent(char letter) const {
    switch (letter) {
      case 'B': return size_.batch;
      case 'T': return size_.time;
      case 'I': return size_.input;
      case 'G': return cell_.columns * size_.hidden;
      case 'S': return cell_.saved * size_.hidden;
      default: return size_.hidden;
    }
  }

  void fail(const std::string& what) {
    if (error_.success()) {
      error_ = ffi::Error::InvalidArgument(call_ + ": " + what + ".");
    }
  }

  ffi::Error count_error(const char* what, size_t got, size_t expected) const {
    return ffi::Error::InvalidArgument(call_ + ": got " + std::to_string(got) +
                                       " " + what + ", expected " +
                                       std::to_string(expected) + ".");
  }

  const std::string call_;
  const Facts& cell_;
  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
  Sizes size_{};
  ffi::DataType dtype_ = ffi::DataType::INVALID;
  bool has_reset_ = false;
  size_t arguments_ = 0, results_ = 0;
  ffi::Error error_;
};

}  // namespace rnnjax

#endif  // RNNJAX_BUFFERS_H_
