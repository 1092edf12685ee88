"""An LSTM along depth as well as along time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells.lstm import LSTMCarry
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class GridLSTMParams(NamedTuple):
    """``w_in: (i, 2h)``, ``b_in: (2h,)``, blocks c h, the start of the depth's memory.

    ``w: (l, 2, 2h, 4h)``, ``b: (l, 2, 4h)``, gates i f g o: for each layer the LSTM
    along time and the one along depth, rows the state of time, then that of depth.
    """

    w_in: Array
    b_in: Array
    w: Array
    b: Array


@constructor
def grid_lstm(
    input_size: int,
    hidden_size: int,
    layers: int,
    *,
    depth_last: bool = False,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Grid LSTM of two dimensions, time and depth.

    .. math::

        (c'_0, h'_0) &= x_t W_{in} + b_{in} \\
        (i, f, g, o)_l &= (\sigma, \sigma, \tanh, \sigma)(
            [h_{l,t-1}, h'_{l-1}] W_l + b_l) \\
        (i', f', g', o')_l &= (\sigma, \sigma, \tanh, \sigma)(
            [h_{l,t-1}, h'_{l-1}] W'_l + b'_l) \\
        c_{l,t} &= f_l \odot c_{l,t-1} + i_l \odot g_l, \quad
            h_{l,t} = o_l \odot \tanh(c_{l,t}) \\
        c'_l &= f'_l \odot c'_{l-1} + i'_l \odot g'_l, \quad
            h'_l = o'_l \odot \tanh(c'_l) \\
        y_t &= h'_L

    A block of the grid sees the states of both dimensions and updates both, each with
    its own weights; the memory c' that runs up through the layers is to depth what c
    is to time. With ``depth_last`` the LSTM along depth reads the new :math:`h_{l,t}`
    in place of :math:`h_{l,t-1}`: the paper's priority dimension. The carry is
    ``LSTMCarry(c, h)``, both ``(l, h)`` and zero at first; the output is ``y: (h,)``.
    In `rnnjax.trace` gates and states have an axis of layers, and those of depth a
    prime, ``"c'"``.

    One layer with ``depth_last=True`` is TensorFlow 1's ``grid_rnn.Grid2LSTMCell``. Its
    cells in a stack are not a deeper grid: each starts c' afresh from its input.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)`` in each layer and dimension.
      layers: l, the depth of the grid.
      depth_last: update time first, then depth by what has become of time.
      forget_bias: what the forget gates' parts of ``b`` start at.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Kalchbrenner, Danihelka, Graves 2016, Grid long short-term memory,
    arXiv:1507.01526.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.grid_lstm(3, 5, layers=2)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> c.shape, ys.shape
    ((2, 5), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.size("layers", layers)
    checks.number("forget_bias", forget_bias)
    checks.flag("depth_last", depth_last)

    def init(key):
        key_in, *keys = jax.random.split(checks.key(key), 1 + 2 * layers)
        w_in = glorot_uniform()(key_in, (input_size, 2 * hidden_size))

        def draw(key):
            # Both halves of the rows are recurrent; each is orthogonal in each gate.
            return jnp.concatenate(
                [
                    recurrent_weights(k, hidden_size, hidden_size, 4)[1]
                    for k in jax.random.split(key)
                ]
            )

        w = jnp.stack([draw(k) for k in keys])
        w = w.reshape(layers, 2, 2 * hidden_size, 4 * hidden_size)
        b = jnp.zeros((layers, 2, 4, hidden_size)).at[:, :, 1].set(forget_bias)
        b = b.reshape(layers, 2, 4 * hidden_size)
        return GridLSTMParams(w_in, jnp.zeros(2 * hidden_size), w, b)

    def initial_carry(params):
        zero = jnp.zeros((layers, hidden_size), params.w.dtype)
        return LSTMCarry(zero, zero)

    def project(params, x):
        c, h = jnp.split(x @ params.w_in + params.b_in, 2)
        return LSTMCarry(c, h)

    def memory(c, gates, mark):
        i, f, g, o = jnp.split(gates, 4)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        g = jnp.tanh(g)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        named = {"i": i, "f": f, "g": g, "o": o, "c": c, "h": h}
        observe(**{name + mark: value for name, value in named.items()})
        return LSTMCarry(c, h)

    def step(params, carry, depth):
        def block(depth, layer):
            time, w, b = layer
            both = jnp.concatenate([time.h, depth.h])
            if depth_last:
                time = memory(time.c, both @ w[0] + b[0], "")
                both = jnp.concatenate([time.h, depth.h])
                return memory(depth.c, both @ w[1] + b[1], "'"), time
            along_time, along_depth = jnp.einsum("i,dik->dk", both, w) + b
            carry = memory(time.c, along_time, "")
            return memory(depth.c, along_depth, "'"), carry

        depth, carry = lax.scan(block, depth, (carry, params.w, params.b))
        observe(y=depth.h)
        return carry, depth.h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
