"""An LSTM in groups that do not see each other."""

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


class GroupedLSTMParams(NamedTuple):
    """``w_ih: (n, i/n, 4h/n)``, ``w_hh: (n, h/n, 4h/n)``, ``b: (n, 4h/n)``, i f g o."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def glstm(
    input_size: int,
    hidden_size: int,
    groups: int,
    *,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""LSTM of n groups, each of which reads its share of the input and of the state.

    .. math::

        (i, f, g, o)_j &= (\sigma, \sigma, \tanh, \sigma)(
            x_{t,j} W_{ih,j} + h_{t-1,j} W_{hh,j} + b_j) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    The carry is ``LSTMCarry(c, h)``, both ``(h,)`` and zero at first, group after
    group; the output is ``h``. It has an n-th of the weights and of the work. Put
    `dense` between layers to mix the groups. TensorFlow 1's ``GLSTMCell`` can project
    each group, which is left out.

    Args:
      input_size: features of one input, ``x: (i,)``, a multiple of ``groups``.
      hidden_size: units, ``h: (h,)``, a multiple of ``groups``.
      groups: n.
      forget_bias: what the forget gate's part of ``b`` starts at; TensorFlow 1 adds it
        at every call instead, and orders gates i j f o.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for sizes that are not multiples of ``groups``.

    Reference: Kuchaiev, Ginsburg 2017, Factorization tricks for LSTM networks,
    arXiv:1703.10722.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.glstm(4, 6, groups=2)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 4)))
    >>> params.w_hh.shape, c.shape, ys.shape
    ((2, 3, 12), (6,), (10, 6))
    """
    checks.size("groups", groups)
    checks.number("forget_bias", forget_bias)
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if checks.size(name, size) % groups:
            raise ValueError(
                f"{name} is {size}; expected a multiple of groups={groups}. Write "
                f"{name}={size + -size % groups}."
            )
    inputs, units = input_size // groups, hidden_size // groups

    def init(key):
        def draw(key):
            return recurrent_weights(key, inputs, units, 4)

        w_ih, w_hh = jax.vmap(draw)(jax.random.split(checks.key(key), groups))
        b = jnp.zeros((groups, 4, units)).at[:, 1].set(forget_bias)
        return GroupedLSTMParams(w_ih, w_hh, b.reshape(groups, 4 * units))

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.w_hh.dtype)
        return LSTMCarry(zero, zero)

    def product(x, w):
        return jnp.einsum("ni,nik->nk", x.reshape(groups, -1), w)

    def project(params, x):
        return product(x, params.w_ih) + params.b

    def step(params, carry, z):
        gates = jnp.split(z + product(carry.h, params.w_hh), 4, axis=-1)
        i, f, g, o = (gate.ravel() for gate in gates)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = jnp.tanh(g)
        c = f * carry.c + i * g
        h = o * jnp.tanh(c)
        observe(i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
