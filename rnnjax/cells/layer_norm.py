"""Layer normalisation, and the cells that its paper builds on it."""

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


def normalize(x: Array, *, epsilon: float = 1e-5) -> Array:
    r"""Shift and scale the last axis to mean zero and variance one.

    .. math:: LN(x) = (x - \bar x) / \sqrt{\mathrm{var}(x) + \epsilon}

    The gain and the bias of the paper are left to the caller. TensorFlow 1 has
    :math:`\epsilon = 10^{-12}`, Keras :math:`10^{-3}`.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.cells.normalize(jnp.array([1.0, 3.0])).round(3)
    Array([-1.,  1.], dtype=float32)
    """
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


class LayerNormElmanParams(NamedTuple):
    """``w_ih: (i, h)``, ``w_hh: (h, h)``, ``gain: (h,)``, ``b: (h,)``."""

    w_ih: Array
    w_hh: Array
    gain: Array
    b: Array


@constructor
def layer_norm_elman(
    input_size: int,
    hidden_size: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    epsilon: float = 1e-5,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""The simple recurrent network with its sum normalised.

    .. math:: h_t = \tanh(gain \odot LN(x_t W_{ih} + h_{t-1} W_{hh}) + b)

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. It is the
    paper's equation 4, and the ``LayerNormSimpleRNNCell`` of TensorFlow Addons.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      activation: in place of tanh.
      epsilon: added to the variance, see `normalize`.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.layer_norm_elman(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.activation(activation)
    checks.not_negative("epsilon", epsilon, example=1e-5)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 1)
        gain, b = jnp.ones(hidden_size), jnp.zeros(hidden_size)
        return LayerNormElmanParams(w_ih, w_hh, gain, b)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih

    def step(params, h, z):
        a = normalize(z + h @ params.w_hh, epsilon=epsilon)
        h = activation(params.gain * a + params.b)
        observe(h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


class LayerNormGRUParams(NamedTuple):
    """``w_ih: (i, 3h)``, ``w_hh: (h, 3h)``, gates r z n.

    ``gain_ih``, ``gain_hh``, ``b: (3h,)``; ``b_hn: (h,)`` is what the reset gate
    multiplies.
    """

    w_ih: Array
    w_hh: Array
    gain_ih: Array
    gain_hh: Array
    b: Array
    b_hn: Array


@constructor
def layer_norm_gru(
    input_size: int,
    hidden_size: int,
    *,
    epsilon: float = 1e-5,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Gated recurrent unit with its products normalised, and the reset after them.

    .. math::

        (r, z) &= \sigma(gain_{ih} \odot LN(x_t W_{irz})
            + gain_{hh} \odot LN(h_{t-1} W_{hrz}) + b_{rz}) \\
        n &= \tanh(gain_{in} \odot LN(x_t W_{in}) + b_n
            + r \odot (gain_{hn} \odot LN(h_{t-1} W_{hn}) + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. r and z are
    normalised together. Our z is one minus the paper's, and ``b`` the sum of the
    paper's two biases.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      epsilon: added to the variance, see `normalize`.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450,
    its supplement.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.layer_norm_gru(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.not_negative("epsilon", epsilon, example=1e-5)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 3)
        gain, b = jnp.ones(3 * hidden_size), jnp.zeros(3 * hidden_size)
        return LayerNormGRUParams(w_ih, w_hh, gain, gain, b, jnp.zeros(hidden_size))

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def normalized(product, gain):
        parts = jnp.split(product, [2 * hidden_size])
        return gain * jnp.concatenate([normalize(p, epsilon=epsilon) for p in parts])

    def project(params, x):
        return normalized(x @ params.w_ih, params.gain_ih) + params.b

    def step(params, h, z):
        x_r, x_z, x_n = jnp.split(z, 3)
        h_r, h_z, h_n = jnp.split(normalized(h @ params.w_hh, params.gain_hh), 3)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * (h_n + params.b_hn))
        h = (1 - z) * n + z * h
        observe(r=r, z=z, n=n, h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
