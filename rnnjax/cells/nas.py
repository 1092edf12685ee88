"""The cell that a search over architectures found."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells.lstm import LSTMCarry
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class NASParams(NamedTuple):
    """``w_ih: (i, 8h)``, ``w_hh: (h, 8h)``, ``b: (8h,)``."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def nas(
    input_size: int,
    hidden_size: int,
    *,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""The cell found by neural architecture search.

    .. math::

        p &= \tanh(\sigma(z_0 + a_0) \odot relu(z_1 + a_1)) \\
        q &= \tanh(\sigma(z_2 + a_2) + relu(z_3 \odot a_3)) \\
        r &= \tanh(\tanh(z_4 + a_4) \odot \sigma(z_5 + a_5)) \\
        s &= \sigma(\tanh(z_6 + a_6) + \sigma(z_7 + a_7)) \\
        c_t &= \tanh(p + c_{t-1}) \odot q \\
        h_t &= \tanh(c_t \odot \tanh(r + s))

    with the eight blocks :math:`z_k` of :math:`x_t W_{ih}` and :math:`a_k` of
    :math:`h_{t-1} W_{hh} + b`. The carry is ``LSTMCarry(c, h)``, both ``(h,)`` and zero
    at first; the output is ``h``. The bias is optional in TensorFlow's ``NASCell``;
    ours starts at zero.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Zoph, Le 2017, Neural architecture search with reinforcement learning,
    arXiv:1611.01578.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.nas(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> c.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 8)
        return NASParams(w_ih, w_hh, jnp.zeros(8 * hidden_size))

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.w_hh.dtype)
        return LSTMCarry(zero, zero)

    def project(params, x):
        return x @ params.w_ih

    def step(params, carry, z):
        z = jnp.split(z, 8)
        a = jnp.split(carry.h @ params.w_hh + params.b, 8)
        tanh, sigmoid, relu = jnp.tanh, jax.nn.sigmoid, jax.nn.relu
        p = tanh(sigmoid(z[0] + a[0]) * relu(z[1] + a[1]))
        q = tanh(sigmoid(z[2] + a[2]) + relu(z[3] * a[3]))
        r = tanh(tanh(z[4] + a[4]) * sigmoid(z[5] + a[5]))
        s = sigmoid(tanh(z[6] + a[6]) + sigmoid(z[7] + a[7]))
        c = tanh(p + carry.c) * q
        h = tanh(c * tanh(r + s))
        observe(p=p, q=q, r=r, s=s, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
