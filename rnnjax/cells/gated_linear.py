"""Linear attention with gates: a matrix of values by keys that forgets by key."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells import heads as by_head
from rnnjax.observation import observe


class GatedLinearAttentionParams(NamedTuple):
    """``w_q``, ``w_k: (i, key_size)``, ``w_v: (i, h)``.

    The gate: ``w_down: (i, rank)``, ``w_up: (rank, key_size)``, ``b: (key_size,)``.
    """

    w_q: Array
    w_k: Array
    w_v: Array
    w_down: Array
    w_up: Array
    b: Array


@constructor
def gated_linear_attention(
    input_size: int,
    hidden_size: int,
    *,
    key_size: int | None = None,
    heads: int = 1,
    rank: int = 16,
    temperature: float = 16.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Gated linear attention: each row of the memory decays as the input says.

    .. math::

        q &= x_t W_q / \sqrt{d_k}, \quad k = x_t W_k, \quad v = x_t W_v \\
        a &= \sigma(x_t W_{down} W_{up} + b)^{1 / temperature} \\
        S_t &= diag(a) S_{t-1} + k v^T \\
        y_t &= q^T S_t

    for each head, with :math:`d_k = key\_size / heads`. The carry is ``S: (heads, d_k,
    d_v)``, zero at first; the output is ``y: (h,)``, the heads side by side. S is
    linear in the carry and its entries see only themselves, so that a prefix scan can
    walk it. The paper normalises each head's output and gates it, which is around the
    cell, see `residual_block`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: features of one output, ``y: (h,)``.
      key_size: features of q and k, by default ``hidden_size``; the paper has half.
      heads: groups of features, each with a memory; they divide both sizes.
      rank: of the map from inputs to gates.
      temperature: the larger, the longer the memory.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``heads`` that do not divide the sizes, and a ``temperature`` that
        is not positive.

    Reference: Yang, Wang, Shen, Panda, Kim 2024, Gated linear attention transformers
    with hardware-efficient training, arXiv:2312.06635.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gated_linear_attention(3, 8, key_size=4, heads=2)
    >>> params = cell.init(jax.random.key(0))
    >>> s, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> s.shape, ys.shape
    ((2, 2, 4), (10, 8))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    keys = hidden_size if key_size is None else checks.size("key_size", key_size)
    by_head.check(heads, hidden_size=hidden_size, key_size=keys)
    checks.size("rank", rank)
    checks.positive("temperature", temperature, example=16.0)
    scale = math.sqrt(keys // heads)

    def init(key):
        draw = glorot_uniform()
        key_q, key_k, key_v, key_down, key_up = jax.random.split(checks.key(key), 5)
        return GatedLinearAttentionParams(
            draw(key_q, (input_size, keys)),
            draw(key_k, (input_size, keys)),
            draw(key_v, (input_size, hidden_size)),
            draw(key_down, (input_size, rank)),
            draw(key_up, (rank, keys)),
            jnp.zeros(keys),
        )

    def initial_carry(params):
        shape = (heads, keys // heads, hidden_size // heads)
        return jnp.zeros(shape, params.b.dtype)

    def project(params, x):
        gate = x @ params.w_down @ params.w_up + params.b
        a = jnp.exp(jax.nn.log_sigmoid(gate) / temperature)
        given = x @ params.w_q / scale, x @ params.w_k, x @ params.w_v, a
        q, k, v, a = (by_head.split(value, heads) for value in given)
        observe(q=q, k=k, v=v, a=a)
        return q, k, v, a

    def step(params, s, z):
        q, k, v, a = z
        s = a[..., None] * s + k[..., None] * v[:, None]
        y = jnp.einsum("mk,mkv->mv", q, s).ravel()
        observe(S=s, y=y)
        return s, y

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
