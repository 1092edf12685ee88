"""The traversals: how time is walked, in one place and not in the cells.

Each takes a recurrence as two functions of one example, ``project(params, x) -> z`` for
what does not depend on the carry and ``step(params, carry, z) -> (carry, y)`` for what
does. All agree in values and gradients; they differ only in speed and memory. Each has
its own module in ``rnnjax.traversals``.
"""

import jax

from rnnjax.signals import (
    Traversal,
    flip,
    split_key,
    split_reset,
    zero_padding,
)
from rnnjax.traversals.affine import associative, chunked
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


def default(project, step, params, carry, xs, *, mask=None, reset=None):
    """The traversal for any step: `fused` on a CPU, `deferred` elsewhere.

    Cells that have a kernel use it instead, see `rnnjax.kernels`. ``docs/design.md``
    has the figures for this choice.

    >>> import rnnjax
    >>> rnnjax.lstm(3, 4) == rnnjax.lstm(3, 4, traversal=rnnjax.scan.default)
    False
    """
    walk = fused if jax.default_backend() == "cpu" else deferred
    return walk(project, step, params, carry, xs, mask=mask, reset=reset)
