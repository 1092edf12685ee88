// Checks every buffer of a call against one table, and fills in the problem.

#ifndef RNNJAX_BUFFERS_H_
#define RNNJAX_BUFFERS_H_

#include <string>
#include <vector>

#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace rnnjax {

namespace ffi = ::xla::ffi;

// A dimension is a letter: B, T, I, H as in `Sizes`; G stands for all gates
// of the weights (gates * H) and S for all saved values of a step (saved * H).
// `Data` and `Flag` say which member of the problem the buffer goes to.
// An optional buffer is absent as an array of shape (0,); those that belong to
// the reset flags are there exactly when the flags are.
enum class Presence { kAlways, kOptional, kWithReset };

template <class Problem, class Data>
struct Field {
  const char* name;
  const char* shape;
  Data Problem::*data;
  Presence presence = Presence::kAlways;
  const uint8_t* Problem::*flags = nullptr;
};

struct Widths {
  int gates, saved;
};

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
    case ffi::PRED: return "bool";
    default: return "type " + std::to_string(static_cast<int>(dtype));
  }
}

// Remembers the first thing that is wrong with a call.
class Checker {
 public:
  Checker(const char* target, Sizes size, Widths widths, ffi::DataType dtype)
      : target_(target), size_(size), widths_(widths), dtype_(dtype) {}

  // The buffer's address, or null when it is absent or wrong.
  template <class F>
  void* check(const F& field, const ffi::AnyBuffer& buffer) {
    const auto dims = buffer.dimensions();
    const bool absent = dims.size() == 1 && dims[0] == 0;
    const bool wanted = field.presence == Presence::kAlways ||
                        (field.presence == Presence::kWithReset && has_reset_);
    if (!wanted && absent) return nullptr;
    if (field.presence == Presence::kWithReset && !has_reset_) {
      fail(std::string(field.name) + " has shape " + describe(dims) +
           ", expected (0,) because reset is absent");
      return nullptr;
    }
    std::vector<int64_t> expected;
    for (const char* letter = field.shape; *letter; ++letter) {
      expected.push_back(extent(*letter));
    }
    const ffi::Span<const int64_t> shape(expected.data(), expected.size());
    if (!(dims == shape)) {
      fail(std::string(field.name) + " has shape " + describe(dims) +
           ", expected " + describe(shape));
      return nullptr;
    }
    const ffi::DataType dtype = field.flags ? ffi::PRED : dtype_;
    if (buffer.element_type() != dtype) {
      fail(std::string(field.name) + " is " + describe(buffer.element_type()) +
           ", expected " + describe(dtype));
      return nullptr;
    }
    if (std::string_view(field.name) == "reset") has_reset_ = true;
    // An array without elements may have no address, but it is not absent.
    static char nothing;
    return buffer.untyped_data() ? buffer.untyped_data() : &nothing;
  }

  void fail(const std::string& what) {
    if (error_.success()) {
      error_ = ffi::Error::InvalidArgument(std::string(target_) + ": " + what +
                                           ".");
    }
  }

  const ffi::Error& error() const { return error_; }

 private:
  int64_t extent(char letter) const {
    switch (letter) {
      case 'B': return size_.batch;
      case 'T': return size_.time;
      case 'I': return size_.input;
      case 'G': return widths_.gates * size_.hidden;
      case 'S': return widths_.saved * size_.hidden;
      default: return size_.hidden;
    }
  }

  const char* target_;
  const Sizes size_;
  const Widths widths_;
  const ffi::DataType dtype_;
  bool has_reset_ = false;
  ffi::Error error_;
};

}  // namespace rnnjax

#endif  // RNNJAX_BUFFERS_H_
