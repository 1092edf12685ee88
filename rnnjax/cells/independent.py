"""Cells whose units see only themselves through time: a vector in place of ``w_hh``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells.lstm import LSTMCarry
from rnnjax.initializers import per_gate
from rnnjax.observation import observe


class IndependentParams(NamedTuple):
    """``w_ih: (i, kh)``, ``u: (k, h)``, ``b: (kh,)`` for k gates.

    One gate for `indrnn`, i f g o for `indy_lstm`, r z n for `indy_gru`.
    """

    w_ih: Array
    u: Array
    b: Array


def _project(params: IndependentParams, x: Array) -> Array:
    return x @ params.w_ih + params.b


def _init(key, input_size, hidden_size, gates, lowest):
    key_w, key_u = jax.random.split(checks.key(key))
    w_ih = per_gate(glorot_uniform(), gates)(key_w, (input_size, gates * hidden_size))
    u = jax.random.uniform(key_u, (gates, hidden_size), minval=lowest)
    return IndependentParams(w_ih, u, jnp.zeros(gates * hidden_size))


@constructor
def indrnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Independently recurrent network: each unit reads only its own past.

    .. math:: h_t = relu(x_t W_{ih} + u \odot h_{t-1} + b)

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. The gradient
    through t steps is :math:`u^t` where the units are active, so u decides how long a
    unit remembers; it starts uniform in [0, 1], so that long memories exist and none
    explodes. Units talk to each other in the next layer of a stack.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      activation: in place of ReLU; TensorFlow 1's ``IndRNNCell`` has tanh, and draws u
        from [-1, 1].
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Li, Li, Cook, Zhu, Gao 2018, Independently recurrent neural network,
    arXiv:1803.04831.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.indrnn(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> params.u.shape, h.shape, ys.shape
    ((1, 5), (5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.activation(activation)

    def init(key):
        return _init(key, input_size, hidden_size, 1, 0.0)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.u.dtype)

    def step(params, h, z):
        h = activation(z + params.u[0] * h)
        observe(h=h)
        return h, h

    return recurrence(
        init, initial_carry, _project, step, (input_size,), traversal, carry_dtype
    )


@constructor
def indy_lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""LSTM whose units see only themselves through time.

    .. math::

        (i, f, g, o) &= (\sigma, \sigma, \tanh, \sigma)(
            x_t W_{ih} + u \odot h_{t-1} + b) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    The carry is ``LSTMCarry(c, h)``, both ``(h,)`` and zero at first; the output is
    ``h``. ``u: (4, h)`` starts uniform in [-1, 1].

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      forget_bias: what the forget gate's part of ``b`` starts at; TensorFlow 1's
        ``IndyLSTMCell`` adds it at every call instead, and orders gates i j f o.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Gonnet, Deselaers 2019, IndyLSTMs: independently recurrent LSTMs,
    arXiv:1903.08023.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.indy_lstm(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> params.u.shape, c.shape, ys.shape
    ((4, 5), (5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.number("forget_bias", forget_bias)

    def init(key):
        params = _init(key, input_size, hidden_size, 4, -1.0)
        b = jnp.zeros((4, hidden_size)).at[1].set(forget_bias).ravel()
        return params._replace(b=b)

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.u.dtype)
        return LSTMCarry(zero, zero)

    def step(params, carry, z):
        i, f, g, o = z.reshape(4, hidden_size) + params.u * carry.h
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = jnp.tanh(g)
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        observe(i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, _project, step, (input_size,), traversal, carry_dtype
    )


@constructor
def indy_gru(
    input_size: int,
    hidden_size: int,
    *,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""GRU whose units see only themselves through time.

    .. math::

        r &= \sigma(x_t W_{ir} + u_r \odot h_{t-1} + b_r) \\
        z &= \sigma(x_t W_{iz} + u_z \odot h_{t-1} + b_z) \\
        n &= \tanh(x_t W_{in} + u_n \odot r \odot h_{t-1} + b_n) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. Resetting
    before or after the product with a vector is the same. TensorFlow 1's
    ``IndyGRUCell`` starts the gates' biases at 1, ours at 0; ``u: (3, h)`` starts
    uniform in [-1, 1].

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Gonnet, Deselaers 2019, IndyLSTMs: independently recurrent LSTMs,
    arXiv:1903.08023; the unit: Cho et al. 2014, arXiv:1406.1078.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.indy_gru(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> params.u.shape, h.shape, ys.shape
    ((3, 5), (5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)

    def init(key):
        return _init(key, input_size, hidden_size, 3, -1.0)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.u.dtype)

    def step(params, h, z):
        x_r, x_z, x_n = jnp.split(z, 3)
        u_r, u_z, u_n = params.u
        r, z = jax.nn.sigmoid(x_r + u_r * h), jax.nn.sigmoid(x_z + u_z * h)
        n = jnp.tanh(x_n + u_n * (r * h))
        h = (1 - z) * n + z * h
        observe(r=r, z=z, n=n, h=h)
        return h, h

    return recurrence(
        init, initial_carry, _project, step, (input_size,), traversal, carry_dtype
    )
