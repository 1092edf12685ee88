"""Where attention looks: scores of a query, and alignments that only move forward."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def scores(params: Any, keys: Array, query: Array) -> Array:
    """How well each of the memory's steps fits the query: ``(s,)``.

    Args:
      params: `rnnjax.AttentionParams`; which of its fields are there says which score.
      keys: ``(s, k)``, the memory times ``w_memory``.
      query: ``(q,)``.
    """
    if params.v is None:
        found = keys @ query
        found = found if params.scale is None else params.scale * found
    else:
        query, v = query @ params.w_query, params.v
        if params.scale is not None:
            query = query + params.b_query
            v = params.scale * v / jnp.sqrt((v * v).sum())
        found = jnp.tanh(keys + query) @ v
    return found if params.b_score is None else found + params.b_score


def move_forward(stop: Array, before: Array) -> Array:
    r"""Where attention is after it has moved forward from where it was.

    .. math::

        q_s &= (1 - p_{s-1})\, q_{s-1} + a_{t-1,s} \\
        a_{t,s} &= p_s q_s

    Args:
      stop: ``p: (s,)``, the probability of stopping at each of the memory's steps for
        one who gets there.
      before: :math:`a_{t-1}`, ``(s,)``, where attention was.
    """
    # One associative scan in place of TensorFlow's quotient of products, which
    # underflow over a long memory.
    go_on = jnp.concatenate([jnp.ones_like(stop[:1]), 1 - stop[:-1]])

    def compose(first, second):
        (kept, added), (kept_next, added_next) = first, second
        return kept * kept_next, kept_next * added + added_next

    return stop * lax.associative_scan(compose, (go_on, before))[1]
