"""The LSTM and the GRU over images, with convolutions in place of products."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform, orthogonal

from rnnjax import checks, forms, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells.lstm import LSTMCarry
from rnnjax.initializers import per_gate
from rnnjax.kernels.convolutions import convolve
from rnnjax.observation import observe

Sizes = int | tuple[int, ...]
"""One number for every spatial dimension, or a tuple with one for each."""


class ConvLSTMParams(NamedTuple):
    """``w_ih: (*kernel, i, 4h)``, ``w_hh: (*kernel, h, 4h)``, ``b: (4h,)``, i f g o."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def conv_lstm(
    input_shape: tuple[int, ...],
    features: int,
    kernel_size: Sizes = 3,
    *,
    strides: Sizes = 1,
    padding: str = "SAME",
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""LSTM over 1, 2 or 3 spatial dimensions, with convolutions for products.

    .. math::

        (i, f, g, o) &= (\sigma, \sigma, \tanh, \sigma)(
            x_t * W_{ih} + h_{t-1} * W_{hh} + b) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    The carry is ``LSTMCarry(c, h)``, both ``(*space, h)`` and zero at first; the output
    is ``h``. ``strides`` and ``padding`` are those of the input's convolution and
    decide how large ``space`` is; the recurrent one keeps it, with stride 1 and zero
    padding. Keras does the same; TensorFlow 1's ``ConvLSTMCell`` has only ``"SAME"``
    and adds the forget bias at every call. Like both of them, this cell leaves out the
    paper's peepholes, which have a weight at each place.

    Args:
      input_shape: of one input, channels last: ``(w, i)``, ``(h, w, i)`` or
        ``(d, h, w, i)``.
      features: channels of ``c`` and ``h``.
      kernel_size: of both kernels, one number or one for each spatial dimension.
      strides: of the input's convolution, in the same form.
      padding: ``"SAME"`` or ``"VALID"``, of the input's convolution.
      forget_bias: what the forget gate's part of ``b`` starts at.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for shapes of other than 1 to 3 spatial dimensions, another padding,
        or a kernel that does not fit into the input.

    Reference: Shi, Chen, Wang, Yeung, Wong, Woo 2015, Convolutional LSTM network,
    arXiv:1506.04214.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.conv_lstm((8, 8, 3), 4)
    >>> params = cell.init(jax.random.key(0))
    >>> video = jnp.ones((10, 8, 8, 3))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), video)
    >>> c.shape, ys.shape
    ((8, 8, 4), (10, 8, 8, 4))
    """
    checks.size("features", features)
    checks.number("forget_bias", forget_bias)
    kernel, strides, space = _geometry(input_shape, kernel_size, strides, padding)
    each_place = (1,) * len(space)

    def init(key):
        w_ih, w_hh = _weights(key, kernel, input_shape[-1], features, 4)
        b = jnp.zeros((4, features)).at[1].set(forget_bias).ravel()
        return ConvLSTMParams(w_ih, w_hh, b)

    def initial_carry(params):
        zero = jnp.zeros((*space, features), params.w_hh.dtype)
        return LSTMCarry(zero, zero)

    def project(params, x):
        return convolve(x, params.w_ih, strides, padding) + params.b

    def step(params, carry, z):
        gates = z + convolve(carry.h, params.w_hh, each_place, "SAME")
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = jnp.tanh(g)
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        observe(i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, project, step, input_shape, traversal, carry_dtype
    )


class ConvGRUParams(NamedTuple):
    """``w_ih: (*kernel, i, 3h)``, ``w_hh: (*kernel, h, 3h)``, ``b: (3h,)``, r z n."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def conv_gru(
    input_shape: tuple[int, ...],
    features: int,
    kernel_size: Sizes = 3,
    *,
    strides: Sizes = 1,
    padding: str = "SAME",
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""GRU over 1, 2 or 3 spatial dimensions, with the reset before the convolution.

    .. math::

        r &= \sigma(x_t * W_{ir} + h_{t-1} * W_{hr} + b_r) \\
        z &= \sigma(x_t * W_{iz} + h_{t-1} * W_{hz} + b_z) \\
        n &= \tanh(x_t * W_{in} + (r \odot h_{t-1}) * W_{hn} + b_n) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The carry is ``h: (*space, h)``, zero at first, and the output is ``h`` too. z is
    one minus the paper's, as in `gru`. Shapes, strides and padding are as in
    `conv_lstm`.

    Args:
      input_shape: of one input, channels last, with 1 to 3 spatial dimensions.
      features: channels of ``h``.
      kernel_size: of both kernels, one number or one for each spatial dimension.
      strides: of the input's convolution, in the same form.
      padding: ``"SAME"`` or ``"VALID"``, of the input's convolution.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: as `conv_lstm`.

    Reference: Ballas, Yao, Pal, Courville 2016, Delving deeper into convolutional
    networks for learning video representations, arXiv:1511.06432.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.conv_gru((8, 8, 3), 4, strides=2)
    >>> params = cell.init(jax.random.key(0))
    >>> video = jnp.ones((10, 8, 8, 3))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), video)
    >>> h.shape, ys.shape
    ((4, 4, 4), (10, 4, 4, 4))
    """
    checks.size("features", features)
    kernel, strides, space = _geometry(input_shape, kernel_size, strides, padding)
    each_place = (1,) * len(space)

    def init(key):
        w_ih, w_hh = _weights(key, kernel, input_shape[-1], features, 3)
        return ConvGRUParams(w_ih, w_hh, jnp.zeros(3 * features))

    def initial_carry(params):
        return jnp.zeros((*space, features), params.w_hh.dtype)

    def project(params, x):
        return convolve(x, params.w_ih, strides, padding) + params.b

    def step(params, h, z):
        x_rz, x_n = jnp.split(z, [2 * features], axis=-1)
        w_rz, w_n = jnp.split(params.w_hh, [2 * features], axis=-1)
        rz = jax.nn.sigmoid(x_rz + convolve(h, w_rz, each_place, "SAME"))
        r, z = jnp.split(rz, 2, axis=-1)
        n = jnp.tanh(x_n + convolve(r * h, w_n, each_place, "SAME"))
        h = (1 - z) * n + z * h
        observe(r=r, z=z, n=n, h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, input_shape, traversal, carry_dtype
    )


def _weights(key, kernel, inputs, features, gates):
    key_ih, key_hh = jax.random.split(checks.key(key))
    columns = gates * features
    w_ih = per_gate(glorot_uniform(), gates)(key_ih, (*kernel, inputs, columns))
    w_hh = per_gate(orthogonal(), gates)(key_hh, (*kernel, features, columns))
    return w_ih, w_hh


def _geometry(input_shape, kernel_size, strides, padding):
    """The sizes of the kernel and the strides, and the space of the carry."""
    if not isinstance(input_shape, tuple) or len(input_shape) not in (2, 3, 4):
        raise ValueError(
            f"input_shape is {forms.outline(input_shape)}; expected a tuple of 1 to 3 "
            "spatial dimensions and the channels. Write input_shape=(height, width, "
            "channels)."
        )
    for size in input_shape:
        checks.size("input_shape", size)
    write = "padding='SAME', and pad the input by jnp.pad for anything else"
    checks.choice("padding", padding, ("SAME", "VALID"), write)
    *space, _ = input_shape
    kernel = _each("kernel_size", kernel_size, len(space))
    strides = _each("strides", strides, len(space))
    if padding == "SAME":
        after = tuple(math.ceil(n / s) for n, s in zip(space, strides, strict=True))
        return kernel, strides, after
    if any(k > n for k, n in zip(kernel, space, strict=True)):
        raise ValueError(
            f"kernel_size is {kernel}, larger than the input, {tuple(space)}, which "
            "padding='VALID' leaves nothing of; expected one that fits. Write a "
            "smaller kernel_size, or padding='SAME'."
        )
    sizes = zip(space, kernel, strides, strict=True)
    return kernel, strides, tuple((n - k) // s + 1 for n, k, s in sizes)


def _each(name, value, dimensions):
    values = value if isinstance(value, tuple) else (value,) * dimensions
    if len(values) != dimensions:
        raise ValueError(
            f"{name} is {forms.outline(value)}; expected one number, or a tuple of "
            f"{dimensions}, one for each spatial dimension. Write "
            f"{name}={(3,) * dimensions}."
        )
    return tuple(checks.size(name, v) for v in values)
