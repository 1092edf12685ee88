"""A carry as one array, the numbers that see each other on its last axis."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Units(NamedTuple):
    """Leaves as one array ``(*units, m)``, and back."""

    join: Callable[[Sequence[Array]], Array]
    split: Callable[[Array], list[Array]]


def units(leaves: Sequence[Any], apart: tuple[int, ...]) -> Units:
    """Put the axes ``apart`` in front, and all others of all leaves on the last axis.

    Without axes apart the leaves may have any shapes.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals.units import units
    >>> leaves = [jnp.zeros((2, 3)), jnp.zeros((2, 3))]
    >>> [units(leaves, apart).join(leaves).shape for apart in [(0, 1), (1,), ()]]
    [(2, 3, 2), (3, 4), (12,)]
    """
    shapes, dtypes = [a.shape for a in leaves], [a.dtype for a in leaves]
    common = jnp.result_type(*dtypes)
    ends = list(itertools.accumulate(map(math.prod, shapes)))[:-1]
    order = [*apart, *(i for i in range(len(shapes[0])) if i not in apart)]
    inverse = [order.index(i) for i in range(len(order))]
    kept = [shapes[0][i] for i in apart]
    moved = [shapes[0][i] for i in order]

    def join(leaves):
        wide = [a.astype(common) for a in leaves]
        if not apart:
            return jnp.concatenate([a.ravel() for a in wide])
        rows = [a.transpose(order).reshape(*kept, -1) for a in wide]
        return jnp.concatenate(rows, -1)

    def split(h):
        if apart:
            parts = jnp.split(h, len(shapes), -1)
            leaves = [a.reshape(moved).transpose(inverse) for a in parts]
        else:
            parts = jnp.split(h, ends)
            leaves = [a.reshape(s) for a, s in zip(parts, shapes, strict=True)]
        return [a.astype(d) for a, d in zip(leaves, dtypes, strict=True)]

    return Units(join, split)
