"""Other carries for a sequence to start with."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks, signals
from rnnjax.cell import Carry, Cell, InitFn, Params, constructor


class LearnedCarryParams(NamedTuple):
    """The params of the cell and the carry that its sequences start with."""

    cell: Params
    carry: Carry


@constructor
def learned_carry(cell: Cell) -> Cell:
    """Make the initial carry a parameter; it starts as the cell's own.

    Resets go to it too, and it receives their gradients.

    >>> import jax, rnnjax
    >>> cell = rnnjax.learned_carry(rnnjax.lstm(3, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> cell.initial_carry(params) is params.carry
    True
    """
    checks.cell("cell", cell)

    def init(key):
        params = cell.init(key)
        return LearnedCarryParams(params, cell.initial_carry(params))

    def initial_carry(params):
        return params.carry

    def step(params, carry, x):
        return cell.step(params.cell, carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        given = (params.carry, carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        return cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init, initial_carry, step, unroll)


class InitialCarryParams(NamedTuple):
    """The params of the cell, and those from which its first carry is made."""

    cell: Params
    start: Params


@constructor
def with_initial_carry(
    cell: Cell, init: InitFn, start: Callable[[Params], Carry]
) -> Cell:
    """Start sequences, and restart them at resets, with a carry that you make.

    In `learned_carry` that carry is itself the parameter. A carry that differs between
    examples, for example one made from a context vector, is data: pass it as
    ``carry=``, as below.

    Args:
      cell: the cell.
      init: ``(key) -> start_params``, params to train; ``lambda key: ()`` for a fixed
        carry.
      start: ``(start_params) -> carry``, of the structure and shapes of the cell's own;
        it is cast to its dtypes.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def ones(start_params):
    ...     return rnnjax.LSTMCarry(c=jnp.ones(4), h=jnp.ones(4))
    >>> cell = rnnjax.with_initial_carry(rnnjax.lstm(3, 4), lambda key: (), ones)
    >>> params = cell.init(jax.random.key(0))
    >>> cell.initial_carry(params).h
    Array([1., 1., 1., 1.], dtype=float32)

    From a context vector for each example:

    >>> cell, to_carry = rnnjax.gru(3, 4), rnnjax.dense(6, 4)
    >>> params = {"cell": cell.init(jax.random.key(0)),
    ...           "start": to_carry.init(jax.random.key(1))}
    >>> contexts, xs = jnp.ones((2, 6)), jnp.ones((2, 7, 3))
    >>> h = jax.vmap(lambda v: jnp.tanh(to_carry.step(params["start"], (), v)[1]))(
    ...     contexts)
    >>> h, ys = rnnjax.unroll(cell, params["cell"], xs, carry=h)
    >>> ys.shape
    (2, 7, 4)
    """
    checks.cell("cell", cell)
    checks.function("init", init, "lambda key: ()")
    checks.function("start", start, "lambda start_params: jnp.zeros(4)")

    def init_both(key):
        key_cell, key_start = jax.random.split(checks.key(key))
        return InitialCarryParams(cell.init(key_cell), init(key_start))

    def initial_carry(params):
        made = start(params.start)
        expected = jax.eval_shape(cell.initial_carry, params.cell)
        if jax.tree.structure(made) == jax.tree.structure(expected):
            made = jax.tree.map(
                lambda a, e: jnp.asarray(a).astype(e.dtype), made, expected
            )
        return checks.carry(made, expected, name="what start returned")

    def step(params, carry, x):
        return cell.step(params.cell, carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        start = initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        return cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init_both, initial_carry, step, unroll)
