"""Cells with an update gate: UGRNN, and the intersection RNN that gates depth too."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class UGRNNParams(NamedTuple):
    """``w_ih: (i, 2h)``, ``w_hh: (h, 2h)``, ``b: (2h,)``, gates g n."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def ugrnn(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Update gate RNN, between the simple network and the GRU.

    .. math::

        g &= \sigma(x_t W_{ig} + h_{t-1} W_{hg} + b_g) \\
        n &= \tanh(x_t W_{in} + h_{t-1} W_{hn} + b_n) \\
        h_t &= g \odot h_{t-1} + (1 - g) \odot n

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      forget_bias: what the bias of g starts at; TensorFlow 1's ``UGRNNCell`` adds it
        at every call instead.
      activation: in place of tanh.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Collins, Sohl-Dickstein, Sussillo 2016, Capacity and trainability in
    recurrent neural networks, arXiv:1611.09913.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.ugrnn(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.number("forget_bias", forget_bias)
    checks.activation(activation)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 2)
        b = jnp.zeros((2, hidden_size)).at[0].set(forget_bias).ravel()
        return UGRNNParams(w_ih, w_hh, b)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, h, z):
        g, n = jnp.split(z + h @ params.w_hh, 2)
        g, n = jax.nn.sigmoid(g), activation(n)
        h = g * h + (1 - g) * n
        observe(g=g, n=n, h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


class IntersectionRNNParams(NamedTuple):
    """``w_ih: (s, 4s)``, ``w_hh: (s, 4s)``, ``b: (4s,)``, gates gh nh gy ny."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def intersection_rnn(
    size: int,
    *,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Intersection RNN (+RNN): a gate along time and one along depth.

    .. math::

        (g_h, n_h, g_y, n_y) &= (\sigma, \tanh, \sigma, relu)(
            x_t W_{ih} + h_{t-1} W_{hh} + b) \\
        h_t &= g_h \odot h_{t-1} + (1 - g_h) \odot n_h \\
        y_t &= g_y \odot x_t + (1 - g_y) \odot n_y

    The carry is ``h: (s,)``, zero at first; the output is ``y: (s,)``. As y mixes with
    x both have one size: for other inputs put `dense` in front, which is what the
    ``num_in_proj`` of TensorFlow 1's ``IntersectionRNNCell`` does.

    Args:
      size: features of one input, ``x: (s,)``, units and features of the output.
      forget_bias: what the biases of both gates start at; TensorFlow 1 adds it at
        every call instead.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Collins, Sohl-Dickstein, Sussillo 2016, Capacity and trainability in
    recurrent neural networks, arXiv:1611.09913.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.intersection_rnn(5)
    >>> deep = rnnjax.stack(rnnjax.dense(3, 5), cell, cell)
    >>> params = deep.init(jax.random.key(0))
    >>> carry, ys = deep.unroll(params, deep.initial_carry(params), jnp.ones((10, 3)))
    >>> ys.shape
    (10, 5)
    """
    checks.size("size", size)
    checks.number("forget_bias", forget_bias)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), size, size, 4)
        gates = jnp.array([0, 2])
        b = jnp.zeros((4, size)).at[gates].set(forget_bias).ravel()
        return IntersectionRNNParams(w_ih, w_hh, b)

    def initial_carry(params):
        return jnp.zeros(size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih + params.b, x

    def step(params, h, z):
        z, x = z
        gh, nh, gy, ny = jnp.split(z + h @ params.w_hh, 4)
        gh, gy = jax.nn.sigmoid(gh), jax.nn.sigmoid(gy)
        nh, ny = jnp.tanh(nh), jax.nn.relu(ny)
        h = gh * h + (1 - gh) * nh
        y = gy * x + (1 - gy) * ny
        observe(gh=gh, nh=nh, gy=gy, ny=ny, h=h, y=y)
        return h, y

    return recurrence(
        init, initial_carry, project, step, (size,), traversal, carry_dtype
    )
