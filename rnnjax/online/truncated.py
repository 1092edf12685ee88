"""Backpropagation through the last steps, at every step."""

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.online.learning import Rule
from rnnjax.signals import select


def tbptt(k1: int, k2: int) -> Rule:
    r"""Truncated backpropagation through time: every ``k1`` steps through ``k2``.

    Sequences are cut into blocks of ``k1`` steps. The losses of a block go back to
    ``k2`` steps before its end, so that each goes through ``k2 - k1 + 1`` to ``k2``
    steps, or to the start of the sequence. Their sum over a block is what a program
    that goes back once for each block adds up.

    The memory holds the last ``k2 - 1`` carries and inputs, and a ``pull`` costs
    ``k2 - 1`` steps forwards and backwards. With ``k1 = 1`` every loss goes through
    ``k2`` steps. What is further away is not learned.

    Args:
      k1: steps in a block.
      k2: steps that the last loss of a block goes through, no fewer.

    Raises:
      ValueError: for a ``k2`` below ``k1``.

    Reference: Williams, Peng 1990, An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories, Neural Computation 2.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.tbptt(1, 20))
    >>> state = learner.init(params, jnp.ones(2))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_hh.shape
    (3, 9)
    """
    k1, k2 = checks.size("k1", k1), checks.size("k2", k2)
    if k2 < k1:
        raise ValueError(
            f"k2 is {k2} and k1 is {k1}; expected to go back through a block at least. "
            f"Write tbptt({k1}, {2 * k1})."
        )
    held = k2 - 1

    def start(place, key):
        def row(a):
            return jnp.zeros((held, *np.shape(a)), jnp.result_type(a))

        return jnp.zeros((), jnp.int32), jax.tree.map(row, (place.carry, place.x))

    def advance(place, memory, key):
        def shifted(rows, new):
            return jnp.concatenate([rows, jnp.asarray(new)[None]])[1:]

        count, rows = memory
        return count + 1, jax.tree.map(shifted, rows, (place.carry, place.x))

    def back(place, memory, by_state):
        count, (carries, xs) = memory
        block_end = (count // k1 + 1) * k1 - 1
        began = jnp.maximum(block_end - k2 + 1, 0)
        first = held - (count - began)  # the row of the step at which it began

        def last_state(params):
            # Of the start of the sequence, if that is within reach.
            initial = place.cell.initial_carry(params)
            there = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b[None]])[first], carries, place.carry
            )
            carry = select(began == 0, initial, jax.lax.stop_gradient(there))

            def step(carry, row):
                number, x = row
                after, _ = place.cell.step(params, carry, x)
                return select(number >= first, after, carry), None

            carry, _ = jax.lax.scan(
                step, carry, (jnp.arange(held, dtype=jnp.int32), xs)
            )
            return place._replace(carry=carry).state

        _, pull = jax.vjp(last_state, place.params)
        return pull(by_state)[0]

    return Rule(f"tbptt({k1}, {k2})", start, advance, back)
