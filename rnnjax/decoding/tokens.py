"""Sequences that a cell writes by itself, and the loss to train it with.

Everything here is for one example, as a cell is; ``jax.vmap`` makes a batch of it, and
``jax.jit`` compiles it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Params
from rnnjax.decoding.loop import Next, raw_unroll
from rnnjax.kernels.cross_entropy import cross_entropy

Pick: TypeAlias = Callable[[Array | None, Array], Array]
"""What chooses a token, by ``(key, logits) -> token``."""


def greedy(key: Array | None, logits: Array) -> Array:
    """The most likely token; it needs no key.

    >>> import jax.numpy as jnp, rnnjax
    >>> int(rnnjax.greedy(None, jnp.array([0.1, 2.0, 0.3])))
    1
    """
    del key
    return jnp.argmax(logits, -1).astype(jnp.int32)


def sample(
    key: Array | None,
    logits: Array,
    *,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
) -> Array:
    r"""A token drawn from :math:`softmax(logits / temperature)`, cut to likely ones.

    Args:
      key: a typed key.
      logits: ``(..., v)``.
      temperature: above one the choice is freer, below one safer, and zero takes the
        most likely token.
      top_k: only this many tokens of the largest logits can be drawn.
      top_p: only the most likely tokens can be drawn, as few as have this probability
        together; at least one. With both limits a token must pass both.

    Raises:
      TypeError: without a key.
      ValueError: for a ``temperature`` below zero, a ``top_k`` that is no positive
        integer, and a ``top_p`` outside of [0, 1]. Values that ``jax.jit`` traces are
        not seen.

    References: top-k: Fan, Lewis, Dauphin 2018, arXiv:1805.04833; top-p: Holtzman et
    al. 2020, arXiv:1904.09751.

    >>> import functools, jax, jax.numpy as jnp, rnnjax
    >>> pick = functools.partial(rnnjax.sample, temperature=0.7, top_k=2)
    >>> draws = jax.vmap(pick, (0, None))(
    ...     jax.random.split(jax.random.key(0), 100), jnp.array([3.0, 1.0, 2.0]))
    >>> sorted(set(draws.tolist()))
    [0, 2]
    """
    key = checks.key(key)
    _within("temperature", temperature, jnp.inf, "zero or a positive number", 0.8)
    if top_p is not None:
        _within("top_p", top_p, 1.0, "a probability in [0, 1]", 0.9)
    likeliest = jnp.argmax(logits, -1, keepdims=True)
    frozen = jnp.asarray(temperature) == 0
    logits = logits / jnp.where(frozen, 1, temperature)
    kept = jnp.ones(logits.shape, bool)
    if top_k is not None:
        size = min(checks.size("top_k", top_k), logits.shape[-1])
        kept = logits >= lax.top_k(logits, size)[0][..., -1:]
    if top_p is not None:
        likely = jnp.flip(jnp.sort(jax.nn.softmax(logits, -1), -1), -1)
        before = jnp.cumsum(likely, -1) - likely
        smallest = jnp.where(before < top_p, likely, 1).min(-1, keepdims=True)
        kept = kept & (jax.nn.softmax(logits, -1) >= smallest)
        kept = kept | (logits == logits.max(-1, keepdims=True))
    kept = jnp.where(frozen, jnp.arange(logits.shape[-1]) == likeliest, kept)
    return jax.random.categorical(key, jnp.where(kept, logits, -jnp.inf)).astype(
        jnp.int32
    )


def _within(name: str, value: Any, highest: float, expected: str, write: float) -> None:
    """Refuse numbers that are not from zero to ``highest``, where they can be seen."""
    if isinstance(value, Tracer):
        return
    numbers = np.asarray(value)
    if (
        jnp.issubdtype(numbers.dtype, np.number)
        and ((numbers >= 0) & (numbers <= highest)).all()
    ):
        return
    raise ValueError(f"{name} is {value!r}; expected {expected}. Write {name}={write}.")


class Generated(NamedTuple):
    """``tokens: (steps,)``, zero after ``length``; ``logits: (steps, v)``; ``carry``.

    ``length`` counts the end token, where there is one.
    """

    tokens: Array
    logits: Array
    length: Array
    carry: Carry


def generate(
    cell: Cell,
    params: Params,
    carry: Carry,
    start_token: Any,
    *,
    steps: int,
    pick: Pick = greedy,
    end_token: int | None = None,
    key: Array | None = None,
) -> Generated:
    """Generate tokens: each one that the cell picks is its next input.

    Args:
      cell: takes a token, returns logits ``(v,)``, for example ``stack(embedding(v, e),
        lstm(e, h), dense(h, v))``.
      params: its parameters.
      carry: the carry of one example, from an encoder or after a prompt.
      start_token: the first input.
      steps: how many tokens at most.
      pick: ``(key, logits) -> token``, such as `greedy` or `sample`.
      end_token: the token after which it stops.
      key: for ``pick``, which gets a new one at every step.

    >>> import functools, jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(
    ...     rnnjax.embedding(10, 4), rnnjax.gru(4, 8), rnnjax.dense(8, 10))
    >>> params = cell.init(jax.random.key(0))
    >>> pick = functools.partial(rnnjax.sample, temperature=0.5, top_p=0.9)
    >>> @jax.jit
    ... def write(key):
    ...     return rnnjax.generate(cell, params, cell.initial_carry(params), 1,
    ...                            steps=6, pick=pick, end_token=2, key=key)
    >>> jax.vmap(write)(jax.random.split(jax.random.key(1), 3)).tokens.shape
    (3, 6)
    """
    key = None if key is None else checks.key(key)

    def follow(t, carry, logits, state):
        token = pick(None if key is None else jax.random.fold_in(key, t), logits)
        finished = jnp.array(False) if end_token is None else token == end_token
        return Next(token, carry, (token, logits), finished, state)

    start = jnp.asarray(start_token, jnp.int32)
    given = (cell, params, carry, start, follow)
    raw = raw_unroll(*given, steps=steps, stop_early=end_token is not None)
    picked, logits = raw.emits
    return Generated(picked, logits, raw.length, raw.carry)


def sequence_loss(logits: Any, targets: Any, weights: Any = None) -> Array:
    r"""Cross-entropy of tokens: the weighted mean.

    .. math:: -\frac{\sum_t w_t \log softmax(logits_t)_{targets_t}}{\sum_t w_t}

    On a CPU its gradient is written where the logits were, if nothing else reads them.

    Args:
      logits: ``(..., v)``, any leading axes.
      targets: ``(...)`` integers.
      weights: ``(...)`` numbers or a mask; all one if left out. Where they are zero,
        logits may be NaN. Under ``jax.vmap`` over the batch there is a loss for each
        example, over time one for each step.

    >>> import jax.numpy as jnp, rnnjax
    >>> logits = jnp.zeros((2, 3, 4))
    >>> mask = rnnjax.sequence_mask(jnp.array([3, 1]), 3)
    >>> float(rnnjax.sequence_loss(logits, jnp.zeros((2, 3), int), mask))
    1.3862943649291992
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets has shape {targets.shape}; expected {logits.shape[:-1]}, one for "
            f"each row of logits {logits.shape}. Write the ids of tokens, not one-hot."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"logits has dtype {logits.dtype}; expected floats, the logarithms of "
            "weights. Write logits.astype(jnp.float32)."
        )
    if weights is None:
        return cross_entropy(logits, targets).sum() / max(targets.size, 1)
    weights = jnp.asarray(weights).astype(logits.dtype)
    logits = jnp.where((weights != 0)[..., None], logits, 0)
    losses = cross_entropy(logits, targets)
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total == 0, 1, total)
