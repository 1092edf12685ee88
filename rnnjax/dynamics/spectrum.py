"""How small differences grow over many steps: forwards, and backwards in a gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, floats
from rnnjax.analysis.gradients import carry_gradients
from rnnjax.cell import Carry, Cell, Params


def lyapunov(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    count: int | None = None,
    skip: int = 0,
    key: Array | None = None,
) -> Array:
    r"""Lyapunov exponents: how fast nearby states part, for each step.

    .. math::
        Q_t R_t = J_t Q_{t-1}, \qquad
        \lambda_k = \frac{1}{T} \sum_t \ln |R_{t,kk}|

    They come in falling order. The first is positive in chaos, where two runs that
    differ by rounding part as :math:`e^{\lambda_1 t}`. It is zero for a cycle in
    continuous time or a memory that neither grows nor fades, and negative where the
    cell forgets its start: its gradient vanishes at that rate. Their sum is the rate
    at which volumes of states grow.

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: the inputs that drive it, ``(t, i)``, of as many steps as are averaged, and
        ``skip`` more. The error falls as :math:`1/T`; hundreds of steps show a sign.
      count: how many exponents, the largest; all ``n`` if left out. The cost of a step
        is ``count`` tangents and the QR of ``(n, count)``.
      skip: steps before the average begins, in which the state comes to where it
        stays, and the directions turn to those that grow.
      key: draws the first directions; ``jax.random.key(0)`` if left out.

    Returns:
      ``(count,)``, in nats for each step. Divide by the time that a step takes where
      the cell integrates an equation.

    Raises:
      NoStepError: for cells that need the whole sequence.
      ValueError: for a count above ``n``, or no step after those that are skipped.

    Reference: Benettin et al. 1980, Lyapunov characteristic exponents for smooth
    dynamical systems, Meccanica 15; for recurrent networks Vogt et al. 2022, On
    Lyapunov exponents for RNNs, arXiv:2006.14123.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(1, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> def largest(scale):
    ...     scaled = params._replace(w_hh=scale * params.w_hh)
    ...     return rnnjax.dynamics.lyapunov(
    ...         cell, scaled, jnp.ones(8), jnp.zeros((500, 1)), count=1, skip=100)[0]
    >>> bool(largest(0.5) < -0.5)  # every state fades
    True
    """
    checks.model(cell, params)
    time = checks.time_steps(xs)
    carry = checks.carry(carry, cell.initial_carry(params))
    first, _ = floats.vector(carry)
    size = first.size
    count = size if count is None else checks.size("count", count)
    if count > size:
        raise ValueError(
            f"count is {count}; expected at most {size}, the numbers in the carry of "
            f"{cell}. Write count={size}, or leave it out."
        )
    skip = checks.size("skip", skip) if skip else 0
    if skip >= time:
        raise ValueError(
            f"skip is {skip} and xs has {time} steps; expected steps to average after "
            f"those that are skipped. Write skip={time // 2}, or pass more steps."
        )
    key = jax.random.key(0) if key is None else checks.key(key)
    # LAPACK has no half precision, and a sum of logarithms would lose most of it.
    wide = first.dtype if first.dtype.itemsize > 4 else jnp.float32
    drawn = jax.random.normal(key, (size, count), wide)

    def step(held, x):
        carry, q = held
        flat, put = floats.vector(carry)

        def move(flat):
            after, _ = cell.step(params, put(flat), x)
            return floats.vector(after)[0], after

        _, tangent, after = jax.linearize(move, flat, has_aux=True)
        pushed = jax.vmap(tangent, 1, 1)(q.astype(flat.dtype))
        q, r = jnp.linalg.qr(pushed.astype(wide))
        return (after, q), jnp.log(jnp.abs(jnp.diagonal(r)))

    growth = jax.lax.scan(step, (carry, jnp.linalg.qr(drawn)[0]), xs)[1]
    return growth[skip:].mean(0)


def gradient_norms(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    loss: Callable[[Any], Array] = lambda ys: ys[-1].sum(),
) -> Array:
    r"""How strongly a loss pulls at the carry of every step.

    .. math:: \left\| \frac{\partial\, loss(y)}{\partial c_{t-1}} \right\|_2

    The slope of its logarithm towards the first step is about minus the largest
    Lyapunov exponent: a gradient vanishes or explodes as differences do.

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.
      loss: from the outputs of all steps, ``(t, ...)``, to a number; the sum of the
        last output if left out.

    Returns:
      ``(t,)``. `rnnjax.carry_gradients` has the gradients themselves.

    Raises:
      NoStepError: for cells that need the whole sequence.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> norms = rnnjax.dynamics.gradient_norms(
    ...     cell, params, jnp.zeros(4), jnp.ones((9, 3)))
    >>> norms.shape, bool(norms[0] < norms[-1])
    ((9,), True)
    """
    found = carry_gradients(cell, params, carry, xs, loss)
    squares = [jnp.square(a).reshape(len(a), -1).sum(1) for a in jax.tree.leaves(found)]
    return jnp.sqrt(sum(squares[1:], start=squares[0]))
