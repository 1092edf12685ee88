// The kernels of one instruction set: this file is compiled once for each,
// with RNNJAX_ISA set to its name and the compiler's flags to match.

#include "backward.h"
#include "forward.h"
#include "weight_gradient.h"

#define RNNJAX_STRING_(x) #x
#define RNNJAX_STRING(x) RNNJAX_STRING_(x)

namespace rnnjax::RNNJAX_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    RNNJAX_STRING(RNNJAX_ISA), run_forward<Lstm>,  run_backward<Lstm>,
    run_forward<Gru>,          run_backward<Gru>,  run_forward<Elman>,
    run_backward<Elman>,       run_weight_gradient,
};

}  // namespace rnnjax::RNNJAX_ISA
