"""An LSTM that updates in the open phase of an oscillation."""

import math
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


class PhasedLSTMParams(NamedTuple):
    """``w_ih: (i, 4h)``, ``w_hh: (h, 4h)``, ``b: (4h,)``, gates i f g o.

    ``peepholes: (3, h)``, rows i f o, or ``None``. The logarithm of the period and the
    shift of the oscillation: ``log_period: (h,)``, ``shift: (h,)``, in units of time.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    peepholes: Array | None
    log_period: Array
    shift: Array


@constructor
def phased_lstm(
    input_size: int,
    hidden_size: int,
    *,
    peepholes: bool = True,
    ratio_on: float = 0.05,
    leak: float = 0.001,
    longest_period: float = 1000.0,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Phased LSTM: each unit updates in its own rhythm, at times given with the input.

    .. math::

        \phi &= ((t - s) \bmod \tau) / \tau \\
        k &= 2 \phi / r \text{ if } \phi < r / 2, \quad
            2 - 2 \phi / r \text{ if } r / 2 \le \phi < r, \quad
            \alpha \phi \text{ else} \\
        (\hat i, \hat f, \hat g, \hat o) &= x_t W_{ih} + h_{t-1} W_{hh} + b \\
        i &= \sigma(\hat i + p_i \odot c_{t-1}), \quad
            f = \sigma(\hat f + p_f \odot c_{t-1}), \quad g = \tanh(\hat g) \\
        \tilde c &= f \odot c_{t-1} + i \odot g \\
        o &= \sigma(\hat o + p_o \odot \tilde c), \quad
            \tilde h = o \odot \tanh(\tilde c) \\
        c_t &= k \odot \tilde c + (1 - k) \odot c_{t-1} \\
        h_t &= k \odot \tilde h + (1 - k) \odot h_{t-1}

    The input is a pair ``(x, time)`` with ``x: (i,)`` and ``time: ()`` the time at
    which it was sampled, counted from any origin; a sequence is ``(xs, times)`` with
    ``times: (t,)``. Times are taken in their own dtype, as bfloat16 could not tell 1000
    from 1001. The carry is ``LSTMCarry(c, h)``, both ``(h,)`` and zero at first; the
    output is ``h``.

    The period :math:`\tau` starts log-uniform between 1 and ``longest_period``, the
    shift s uniform within it. TensorFlow 1's ``PhasedLSTMCell`` takes ``(time, x)``,
    has full matrices for peepholes, trains r, has no forget bias and stops the gradient
    of the modulus by :math:`\tau`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      peepholes: let i and f see the old memory and o the new one; weights start at
        zero.
      ratio_on: r, the share of a period in which a unit is open.
      leak: :math:`\alpha`, how much a closed unit lets through; the paper sets it to
        zero after training, ``phased_lstm(..., leak=0.0)`` with the same params.
      longest_period: of the units, in the unit of ``time``.
      forget_bias: what the forget gate's part of ``b`` starts at.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a ``ratio_on`` outside of (0, 1) or a ``longest_period`` below 1.

    Reference: Neil, Pfeiffer, Liu 2016, Phased LSTM, arXiv:1610.09513.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.phased_lstm(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> xs, times = jnp.ones((4, 3)), jnp.array([0.0, 0.1, 7.5, 8.0])
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), (xs, times))
    >>> c.shape, ys.shape
    ((5,), (4, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("peepholes", peepholes)
    checks.number("leak", leak, example=0.001)
    checks.number("forget_bias", forget_bias)
    if not 0 < checks.number("ratio_on", ratio_on, example=0.05) < 1:
        raise ValueError(
            f"ratio_on is {ratio_on!r}; expected a share of the period between 0 and "
            "1, both excluded. Write ratio_on=0.05."
        )
    if checks.number("longest_period", longest_period, example=1000.0) < 1:
        raise ValueError(
            f"longest_period is {longest_period!r}; expected 1 or more, as periods "
            "start between 1 and it. Write longest_period=1000.0, and times in a unit "
            "in which inputs are about 1 apart."
        )

    def init(key):
        key_w, key_period, key_shift = jax.random.split(checks.key(key), 3)
        w_ih, w_hh = recurrent_weights(key_w, input_size, hidden_size, 4)
        b = jnp.zeros((4, hidden_size)).at[1].set(forget_bias).ravel()
        log_period = jax.random.uniform(
            key_period, (hidden_size,), maxval=math.log(longest_period)
        )
        shift = jax.random.uniform(key_shift, (hidden_size,)) * jnp.exp(log_period)
        peep = jnp.zeros((3, hidden_size)) if peepholes else None
        return PhasedLSTMParams(w_ih, w_hh, b, peep, log_period, shift)

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.w_hh.dtype)
        return LSTMCarry(zero, zero)

    def project(params, inputs):
        dtype = params.w_ih.dtype
        x, time = checks.timed_input(inputs, input_size, dtype, name="time")
        return x @ params.w_ih + params.b, openness(params, time).astype(dtype)

    def openness(params, time):
        wide = max(time.dtype, params.shift.dtype, key=lambda dtype: dtype.itemsize)
        period = jnp.exp(params.log_period.astype(wide))
        elapsed = time.astype(wide) - params.shift.astype(wide)
        phase = jnp.mod(elapsed, period) / period
        observe(phi=phase)
        rising = 2 * phase / ratio_on
        opened = jnp.where(phase < ratio_on / 2, rising, 2 - rising)
        return jnp.where(phase < ratio_on, opened, leak * phase)

    def step(params, carry, z):
        z, k = z
        i, f, g, o = jnp.split(z + carry.h @ params.w_hh, 4)
        if peepholes:
            i = i + params.peepholes[0] * carry.c
            f = f + params.peepholes[1] * carry.c
        i, f, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g)
        c = f * carry.c + i * g
        if peepholes:
            o = o + params.peepholes[2] * c
        o = jax.nn.sigmoid(o)
        h = o * jnp.tanh(c)
        c, h = k * c + (1 - k) * carry.c, k * h + (1 - k) * carry.h
        observe(k=k, i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, project, step, traversal=traversal, carry_dtype=carry_dtype
    )
