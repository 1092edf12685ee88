"""One loop in which a function says what comes next; all decoding runs on it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Keys, Params
from rnnjax.combinators.stepping import keyed_step
from rnnjax.signals import as_keys


class Next(NamedTuple):
    """What comes after a step of `raw_unroll`.

    ``x``: the next input; ``carry``: the one to go on with; ``emit``: the result of
    this step; ``finished``: a bool, true if this step was the last; ``state``: anything
    else that the function hands to itself.
    """

    x: Any
    carry: Carry
    emit: Any
    finished: Array
    state: Any


class Raw(NamedTuple):
    """What `raw_unroll` returns.

    ``emits: (steps, ...)``, zero after the last step; ``length``: how many steps ran;
    ``carry`` and ``state`` as after that step.
    """

    emits: Any
    length: Array
    carry: Carry
    state: Any


def raw_unroll(
    cell: Cell,
    params: Params,
    carry: Carry,
    x: Any,
    follow: Callable[[Array, Carry, Any, Any], Next],
    state: Any = (),
    *,
    steps: int,
    finished: bool | Array = False,
    stop_early: bool = False,
    key: Array | Keys | None = None,
) -> Raw:
    """A loop in which your function says what comes next, as TensorFlow's ``raw_rnn``.

    Args:
      cell: any cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      x: the first input.
      follow: ``(t, carry, y, state) -> Next``, called with what step ``t`` returned.
      state: what ``follow`` gets at first. It returns the next one in the same
        structure, shapes and dtypes.
      steps: how many steps there are at most.
      finished: true for an example that has no step at all.
      stop_early: leave the loop when finished (under ``jax.vmap``: when all are).
        Results are the same, but a loop of unknown length has no reverse-mode gradient.
      key: for cells that draw random numbers.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(1, 1)  # fed with its own outputs until they are small
    >>> params = cell.init(jax.random.key(0))
    >>> def follow(t, carry, y, state):
    ...     return rnnjax.Next(y, carry, y, jnp.abs(y[0]) < 0.5, state)
    >>> raw = rnnjax.raw_unroll(
    ...     cell, params, cell.initial_carry(params), jnp.ones(1), follow, steps=20)
    >>> raw.emits.shape, bool((raw.emits[raw.length:] == 0).all())
    ((20, 1), True)
    """
    checks.model(cell, params)
    checks.size("steps", steps)
    carry = checks.carry(carry, jax.eval_shape(cell.initial_carry, params))
    keys = None if key is None else as_keys(key)
    x, state = jax.tree.map(jnp.asarray, (x, state))

    def advance(t, loop):
        carry, x, state, _, length = loop
        step = cell.step
        if keys is not None:
            now = Keys(keys.sequence, jax.random.fold_in(keys.step, t))
            step = functools.partial(keyed_step, cell, now)
        after, y = step(params, carry, x)
        found = follow(t, after, y, state)
        done = jnp.asarray(found.finished)
        return (found.carry, found.x, found.state, done, length + 1), found.emit

    def gated(t, loop):
        # Select and not branch: under vmap both sides of a branch run anyway.
        after, emit = advance(t, loop)
        done = loop[3]
        kept = jax.tree.map(lambda old, new: jnp.where(done, old, new), loop, after)
        return kept, jax.tree.map(lambda a: jnp.where(done, jnp.zeros_like(a), a), emit)

    loop = (carry, x, state, jnp.asarray(finished), jnp.array(0, jnp.int32))
    if not stop_early:
        loop, emits = lax.scan(
            lambda c, t: gated(t, c), loop, jnp.arange(steps, dtype=jnp.int32)
        )
    else:
        shapes = jax.eval_shape(advance, jnp.array(0, jnp.int32), loop)[1]
        empty = jax.tree.map(lambda s: jnp.zeros((steps, *s.shape), s.dtype), shapes)

        def body(loop):
            t, loop, emits = loop
            loop, emit = advance(t, loop)
            return t + 1, loop, jax.tree.map(lambda a, e: a.at[t].set(e), emits, emit)

        _, loop, emits = lax.while_loop(
            lambda loop: (loop[0] < steps) & ~loop[1][3],
            body,
            (jnp.array(0, jnp.int32), loop, empty),
        )
    return Raw(emits, loop[4], loop[0], loop[2])
