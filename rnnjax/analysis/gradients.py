"""How far back a cell learns: the gradient for the carry at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Params


def carry_gradients(
    cell: Cell, params: Params, carry: Carry, xs: Any, loss: Callable[[Any], Array]
) -> Carry:
    r"""The gradient of a loss for the carry that every step receives.

    .. math:: g_t = \frac{\partial\, loss(y_0, \dots, y_{T-1})}{\partial carry_{t-1}}

    How fast it shrinks or grows towards the first step tells how far back a cell
    learns. Draw it with `rnnjax.plot.gradient_norms`.

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.
      loss: from the outputs of all steps, ``(t, ...)``, to a number.

    Returns:
      A pytree like the carry, time on the first axis of its leaves; zero for those
      that are not floating.

    Raises:
      NoStepError: for cells that need the whole sequence.

    Reference: Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent
    neural networks, arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> g = rnnjax.carry_gradients(
    ...     cell, params, jnp.zeros(4), jnp.ones((9, 3)), lambda ys: ys[-1].sum())
    >>> g.shape, bool(jnp.linalg.norm(g[0]) < jnp.linalg.norm(g[-1]))
    ((9, 4), True)
    """
    checks.model(cell, params)
    time = checks.time_steps(xs)
    carry = checks.carry(carry, cell.initial_carry(params))
    leaves, structure = jax.tree.flatten(carry)
    floating = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]

    def of_added(added):
        def step(carry, given):
            added, x = given
            leaves = jax.tree.leaves(carry)
            moved = [
                a + d if moves else a
                for a, d, moves in zip(leaves, added, floating, strict=True)
            ]
            return cell.step(params, jax.tree.unflatten(structure, moved), x)

        return loss(jax.lax.scan(step, carry, (added, xs))[1])

    # Float zeros for other dtypes too: jax.grad takes nothing else.
    zeros = [
        jnp.zeros((time, *a.shape), a.dtype if moves else None)
        for a, moves in zip(leaves, floating, strict=True)
    ]
    return jax.tree.unflatten(structure, jax.grad(of_added)(zeros))
