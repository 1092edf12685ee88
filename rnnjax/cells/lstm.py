"""Long short-term memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, kernels, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.kernels.equations import LSTM
from rnnjax.observation import observe


class LSTMParams(NamedTuple):
    """``w_ih: (i, 4h)``, ``w_hh: (h, 4h)``, ``b: (4h,)``, gates i f g o."""

    w_ih: Array
    w_hh: Array
    b: Array


class LSTMCarry(NamedTuple):
    """The memory ``c: (h,)`` and the output ``h: (h,)``, in this order."""

    c: Array
    h: Array


@constructor
def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal | None = None,
    carry_dtype: Any = None,
) -> Cell:
    r"""Long short-term memory with a forget gate.

    .. math::

        (i, f, g, o) &= (\sigma, \sigma, \tanh, \sigma)(
            x_t W_{ih} + h_{t-1} W_{hh} + b) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    The carry is ``LSTMCarry(c, h)``, both ``(h,)`` and zero at first; the output is
    ``h``. Each gate's block of ``w_hh`` is drawn orthogonal.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      forget_bias: what the forget gate's part of ``b`` starts at. It is stored there
        and trained; TensorFlow 1 and Haiku add it at every call instead, so weights
        from them need it added to ``b``.
      activation: in place of both tanh.
      traversal: how time is walked, see `rnnjax.scan`; a kernel where there is one.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Hochreiter, Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; the forget
    gate: Gers, Schmidhuber, Cummins 2000, doi:10.1162/089976600300015015.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> c.shape, ys.shape, bool((ys[-1] == h).all())
    ((5,), (10, 5), True)
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.number("forget_bias", forget_bias)
    checks.activation(activation)

    if traversal is None:
        traversal = kernels.lstm if activation is jnp.tanh else scan.default

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 4)
        b = jnp.zeros((4, hidden_size)).at[1].set(forget_bias).ravel()
        return LSTMParams(w_ih, w_hh, b)

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.w_hh.dtype)
        return LSTMCarry(zero, zero)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, carry, z):
        i, f, g, o = jnp.split(z + carry.h @ params.w_hh, 4)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = activation(g)
        c = f * carry.c + i * g
        h = o * activation(c)
        observe(i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    known = kernels.Known(LSTM, step) if activation is jnp.tanh else step
    given = init, initial_carry, project, known, (input_size,)
    return recurrence(*given, traversal, carry_dtype)
