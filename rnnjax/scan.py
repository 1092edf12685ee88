"""The traversals: how time is walked, in one place and not in the cells.

Each takes a recurrence as two functions of one example, ``project(params, x) -> z`` for
what does not depend on the carry and ``step(params, carry, z) -> (carry, y)`` for what
does. All agree in values and gradients; they differ only in speed and memory. Each has
its own module in ``rnnjax.traversals``.
"""

from rnnjax.kernels import native_loop
from rnnjax.signals import (
    Traversal,
    flip,
    split_key,
    split_reset,
    zero_padding,
)
from rnnjax.traversals.affine import associative, chunked
from rnnjax.traversals.by_scan import by_scan
from rnnjax.traversals.checkpointed import checkpointed
from rnnjax.traversals.deferred import deferred
from rnnjax.traversals.fused import fused
from rnnjax.traversals.hoisted import hoisted
from rnnjax.traversals.newton import Report, newton
from rnnjax.traversals.static import static

__all__ = [
    "Report",
    "Traversal",
    "associative",
    "by_scan",
    "checkpointed",
    "chunked",
    "default",
    "deferred",
    "flip",
    "fused",
    "hoisted",
    "newton",
    "split_key",
    "split_reset",
    "static",
    "zero_padding",
]


def default(project, step, params, carry, xs, *, mask=None, reset=None, reverse=False):
    """The traversal for any step: a native loop on a CPU, `by_scan` elsewhere.

    The native loop runs the program of the step by itself, row by row of the batch, and
    its gradient; that of the weights is one product over time and batch. Another dtype
    than float32, a mesh of devices, or a step with an operation that the loop does not
    have, walk by `by_scan`; `rnnjax.kernels.status` of a cell says which. Cells that
    have a kernel use it instead, see `rnnjax.kernels`. ``docs/design.md`` has the
    figures for this choice.

    >>> import rnnjax
    >>> rnnjax.lstm(3, 4) == rnnjax.lstm(3, 4, traversal=rnnjax.scan.default)
    False
    """
    beside = {"mask": mask, "reset": reset, "reverse": reverse}
    return native_loop.walk(project, step, params, carry, xs, **beside)
