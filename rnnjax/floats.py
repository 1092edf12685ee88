"""Leaves that have tangents, apart from those that have none.

Flags, counters and keys have no tangent: they are taken out of everything that is
differentiated and handed in beside it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree


def split(tree: Any) -> tuple[Any, Any]:
    """The floating leaves and the others, each with None in the other's places.

    >>> from rnnjax import floats
    >>> floats.split((1.0, True))
    ((1.0, None), (None, True))
    """
    floating = jax.tree.map(lambda a: a if _is_float(a) else None, tree)
    return floating, jax.tree.map(lambda a: None if _is_float(a) else a, tree)


def join(floating: Any, rest: Any) -> Any:
    """The tree that `split` took apart.

    >>> from rnnjax import floats
    >>> floats.join((1.0, None), (None, True))
    (1.0, True)
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a, floating, rest, is_leaf=lambda a: a is None
    )


def vector(tree: Any) -> tuple[Array, Callable[[Array], Any]]:
    """The floating leaves as one vector, and what puts another one in their places.

    >>> from rnnjax import floats
    >>> flat, put = floats.vector((1.0, True, 2.0))
    >>> flat.tolist(), [a.item() for a in put(3 * flat)]
    ([1.0, 2.0], [3.0, True, 6.0])
    """
    floating, rest = split(jax.tree.map(jnp.asarray, tree))
    flat, unravel = ravel_pytree(floating)
    return flat, lambda flat: join(unravel(flat), rest)


def tangents(given: Any) -> Any:
    """The tangents of floating leaves, from those that a rule of JAX is given.

    >>> import jax.numpy as jnp, numpy as np, jax
    >>> from rnnjax import floats
    >>> floats.tangents((np.zeros(2), np.zeros(2, jax.dtypes.float0)))
    (array([0., 0.]), None)
    """
    no_tangent = jax.dtypes.float0
    return jax.tree.map(lambda t: None if t.dtype == no_tangent else t, given)


def tangent(primal: Any, given: Any) -> Any:
    """The tangent of any leaf as JAX asks for it: zero, of no size, of all others.

    >>> import jax.numpy as jnp
    >>> from rnnjax import floats
    >>> floats.tangent(jnp.array(True), None).dtype.name
    'void'
    """
    if _is_float(primal):
        return given
    return np.zeros(jnp.shape(primal), jax.dtypes.float0)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
