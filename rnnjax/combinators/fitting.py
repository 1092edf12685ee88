"""A layer that is not trained but solved for."""

import math

import jax.numpy as jnp
from jax import Array

from rnnjax import checks
from rnnjax.combinators.memoryless import DenseParams
from rnnjax.traversals import sums


def ridge_readout(
    ys: Array, targets: Array, *, penalty: float = 1e-6, mask: Array | None = None
) -> DenseParams:
    r"""The params of a `dense` that reads targets from outputs, by ridge regression.

    .. math:: W, b = \arg\min \textstyle\sum_t m_t \lVert y_t W + b - target_t \rVert^2
              + penalty \, \lVert W \rVert^2

    Args:
      ys: ``(..., h)``, outputs of a cell, such as those of `echo_state`; leave out the
        first ones, in which the reservoir forgets its start.
      targets: ``(..., o)``, what to read at each of them.
      penalty: the price of large weights, zero or more; the bias is free.
      mask: ``(...)`` bool, false where a step does not count.

    Returns:
      ``DenseParams(w, b)``, for ``stack(cell, dense(h, o))``.

    Raises:
      ValueError: for targets or a mask of other leading axes, and a negative penalty.

    Reference: Lukoševičius 2012, A practical guide to applying echo state networks,
    doi:10.1007/978-3-642-35289-8_36.

    >>> import jax.numpy as jnp, rnnjax
    >>> ys = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
    >>> w, b = rnnjax.ridge_readout(ys, ys @ jnp.array([[1.0], [2.0]]) + 3, penalty=0.0)
    >>> w.round(2).tolist(), b.round(2).tolist()
    ([[1.0], [2.0]], [3.0])
    """
    ys, targets = checks.array("ys", ys), checks.array("targets", targets)
    checks.not_negative("penalty", penalty, example=1e-6)
    leading = ys.shape[:-1]
    if not leading or targets.ndim != ys.ndim or targets.shape[:-1] != leading:
        raise ValueError(
            f"targets has shape {targets.shape} and ys {ys.shape}; expected the same "
            "axes but for the last. Write targets[..., None] for one number at each "
            "step."
        )
    weight = jnp.ones(leading) if mask is None else checks.flags("mask", mask, leading)
    # Least squares and no normal equations: states of a reservoir are nearly dependent,
    # and float32 has not twice their digits.
    size = ys.shape[-1]
    ys = sums.wide(ys.reshape(-1, size) * 1.0)
    targets = targets.reshape(-1, targets.shape[-1]).astype(ys.dtype)
    weight = weight.reshape(-1, 1).astype(ys.dtype)
    # What does not count may hold anything, NaN too.
    ys, targets = (jnp.where(weight > 0, a, 0) for a in (ys, targets))
    count = jnp.maximum(weight.sum(), 1)
    middle, aim = ys.sum(0) / count, targets.sum(0) / count
    ridge = math.sqrt(penalty) * jnp.eye(size, dtype=ys.dtype)
    rows = jnp.concatenate([weight * (ys - middle), ridge])
    wanted = weight * (targets - aim)
    wanted = jnp.concatenate([wanted, jnp.zeros((size, wanted.shape[1]), ys.dtype)])
    w = jnp.linalg.lstsq(rows, wanted)[0]
    return DenseParams(w, aim - middle @ w)
