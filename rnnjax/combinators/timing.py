"""The time between inputs, handed on from layer to layer."""

from typing import Any

from rnnjax import checks, forms, signals
from rnnjax.cell import Cell, constructor


@constructor
def passing_time(cell: Cell, *, timed: bool = False) -> Cell:
    """Feed a cell the first of a pair ``(x, elapsed)``, and hand on the second.

    The output is ``(y, elapsed)``, so that in a stack each layer gets the time since
    the input before, whether it reads it or not. Params and carry are those of the
    cell. A padded step puts out a time of zero.

    Args:
      cell: the cell.
      timed: the cell takes the pair itself, as ``s5(..., timed=True)`` does.

    Raises:
      TypeError: the input is no pair.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(
    ...     rnnjax.passing_time(rnnjax.dense(2, 3)),
    ...     rnnjax.passing_time(rnnjax.s5(3, 4, timed=True), timed=True))
    >>> params = cell.init(jax.random.key(0))
    >>> xs, elapsed = jnp.ones((3, 2)), jnp.array([1.0, 0.5, 2.0])
    >>> carry = cell.initial_carry(params)
    >>> carry, (ys, times) = cell.unroll(params, carry, (xs, elapsed))
    >>> ys.shape, times
    ((3, 3), Array([1. , 0.5, 2. ], dtype=float32))
    """
    checks.cell("cell", cell)
    checks.flag("timed", timed)

    def split(inputs: Any) -> tuple[Any, Any]:
        if not isinstance(inputs, tuple) or len(inputs) != 2:
            raise TypeError(
                f"passing_time({cell}) got {forms.outline(inputs)}; expected a pair "
                "(x, elapsed) of features and a number at each step. Write "
                "cell.unroll(params, carry, (xs, elapsed)), both with time in front."
            )
        return inputs if timed else inputs[0], inputs[1]

    def step(params, carry, x):
        read, elapsed = split(x)
        carry, y = cell.step(params, carry, read)
        return carry, (y, elapsed)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        read, elapsed = split(xs)
        carry, ys = cell.unroll(params, carry, read, mask=mask, reset=reset, key=key)
        if mask is not None:
            elapsed = signals.zero_padding(elapsed, mask)
        return carry, (ys, elapsed)

    return Cell(cell.init, cell.initial_carry, step, unroll)
