"""The state of a cell as one vector, and its step as a map of vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from rnnjax import checks, forms
from rnnjax.cell import Carry, Cell, Params

Map = Callable[[Array, Any], Array]
"""From a state, ``(n,)``, and an input of one step to the next state."""


def start(cell: Cell, params: Params, carry: Carry) -> Carry:
    """The carry, where it is one of the cell's and has derivatives."""
    checks.model(cell, params)
    carry = checks.carry(carry, cell.initial_carry(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"carry{jax.tree_util.keystr(path)} of {cell} is {forms.outline(leaf)};"
                " expected floating numbers alone: the others have no derivative. "
                "Write a cell whose carry is floating."
            )
    return carry


def vector(
    cell: Cell, params: Params, carry: Carry
) -> tuple[Array, Callable[[Array], Carry], Map]:
    """A carry as a vector, what turns vectors into carries, and the step of vectors."""
    state, carry_of = ravel_pytree(carry)

    def move(state: Array, x: Any) -> Array:
        return ravel_pytree(cell.step(params, carry_of(state), x)[0])[0]

    return state, carry_of, move
