"""The GRU and the LSTM without recurrence in their gates: linear in the carry."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import per_gate
from rnnjax.observation import observe


class MinimalParams(NamedTuple):
    """``w: (i, kh)``, ``b: (kh,)``; gates z n for `min_gru`, f i n for `min_lstm`."""

    w: Array
    b: Array


@constructor
def min_gru(
    input_size: int,
    hidden_size: int,
    *,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Minimal GRU: gate and candidate read the input alone.

    .. math::

        z &= \sigma(x_t W_z + b_z) \\
        n &= x_t W_n + b_n \\
        h_t &= (1 - z) \odot h_{t-1} + z \odot n

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. h is linear in
    the carry, so that a prefix scan can walk it. z is the paper's, one minus that of
    `gru`; for its scan in logarithms the paper makes n positive, which nothing here
    needs.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, Were RNNs all we
    needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.min_gru(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)

    def init(key):
        return _init(key, input_size, hidden_size, 2)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w.dtype)

    def project(params, x):
        z, n = jnp.split(x @ params.w + params.b, 2)
        z = jax.nn.sigmoid(z)
        observe(z=z, n=n)
        return 1 - z, z * n

    def step(params, h, z):
        keep, update = z
        h = keep * h + update
        observe(h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


@constructor
def min_lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Minimal LSTM: gates read the input alone and share out the memory.

    .. math::

        f &= \sigma(x_t W_f + b_f) \\
        i &= \sigma(x_t W_i + b_i) \\
        n &= x_t W_n + b_n \\
        h_t &= \frac{f}{f + i} \odot h_{t-1} + \frac{i}{f + i} \odot n

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. h is linear in
    the carry, so that a prefix scan can walk it. For its scan in logarithms the paper
    makes n positive, which nothing here needs.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      forget_bias: what the forget gate's part of ``b`` starts at.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, Were RNNs all we
    needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.min_lstm(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.number("forget_bias", forget_bias)

    def init(key):
        params = _init(key, input_size, hidden_size, 3)
        return params._replace(b=params.b.at[:hidden_size].set(forget_bias))

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w.dtype)

    def project(params, x):
        f, i, n = jnp.split(x @ params.w + params.b, 3)
        # f / (f + i) of two sigmoids, without the division of zero by zero that they
        # come to when both gates are shut.
        keep = jax.nn.sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i))
        observe(f=jax.nn.sigmoid(f), i=jax.nn.sigmoid(i), n=n)
        return keep, (1 - keep) * n

    def step(params, h, z):
        keep, update = z
        h = keep * h + update
        observe(h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


def _init(key, input_size, hidden_size, gates):
    shape = (input_size, gates * hidden_size)
    w = per_gate(glorot_uniform(), gates)(checks.key(key), shape)
    return MinimalParams(w, jnp.zeros(gates * hidden_size))
