// The kernels of one instruction set: this file is compiled once for each,
// with RNNJAX_ISA set to its name and the compiler's flags to match.

#include "backward.h"
#include "cross_entropy.h"
#include "forward.h"
#include "linear.h"
#include "weight_gradient.h"
#include "weight_product.h"

#define RNNJAX_STRING_(x) #x
#define RNNJAX_STRING(x) RNNJAX_STRING_(x)

namespace rnnjax::RNNJAX_ISA {

template <class>
struct Table;

template <class... Cell>
struct Table<List<Cell...>> {
  static constexpr CellKernels kCells[] = {
      {{Cell::kName, Cell::kColumns, Cell::kSaved, Cell::kCarries, Cell::kReads,
        Cell::kJoined},
       run_forward<Cell>,
       run_backward<Cell>}...};
  static constexpr int kCount = sizeof...(Cell);
};

// In engine.cc.
void run_loop(const LoopCall&, Host&);
void run_remade(const PairCall&, Host&);
void run_ahead(const PairCall&, Host&);

extern const Kernels kernels;
const Kernels kernels = {RNNJAX_STRING(RNNJAX_ISA),
                         Table<Cells>::kCells,
                         Table<Cells>::kCount,
                         run_weight_product,
                         run_weight_gradient,
                         run_cross_entropy,
                         run_linear,
                         run_loop,
                         run_remade,
                         run_ahead};

}  // namespace rnnjax::RNNJAX_ISA
