"""Coupled oscillators, and a system with two learned time scales."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class CoRNNParams(NamedTuple):
    """``w_ih: (i, h)``; ``w_hh: (h, h)`` of positions, ``w_vh: (h, h)`` of velocities.

    ``b: (h,)``.
    """

    w_ih: Array
    w_hh: Array
    w_vh: Array
    b: Array


class CoRNNCarry(NamedTuple):
    """Positions ``h`` and velocities ``v`` of the oscillators, both ``(h,)``."""

    h: Array
    v: Array


@constructor
def cornn(
    input_size: int,
    hidden_size: int,
    *,
    dt: float = 0.042,
    stiffness: float = 2.7,
    damping: float = 4.7,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Coupled oscillatory network: damped oscillators that drive each other.

    .. math::

        v_t &= v_{t-1} + dt (\tanh(h_{t-1} W_{hh} + v_{t-1} W_{vh} + x_t W_{ih} + b)
            - \gamma h_{t-1} - \epsilon v_{t-1}) \\
        h_t &= h_{t-1} + dt \, v_t

    for :math:`\ddot h = \tanh(h W_{hh} + \dot h W_{vh} + x W_{ih} + b) - \gamma h -
    \epsilon \dot h` with stiffness :math:`\gamma` and damping :math:`\epsilon`.
    Gradients through it are bounded, and fall with dt rather than with the number of
    steps. The carry is ``CoRNNCarry(h, v)``, both ``(h,)`` and zero at first; the
    output is ``h``. The paper writes y and z for h and v. The defaults are those of its
    sequential digits.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: oscillators, ``h: (h,)``.
      dt: the time step, above zero.
      stiffness: :math:`\gamma`, the square of the frequency of a free oscillator.
      damping: :math:`\epsilon`.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for numbers that are not positive.

    Reference: Rusch, Mishra 2021, Coupled oscillatory recurrent neural network
    (coRNN), arXiv:2010.00951.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.cornn(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> (h, v), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.positive("dt", dt, example=0.042)
    checks.positive("stiffness", stiffness, example=2.7)
    checks.positive("damping", damping, example=4.7)

    def init(key):
        key_h, key_v = jax.random.split(checks.key(key))
        w_ih, w_hh = recurrent_weights(key_h, input_size, hidden_size, 1)
        w_vh = jax.nn.initializers.orthogonal()(key_v, (hidden_size, hidden_size))
        return CoRNNParams(w_ih, w_hh, w_vh, jnp.zeros(hidden_size))

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.b.dtype)
        return CoRNNCarry(zero, zero)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, carry, z):
        h, v = carry
        drive = jnp.tanh(h @ params.w_hh + v @ params.w_vh + z)
        v = v + dt * (drive - stiffness * h - damping * v)
        h = h + dt * v
        observe(v=v, h=h)
        return CoRNNCarry(h, v), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


class LEMParams(NamedTuple):
    """``w_ih: (i, 4h)``, ``b: (4h,)``, blocks of the steps d e and of z y.

    ``w_hh: (h, 3h)``, from y to d e z, and ``w_zy: (h, h)``.
    """

    w_ih: Array
    w_hh: Array
    w_zy: Array
    b: Array


class LEMCarry(NamedTuple):
    """The slow state ``z`` and the fast one ``y``, both ``(h,)``."""

    z: Array
    y: Array


@constructor
def lem(
    input_size: int,
    hidden_size: int,
    *,
    dt: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Long expressive memory: two states, each unit with time steps that it chooses.

    .. math::

        d &= dt \, \sigma(x_t W_{id} + y_{t-1} W_{yd} + b_d) \\
        e &= dt \, \sigma(x_t W_{ie} + y_{t-1} W_{ye} + b_e) \\
        z_t &= (1 - d) \odot z_{t-1}
            + d \odot \tanh(x_t W_{iz} + y_{t-1} W_{yz} + b_z) \\
        y_t &= (1 - e) \odot y_{t-1}
            + e \odot \tanh(x_t W_{iy} + z_t W_{zy} + b_y)

    The carry is ``LEMCarry(z, y)``, both ``(h,)`` and zero at first; the output is
    ``y``. The paper writes :math:`\Delta t_n` and :math:`\bar{\Delta t}_n` for d and e.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``y: (h,)``.
      dt: the longest time step, in (0, 1].
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a ``dt`` outside of (0, 1].

    Reference: Rusch, Mishra, Erichson, Mahoney 2022, Long expressive memory for
    sequence modeling, arXiv:2110.04744.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lem(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> (z, y), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> y.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    if checks.positive("dt", dt, example=1.0) > 1:
        raise ValueError(
            f"dt is {dt!r}; expected a step in (0, 1], beyond which states overshoot. "
            "Write dt=1.0."
        )

    def init(key):
        # Uniform within the inverse root of the units, as in the authors' code.
        bound = hidden_size**-0.5
        sizes = ((input_size, 4), (hidden_size, 3), (hidden_size, 1))
        keys = jax.random.split(checks.key(key), 4)
        w_ih, w_hh, w_zy = (
            jax.random.uniform(
                k, (rows, blocks * hidden_size), minval=-bound, maxval=bound
            )
            for k, (rows, blocks) in zip(keys, sizes, strict=False)
        )
        b = jax.random.uniform(keys[3], (4 * hidden_size,), minval=-bound, maxval=bound)
        return LEMParams(w_ih, w_hh, w_zy, b)

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.b.dtype)
        return LEMCarry(zero, zero)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, carry, inputs):
        z, y = carry
        inner, last = jnp.split(inputs, [3 * hidden_size])
        d, e, n = jnp.split(inner + y @ params.w_hh, 3)
        d, e = dt * jax.nn.sigmoid(d), dt * jax.nn.sigmoid(e)
        z = (1 - d) * z + d * jnp.tanh(n)
        y = (1 - e) * y + e * jnp.tanh(last + z @ params.w_zy)
        observe(d=d, e=e, z=z, y=y)
        return LEMCarry(z, y), y

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
