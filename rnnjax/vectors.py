"""The floating leaves of a pytree as one vector."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree


def vector(tree: Any) -> tuple[Array, Callable[[Array], Any]]:
    """The floating leaves of a pytree as a vector, and what puts another in there.

    Leaves that are not floating, such as flags and counts, stay as they are.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    moves = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]
    flat, floating = ravel_pytree([a for a, m in zip(leaves, moves, strict=True) if m])

    def put(flat: Array) -> Any:
        new = iter(floating(flat))
        given = [next(new) if m else a for a, m in zip(leaves, moves, strict=True)]
        return jax.tree.unflatten(structure, given)

    return flat, put
