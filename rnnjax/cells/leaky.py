"""Networks of leaky units in continuous time, as neuroscience models them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe
from rnnjax.signals import as_keys


class LeakyParams(NamedTuple):
    """``w_ih: (i, h)``, ``w_hh: (h, h)``, ``b: (h,)``."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def leaky_rnn(
    input_size: int,
    hidden_size: int,
    *,
    dt: float = 0.2,
    noise: float = 0.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Leaky units in continuous time, an Euler step of ``dt`` time constants.

    .. math::

        v_t &= (1 - dt) v_{t-1} + dt (x_t W_{ih} + r_{t-1} W_{hh} + b)
            + \sqrt{2 dt} \, noise \, \xi_t \\
        r_t &= \tanh(v_t), \quad \xi_t \sim N(0, 1)

    for :math:`\tau \dot v = -v + x W_{ih} + r W_{hh} + b
    + \sqrt{2 \tau}\, noise\, \xi`, with dt in units of :math:`\tau`. The carry is the
    potential ``v: (h,)``, zero at first; the output is the rate ``r: (h,)``. Noise is
    drawn where ``unroll`` is given a key; ``step``, and ``unroll`` without a key, have
    none.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``v: (h,)``.
      dt: the step over the time constant, :math:`dt / \tau`, in (0, 1].
      noise: the standard deviation of v under noise alone (without recurrence and for
        small dt).
      activation: from potential to rate, in place of tanh; the paper has ReLU.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a ``dt`` outside of (0, 1] or a negative ``noise``.

    Reference: Song, Yang, Wang 2016, Training excitatory-inhibitory recurrent neural
    networks for cognitive tasks, doi:10.1371/journal.pcbi.1004792. Yang and Wang 2020
    put the activation around the whole input instead, and call the result the state.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.leaky_rnn(3, 5, dt=0.1, noise=0.05)
    >>> params = cell.init(jax.random.key(0))
    >>> xs, key = jnp.ones((10, 3)), jax.random.key(1)
    >>> v, rates = cell.unroll(params, cell.initial_carry(params), xs, key=key)
    >>> v.shape, rates.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 1)
        return LeakyParams(w_ih, w_hh, jnp.zeros(hidden_size))

    def recurrent(params, r):
        return r @ params.w_hh

    sizes = input_size, hidden_size
    return _leaky(init, recurrent, sizes, dt, noise, activation, traversal, carry_dtype)


@constructor
def dale_rnn(
    input_size: int,
    hidden_size: int,
    *,
    excitatory: float = 0.8,
    dt: float = 0.2,
    noise: float = 0.0,
    activation: Callable[[Array], Array] = jax.nn.relu,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Leaky units, each exciting or inhibiting all of its targets (Dale's principle).

    .. math::

        v_t &= (1 - dt) v_{t-1}
            + dt (x_t W_{ih} + (s \odot r_{t-1}) \lvert W_{hh} \rvert + b)
            + \sqrt{2 dt} \, noise \, \xi_t \\
        r_t &= relu(v_t)

    The rest is as in `leaky_rnn`. s is 1 for the first ``excitatory`` share of the
    units and -1 for the others. The diagonal counts as zero: no unit drives itself.
    ``w_hh`` starts as a draw from a Gamma distribution (shape 2), scaled so that
    excitation and inhibition of each unit balance and the spectral radius is about 1.5,
    as in the paper. The paper rectifies the weights; here their magnitude is taken
    instead, so that a weight that crosses zero is not stuck there.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``v: (h,)``, two or more.
      excitatory: the share of excitatory units, in (0, 1).
      dt: the step over the time constant, in (0, 1].
      noise: as in `leaky_rnn`.
      activation: from potential to rate, not negative, in place of ReLU.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for an ``excitatory`` that leaves no unit of one kind, and as
        `leaky_rnn`.

    Reference: Song, Yang, Wang 2016, Training excitatory-inhibitory recurrent neural
    networks for cognitive tasks, doi:10.1371/journal.pcbi.1004792.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.dale_rnn(3, 10)
    >>> params = cell.init(jax.random.key(0))
    >>> v, rates = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> v.shape, bool((rates >= 0).all())
    ((10,), True)
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.number("excitatory", excitatory, example=0.8)
    exciting = round(excitatory * hidden_size)
    if not 0 < exciting < hidden_size:
        raise ValueError(
            f"excitatory is {excitatory!r}, which makes {exciting} of hidden_size="
            f"{hidden_size} units excitatory; expected at least one unit of each kind. "
            "Write excitatory=0.8 and hidden_size=10 or more, or rnnjax.leaky_rnn for "
            "units of both signs."
        )
    inhibiting = hidden_size - exciting

    def init(key):
        key_ih, key_hh = jax.random.split(checks.key(key))
        w_ih = glorot_uniform()(key_ih, (input_size, hidden_size))
        w = jax.random.gamma(key_hh, 2.0, (hidden_size, hidden_size))
        w = w * (1 - jnp.eye(hidden_size))
        # Balanced for each target, not on average alone: an eigenvalue of the common
        # sign would stand far outside of the disc that the others fill.
        excitation, inhibition = w[:exciting].sum(0), w[exciting:].sum(0)
        strength = excitation / jnp.maximum(inhibition, 1e-6)
        w = w.at[exciting:].multiply(strength)
        variance = 2.0 * (exciting + exciting**2 / inhibiting)  # 2 is that of Gamma(2)
        return LeakyParams(w_ih, w * 1.5 / math.sqrt(variance), jnp.zeros(hidden_size))

    def recurrent(params, r):
        sign = jnp.where(jnp.arange(hidden_size) < exciting, 1, -1).astype(r.dtype)
        w = jnp.abs(params.w_hh) * (1 - jnp.eye(hidden_size, dtype=r.dtype))
        return (sign * r) @ w

    sizes = input_size, hidden_size
    return _leaky(init, recurrent, sizes, dt, noise, activation, traversal, carry_dtype)


class LowRankParams(NamedTuple):
    """``w_ih: (i, h)``, ``m: (h, rank)``, ``n: (h, rank)``, ``b: (h,)``."""

    w_ih: Array
    m: Array
    n: Array
    b: Array


@constructor
def low_rank_rnn(
    input_size: int,
    hidden_size: int,
    rank: int,
    *,
    dt: float = 0.2,
    noise: float = 0.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Leaky units whose recurrence has a low rank: a few latent variables drive them.

    .. math::

        v_t &= (1 - dt) v_{t-1} + dt (x_t W_{ih} + \tfrac{1}{h} (r_{t-1} n) m^T + b)
            + \sqrt{2 dt} \, noise \, \xi_t \\
        r_t &= \tanh(v_t)

    The rest is as in `leaky_rnn`. Without input the potential falls into the span of
    the columns of m. Both m and n start as standard normal draws.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``v: (h,)``.
      rank: columns of m and n, at most ``hidden_size``.
      dt: the step over the time constant, in (0, 1].
      noise: as in `leaky_rnn`.
      activation: from potential to rate, in place of tanh.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a ``rank`` above ``hidden_size``, and as `leaky_rnn`.

    Reference: Mastrogiuseppe, Ostojic 2018, Linking connectivity, dynamics, and
    computations in low-rank recurrent neural networks, arXiv:1711.09672.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.low_rank_rnn(3, 10, rank=2)
    >>> params = cell.init(jax.random.key(0))
    >>> v, rates = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> params.m.shape, v.shape
    ((10, 2), (10,))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    if checks.size("rank", rank) > hidden_size:
        raise ValueError(
            f"rank is {rank}; expected at most hidden_size={hidden_size}. Write "
            "rnnjax.leaky_rnn for a recurrence of full rank."
        )

    def init(key):
        key_ih, key_m, key_n = jax.random.split(checks.key(key), 3)
        w_ih = glorot_uniform()(key_ih, (input_size, hidden_size))
        m = jax.random.normal(key_m, (hidden_size, rank))
        n = jax.random.normal(key_n, (hidden_size, rank))
        return LowRankParams(w_ih, m, n, jnp.zeros(hidden_size))

    def recurrent(params, r):
        return (r @ params.n) @ params.m.T / hidden_size

    sizes = input_size, hidden_size
    return _leaky(init, recurrent, sizes, dt, noise, activation, traversal, carry_dtype)


def _leaky(init, recurrent, sizes, dt, noise, activation, traversal, carry_dtype):
    """The Euler step and its noise, around ``recurrent(params, r)``."""
    checks.activation(activation)
    if not 0 < checks.number("dt", dt, example=0.2) <= 1:
        raise ValueError(
            f"dt is {dt!r}; expected a step in (0, 1], in units of the time constant. "
            "Write dt=20 / 100 for steps of 20 ms and a time constant of 100 ms."
        )
    if checks.number("noise", noise, example=0.05) < 0:
        raise ValueError(
            f"noise is {noise!r}; expected a standard deviation, 0 or more. Write "
            "noise=0.05, and a key where you unroll."
        )
    input_size, hidden_size = sizes
    shape = (input_size,)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_ih.dtype)

    def project(params, inputs):
        x, xi = inputs
        z = dt * (x @ params.w_ih + params.b)
        return z if xi is None else z + math.sqrt(2 * dt) * noise * xi

    def advance(params, v, z):
        v = (1 - dt) * v + z + dt * recurrent(params, activation(v))
        r = activation(v)
        observe(v=v, r=r)
        return v, r

    # Noise is one more input, drawn for the whole sequence before time is walked; a
    # step, which has no key, gets none.
    cell = recurrence(
        init,
        initial_carry,
        project,
        advance,
        traversal=traversal,
        carry_dtype=carry_dtype,
    )

    def dtype_of(params):
        return carry_dtype or checks.float_dtype(params)

    def step(params, carry, x):
        x = checks.step_input(x, shape, dtype_of(params))
        return cell.step(params, carry, (x, None))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        dtype = dtype_of(params)
        xs, time = checks.sequence(xs, shape, dtype)
        xi = None
        if key is not None and noise:
            xi = jax.random.normal(as_keys(key).step, (time, hidden_size), dtype)
        return cell.unroll(params, carry, (xs, xi), mask=mask, reset=reset, key=key)

    return Cell(init, cell.initial_carry, step, unroll)
