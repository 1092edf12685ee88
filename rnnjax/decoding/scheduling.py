"""Training of cells that will be fed with their own outputs, partly on those."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Params
from rnnjax.decoding.loop import Next, raw_unroll
from rnnjax.decoding.tokens import Pick, sample


def scheduled_sampling(
    cell: Cell,
    params: Params,
    carry: Carry,
    tokens: Any,
    probability: float | Array,
    *,
    key: Array,
    length: Any = None,
    pick: Pick = sample,
) -> tuple[Carry, Array]:
    """Train a cell partly on its own choices: ``(carry, logits: (t, v))``.

    Each input after the first is, with some probability, what the cell picks from its
    own logits instead of the given token. No gradient goes through the choice. With
    probability zero it is teacher forcing, ``cell.unroll(params, carry, tokens)``.

    Args:
      cell: takes a token, returns logits ``(v,)``.
      params: its parameters.
      carry: the carry of one example.
      tokens: ``(t,)``, the inputs as in teacher forcing, the start token first.
      probability: how likely the cell's own choice is, one number or ``(t,)``; let it
        grow during training.
      key: for the coin, the choices, and the cell's own random numbers.
      length: how many tokens count; all if left out. Logits after them are zero.
      pick: how the cell chooses, `sample` or `greedy`.

    Reference: Bengio, Vinyals, Jaitly, Shazeer 2015, arXiv:1506.03099.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.embedding(10, 4), rnnjax.elman(4, 10))
    >>> params = cell.init(jax.random.key(0))
    >>> h, logits = rnnjax.scheduled_sampling(
    ...     cell, params, cell.initial_carry(params), jnp.array([1, 4, 7]), 0.25,
    ...     key=jax.random.key(1))
    >>> logits.shape
    (3, 10)
    """

    def choose(key, logits, given):
        return pick(key, lax.stop_gradient(logits)).astype(given.dtype)

    tokens = jnp.asarray(tokens)
    given = (cell, params, carry, tokens, probability, choose)
    return _scheduled(*given, key=key, length=length)


def _output(y: Array, x: Array) -> Array:
    del x
    return y


def scheduled_outputs(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    probability: float | Array,
    *,
    key: Array,
    length: Any = None,
    feed: Callable[[Array, Array], Array] = _output,
) -> tuple[Carry, Array]:
    """Train a cell partly on its own outputs: ``(carry, ys: (t, o))``.

    Each input after the first is, with some probability, the cell's last output instead
    of the given input. Gradients go through it. With probability zero it is
    ``cell.unroll(params, carry, xs)``. For tokens see `scheduled_sampling`.

    Args:
      cell: a cell whose output can be its next input.
      params: its parameters.
      carry: the carry of one example.
      xs: ``(t, i)``, the inputs as without it.
      probability: how likely the cell's own output is, one number or ``(t,)``; let it
        grow during training.
      key: for the coin and the cell's own random numbers.
      length: how many steps count; all if left out. Outputs after them are zero.
      feed: ``(y, x) -> x``, the next input from the output and from the input that is
        given for that step; by default the output. ``lambda y, x:
        jnp.concatenate([y, x[len(y):]])`` keeps what the cell cannot predict.

    Raises:
      ValueError: for a ``feed`` whose result has not the shape of an input.

    Reference: Bengio, Vinyals, Jaitly, Shazeer 2015, arXiv:1506.03099.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.gru(2, 8), rnnjax.dense(8, 2))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = rnnjax.scheduled_outputs(
    ...     cell, params, cell.initial_carry(params), jnp.ones((5, 2)), 0.25,
    ...     key=jax.random.key(1))
    >>> ys.shape
    (5, 2)
    """

    def choose(key, y, given):
        del key
        x = jnp.asarray(feed(y, given))
        if x.shape != given.shape:
            raise ValueError(
                f"feed returned shape {x.shape}; expected {given.shape}, that of an "
                "input, as xs has them. Let the cell end in rnnjax.dense with as many "
                "features, or write feed=lambda y, x: jnp.concatenate([y, x[len(y):]])."
            )
        return x.astype(given.dtype)

    given = (cell, params, carry, jnp.asarray(xs), probability, choose)
    return _scheduled(*given, key=key, length=length)


def _scheduled(cell, params, carry, xs, probability, choose, *, key, length):
    """Unroll with inputs of which some come from ``choose(key, y, x)``."""
    key_coin, key_pick, key_cell = jax.random.split(checks.key(key), 3)
    steps = checks.time_steps(xs)
    last = jnp.asarray(steps if length is None else length, jnp.int32)
    own = jax.random.bernoulli(key_coin, probability, (steps,))

    def follow(t, carry, y, state):
        given = jnp.take(xs, t + 1, axis=0, mode="clip")
        choice = choose(jax.random.fold_in(key_pick, t), y, given)
        x = jnp.where(own[t], choice, given)
        return Next(x, carry, y, t + 1 >= last, state)

    given = (cell, params, carry, xs[0], follow)
    raw = raw_unroll(*given, steps=steps, finished=last == 0, key=key_cell)
    return raw.carry, raw.emits
