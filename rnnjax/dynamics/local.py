"""Along a trajectory, and close to one state: the step and its derivative."""

from typing import Any, NamedTuple

import jax
from jax import Array

from rnnjax import checks, floats
from rnnjax.cell import Carry, Cell, Params


class Linearization(NamedTuple):
    """A step close to a state and an input: what `linearize` returns.

    ``next``: the state after the step, ``(n,)``. ``by_state``: its Jacobian for the
    state, ``(n, n)``. ``by_input``: its Jacobian for the features of the input,
    ``(n, m)``, with ``m = 0`` where they are not floating.
    """

    next: Array
    by_state: Array
    by_input: Array


def trajectory(cell: Cell, params: Params, carry: Carry, xs: Any) -> Carry:
    r"""The carry after each step.

    .. math:: c_t, y_t = step(c_{t-1}, x_t)

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.

    Returns:
      A pytree like the carry, time on the first axis of its leaves.

    Raises:
      NoStepError: for cells that need the whole sequence.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> xs = jnp.ones((9, 3))
    >>> carries = rnnjax.dynamics.trajectory(
    ...     cell, params, cell.initial_carry(params), xs)
    >>> carries.h.shape
    (9, 4)
    """
    checks.model(cell, params)
    checks.time_steps(xs)
    carry = checks.carry(carry, cell.initial_carry(params))

    def step(carry, x):
        after, _ = cell.step(params, carry, x)
        return after, after

    return jax.lax.scan(step, carry, xs)[1]


def jacobians(cell: Cell, params: Params, carry: Carry, xs: Any) -> Array:
    r"""The derivative of every state for the one before it.

    .. math:: J_t = \frac{\partial c_t}{\partial c_{t-1}}

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.

    Returns:
      ``(t, n, n)``, for a state of ``n`` numbers.

    Raises:
      NoStepError: for cells that need the whole sequence.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> J = rnnjax.dynamics.jacobians(cell, params, jnp.zeros(4), jnp.zeros((9, 3)))
    >>> J.shape, bool(jnp.allclose(J[0], params.w_hh.T))
    ((9, 4, 4), True)
    """
    checks.model(cell, params)
    checks.time_steps(xs)
    carry = checks.carry(carry, cell.initial_carry(params))

    def step(carry, x):
        flat, put = floats.vector(carry)

        def move(flat):
            after, _ = cell.step(params, put(flat), x)
            return floats.vector(after)[0], after

        jacobian, after = jax.jacfwd(move, has_aux=True)(flat)
        return after, jacobian

    return jax.lax.scan(step, carry, xs)[1]


def linearize(cell: Cell, params: Params, carry: Carry, x: Any) -> Linearization:
    r"""A step as a linear map, for small changes of a state and of an input.

    .. math:: step(c + \delta, x + \epsilon) \approx next + J \delta + B \epsilon

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the state.
      x: the input of one step, ``(i,)``.

    Raises:
      NoStepError: for cells that need the whole sequence.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> near = rnnjax.dynamics.linearize(cell, params, jnp.zeros(4), jnp.zeros(3))
    >>> near.by_state.shape, near.by_input.shape
    ((4, 4), (4, 3))
    """
    checks.model(cell, params)
    carry = checks.carry(carry, cell.initial_carry(params))
    checks.arrays("x", x)
    flat, put = floats.vector(carry)
    features, put_features = floats.vector(x)

    def move(flat, features):
        after, _ = cell.step(params, put(flat), put_features(features))
        return floats.vector(after)[0]

    jacobians = (jax.jacfwd(move, number)(flat, features) for number in (0, 1))
    return Linearization(move(flat, features), *jacobians)
