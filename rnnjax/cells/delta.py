"""The delta rule: a matrix whose value for a key is replaced, not added to."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal
from rnnjax.cells import heads as by_head
from rnnjax.observation import observe


class DeltaNetParams(NamedTuple):
    """``w_q``, ``w_k: (i, key_size)``, ``w_v: (i, h)``, ``w_beta: (i, heads)``."""

    w_q: Array
    w_k: Array
    w_v: Array
    w_beta: Array


class GatedDeltaNetParams(NamedTuple):
    """``w_q``, ``w_k: (i, key_size)``, ``w_v: (i, h)``, ``w_beta: (i, heads)``.

    The decay: ``w_dt: (i, heads)``, ``b_dt``, ``log_decay: (heads,)``.
    """

    w_q: Array
    w_k: Array
    w_v: Array
    w_beta: Array
    w_dt: Array
    b_dt: Array
    log_decay: Array


@constructor
def delta_net(
    input_size: int,
    hidden_size: int,
    *,
    key_size: int | None = None,
    heads: int = 1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""DeltaNet: a memory that forgets the old value of a key to hold the new one.

    .. math::

        q &= \frac{silu(x_t W_q)}{\lVert silu(x_t W_q) \rVert}, \quad
            k = \frac{silu(x_t W_k)}{\lVert silu(x_t W_k) \rVert}, \quad
            v = x_t W_v \\
        \beta &= \sigma(x_t W_\beta) \\
        S_t &= S_{t-1} + \beta \, k (v - S_{t-1}^T k)^T \\
        y_t &= S_t^T q

    for each head. The step is one of gradient descent, of size :math:`\beta`, on
    :math:`\tfrac12 \lVert S^T k - v \rVert^2`. The carry is ``S: (heads, d_k, d_v)``,
    keys by values, zero at first; the output is ``y: (h,)``, the heads side by side. S
    is affine in the carry, by the matrix :math:`I - \beta k k^T`. Convolutions and the
    norm of the paper's layer are around the cell, see `causal_conv` and
    `residual_block`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: features of one output, ``y: (h,)``.
      key_size: features of q and k, by default ``hidden_size``.
      heads: groups of features, each with a memory; they divide both sizes.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``heads`` that do not divide the sizes.

    Reference: Yang, Wang, Zhang, Shen, Kim 2024, Parallelizing linear transformers with
    the delta rule over sequence length, arXiv:2406.06484.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.delta_net(3, 8, heads=2)
    >>> params = cell.init(jax.random.key(0))
    >>> s, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> s.shape, ys.shape
    ((2, 4, 4), (10, 8))
    """
    keys = _check(input_size, hidden_size, key_size, heads)

    def init(key):
        return _init(key, input_size, hidden_size, keys, heads)

    def initial_carry(params):
        return _empty(params, hidden_size, keys, heads)

    def project(params, x):
        return _project(params, x, heads)

    def step(params, s, z):
        return _replace(s, *z)

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


@constructor
def gated_delta_net(
    input_size: int,
    hidden_size: int,
    *,
    key_size: int | None = None,
    heads: int = 1,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Gated DeltaNet: the delta rule in a memory that decays.

    .. math::

        q &= \frac{silu(x_t W_q)}{\lVert silu(x_t W_q) \rVert}, \quad
            k = \frac{silu(x_t W_k)}{\lVert silu(x_t W_k) \rVert}, \quad
            v = x_t W_v \\
        \beta &= \sigma(x_t W_\beta), \quad
            a = e^{-e^{log\_decay} softplus(x_t W_{dt} + b_{dt})} \\
        S_t &= a \, S_{t-1} + \beta \, k (v - a \, S_{t-1}^T k)^T \\
        y_t &= S_t^T q

    The rest is as in `delta_net`. With a = 1 it is that cell, and with
    :math:`\beta = 0` the memory only decays. The decays start uniform between 0 and 16,
    and the softplus without input log-uniform between ``dt_min`` and ``dt_max``, as in
    Mamba 2.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: features of one output, ``y: (h,)``.
      key_size: features of q and k, by default ``hidden_size``.
      heads: groups of features, each with a memory; they divide both sizes.
      dt_min: the least step size that a head starts with.
      dt_max: the largest.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``heads`` that do not divide the sizes, and step sizes that are
        not in order.

    Reference: Yang, Kautz, Hatamizadeh 2025, Gated delta networks: improving Mamba2
    with delta rule, arXiv:2412.06464.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gated_delta_net(3, 8, key_size=4, heads=2)
    >>> params = cell.init(jax.random.key(0))
    >>> s, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> s.shape, ys.shape
    ((2, 2, 4), (10, 8))
    """
    keys = _check(input_size, hidden_size, key_size, heads)
    diagonal.check_steps(dt_min, dt_max)

    def init(key):
        key, key_w, key_b, key_decay = jax.random.split(checks.key(key), 4)
        decay = jax.random.uniform(key_decay, (heads,), minval=1e-3, maxval=16.0)
        return GatedDeltaNetParams(
            *_init(key, input_size, hidden_size, keys, heads),
            glorot_uniform()(key_w, (input_size, heads)),
            diagonal.softplus_steps(key_b, (heads,), dt_min, dt_max),
            jnp.log(decay),
        )

    def initial_carry(params):
        return _empty(params, hidden_size, keys, heads)

    def project(params, x):
        dt = jax.nn.softplus(x @ params.w_dt + params.b_dt)
        a = jnp.exp(-jnp.exp(params.log_decay) * dt)
        observe(a=a)
        return a, _project(params, x, heads)

    def step(params, s, z):
        a, z = z
        return _replace(a[:, None, None] * s, *z)

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


def _check(input_size, hidden_size, key_size, heads) -> int:
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    keys = hidden_size if key_size is None else checks.size("key_size", key_size)
    by_head.check(heads, hidden_size=hidden_size, key_size=keys)
    return keys


def _init(key, input_size, hidden_size, keys, heads):
    sizes = (keys, keys, hidden_size, heads)
    drawn = zip(jax.random.split(checks.key(key), 4), sizes, strict=True)
    draw = glorot_uniform()
    return DeltaNetParams(*(draw(k, (input_size, size)) for k, size in drawn))


def _empty(params, hidden_size, keys, heads):
    shape = (heads, keys // heads, hidden_size // heads)
    return jnp.zeros(shape, params.w_q.dtype)


def _project(params, x, heads):
    q, k = (
        _to_the_sphere(by_head.split(jax.nn.silu(x @ w), heads))
        for w in (params.w_q, params.w_k)
    )
    v = by_head.split(x @ params.w_v, heads)
    beta = jax.nn.sigmoid(x @ params.w_beta)
    observe(q=q, k=k, v=v, beta=beta)
    return q, k, v, beta


def _replace(s, q, k, v, beta):
    found = jnp.einsum("mk,mkv->mv", k, s)
    s = s + (beta[:, None] * k)[..., None] * (v - found)[:, None]
    y = jnp.einsum("mk,mkv->mv", q, s).ravel()
    observe(S=s, y=y)
    return s, y


def _to_the_sphere(a: Array) -> Array:
    """Length one, but for a vector of zeros, which padding is."""
    return a * lax.rsqrt((a * a).sum(-1, keepdims=True) + 1e-6)
