"""One step of a cell as a function of its params and of its state as a vector."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from rnnjax import floats
from rnnjax.cell import Carry, Cell, Params

Move = Callable[[Params, Array], tuple[Array, Any]]
"""From params and a state, ``(n,)``, to the next state and the output."""


class Place(NamedTuple):
    """Where a step is differentiated."""

    cell: Cell
    params: Params
    carry: Carry
    x: Any

    @property
    def state(self) -> Array:
        """The carry, ``(n,)``."""
        return floats.vector(self.carry)[0]

    def move(self, params: Params, state: Array) -> tuple[Array, Any]:
        """The state after the step, and the output."""
        put = floats.vector(self.carry)[1]
        after, y = self.cell.step(params, put(state), self.x)
        return floats.vector(after)[0], y

    def first(self, params: Params) -> Array:
        """The initial state."""
        return floats.vector(self.cell.initial_carry(params))[0]


def whole(place: Place) -> Move:
    """The step as it is."""
    return place.move
