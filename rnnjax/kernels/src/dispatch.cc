#include <cstring>

#include "problem.h"

namespace rnnjax {

// A library for one test leaves out all but the portable set.
#if defined(__x86_64__) && !defined(RNNJAX_PORTABLE_ALONE)
#define RNNJAX_X86_SETS
#endif

#if defined(RNNJAX_X86_SETS)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#endif
namespace portable {
extern const Kernels kernels;
}

const Kernels* find_kernels(const char* name) {
  const auto wanted = [name](const Kernels& kernels) {
    return name == nullptr || std::strcmp(name, kernels.name) == 0;
  };
#if defined(RNNJAX_X86_SETS)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && wanted(avx512::kernels)) {
    return &avx512::kernels;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      wanted(avx2::kernels)) {
    return &avx2::kernels;
  }
#endif
  return wanted(portable::kernels) ? &portable::kernels : nullptr;
}

}  // namespace rnnjax
