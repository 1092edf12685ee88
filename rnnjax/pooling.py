"""One vector from a sequence, over the steps that count.

A mask has the shape ``(..., t)``: any leading axes, then time. The steps that it leaves
out may hold anything, NaN included.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import signals
from rnnjax.sequences import beside


def last_valid(ys: Any, mask: Any) -> Any:
    """The output of the last step that counts, zero if none does.

    Args:
      ys: ``(..., t, *)``, any pytree.
      mask: ``(..., t)`` bool.

    >>> import jax.numpy as jnp, rnnjax
    >>> mask = rnnjax.sequence_mask(jnp.array([2, 0]), 3)
    >>> rnnjax.last_valid(jnp.array([[1, 2, 3], [4, 5, 6]]), mask).tolist()
    [2, 0]
    """
    mask = jnp.asarray(mask)
    steps = jnp.arange(mask.shape[-1])
    last = jnp.where(mask, steps, -1).max(-1, keepdims=True)
    chosen = mask & (steps == last)

    def take(a):
        return a.sum(mask.ndim - 1, dtype=a.dtype)

    # A sum of one entry and zeros: nothing to gather, and no NaN from elsewhere.
    return jax.tree.map(take, signals.zero_padding(ys, chosen))


def mean_pool(ys: Any, mask: Any) -> Array:
    """The mean over the steps that count, zero if none does.

    >>> import jax.numpy as jnp, rnnjax
    >>> mask = rnnjax.sequence_mask(jnp.array([2]), 3)
    >>> rnnjax.mean_pool(jnp.array([[1.0, 3.0, jnp.nan]]), mask).tolist()
    [2.0]
    """
    ys, mask = jnp.asarray(ys), jnp.asarray(mask)
    kept = signals.zero_padding(ys, mask)
    count = jnp.maximum(mask.sum(-1), 1).astype(ys.dtype)
    total = kept.sum(mask.ndim - 1)
    return total / beside(count, total)


def max_pool(ys: Any, mask: Any) -> Array:
    """The largest value of each feature over the steps that count, zero if none does.

    >>> import jax.numpy as jnp, rnnjax
    >>> mask = rnnjax.sequence_mask(jnp.array([2]), 3)
    >>> rnnjax.max_pool(jnp.array([[-1.0, -3.0, jnp.nan]]), mask).tolist()
    [-1.0]
    """
    ys, mask = jnp.asarray(ys), jnp.asarray(mask)
    kept = jnp.where(beside(mask, ys), ys, -jnp.inf).max(mask.ndim - 1)
    return jnp.where(beside(mask.any(-1), kept), kept, 0)


def attention_pool(ys: Any, scores: Any, mask: Any) -> Array:
    r"""A weighted mean: :math:`\sum_t softmax_t(scores)\, y_t` over steps that count.

    Args:
      ys: ``(..., t, f)``.
      scores: ``(..., t)``, for example ``(ys @ w)[..., 0]`` with a learned ``w: (f,
        1)``.
      mask: ``(..., t)`` bool.

    Reference: Yang et al. 2016, Hierarchical attention networks,
    doi:10.18653/v1/N16-1174.

    >>> import jax.numpy as jnp, rnnjax
    >>> mask, ys = jnp.array([True, True, False]), jnp.array([[1.0], [3.0], [7.0]])
    >>> rnnjax.attention_pool(ys, jnp.zeros(3), mask).tolist()
    [2.0]
    """
    weights = masked_softmax(scores, mask)
    kept = signals.zero_padding(ys, jnp.asarray(mask))
    return (weights[..., None] * kept).sum(-2)


def masked_softmax(scores: Any, mask: Any) -> Array:
    """Softmax over the last axis among entries that count; all zero if none does.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.masked_softmax(jnp.ones(3), jnp.array([True, False, True])).tolist()
    [0.5, 0.0, 0.5]
    """
    scores, mask = jnp.asarray(scores), jnp.asarray(mask)
    largest = jnp.max(scores, -1, keepdims=True, where=mask, initial=-jnp.inf)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    shifted = jnp.where(mask, scores - jax.lax.stop_gradient(largest), -jnp.inf)
    powers = jnp.exp(shifted)
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total > 0, total, 1)
