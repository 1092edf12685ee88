"""Echo state networks: a reservoir that is drawn once and never trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.observation import observe


class EchoStateParams(NamedTuple):
    """``w_ih: (i, h)``, ``w_hh: (h, h)``, ``b: (h,)``: drawn, and without gradients."""

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def echo_state(
    input_size: int,
    hidden_size: int,
    *,
    spectral_radius: float = 0.9,
    leak: float = 1.0,
    density: float = 0.1,
    input_scale: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Echo state network: a fixed random reservoir of leaky units.

    .. math::

        n &= \tanh(x_t W_{ih} + h_{t-1} W_{hh} + b) \\
        h_t &= (1 - leak) h_{t-1} + leak \; n

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. Only what
    reads the reservoir is learned, in one step by `ridge_readout`: gradients with
    respect to these params are zero, and pass through to inputs and carry. ``w_hh``
    starts with as many weights that are not zero as ``density`` says, normal and scaled
    to the spectral radius; ``w_ih`` and ``b`` uniform within ``input_scale``.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      spectral_radius: the largest absolute eigenvalue of ``w_hh``; the closer to 1, the
        longer the echoes.
      leak: how far a unit moves in a step, in (0, 1].
      density: the share of weights in ``w_hh`` that are not zero, in (0, 1].
      input_scale: of input weights and biases.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a share outside of (0, 1], and numbers that are not positive.

    Reference: Jaeger, Lukoševičius, Popovici, Siewert 2007, Optimization and
    applications of echo state networks with leaky-integrator neurons,
    doi:10.1016/j.neunet.2007.04.016; without leak: Jaeger 2001, GMD report 148.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.echo_state(1, 50)
    >>> params = cell.init(jax.random.key(0))
    >>> wave = jnp.sin(0.2 * jnp.arange(300.0))[:, None]
    >>> _, ys = cell.unroll(params, cell.initial_carry(params), wave[:-1])
    >>> readout = rnnjax.ridge_readout(ys[100:], wave[101:])
    >>> model = rnnjax.stack(cell, rnnjax.dense(50, 1))  # the next value of the wave
    >>> whole = (params, readout)
    >>> _, found = model.unroll(whole, model.initial_carry(whole), wave[:-1])
    >>> bool((jnp.abs(found - wave[1:])[100:] < 0.01).all())
    True
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.positive("spectral_radius", spectral_radius, example=0.9)
    checks.positive("input_scale", input_scale)
    for name, share in {"leak": leak, "density": density}.items():
        if checks.positive(name, share, example=0.1) > 1:
            raise ValueError(
                f"{name} is {share!r}; expected a share in (0, 1]. Write {name}=0.1."
            )

    def init(key):
        key_ih, key_hh, key_there, key_b = jax.random.split(checks.key(key), 4)
        shape = (hidden_size, hidden_size)
        there = jax.random.bernoulli(key_there, density, shape)
        w_hh = jnp.where(there, jax.random.normal(key_hh, shape), 0)
        # A sparse draw of few units may have no cycle, and no radius to scale.
        radius = _radius(w_hh)
        w_hh = w_hh * jnp.where(radius > 0, spectral_radius / radius, 1)
        w_ih = jax.random.uniform(key_ih, (input_size, hidden_size), minval=-1.0)
        b = jax.random.uniform(key_b, (hidden_size,), minval=-1.0)
        return EchoStateParams(input_scale * w_ih, w_hh, input_scale * b)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        w_ih, b = lax.stop_gradient((params.w_ih, params.b))
        return x @ w_ih + b

    def step(params, h, z):
        n = jnp.tanh(z + h @ lax.stop_gradient(params.w_hh))
        h = (1 - leak) * h + leak * n
        observe(n=n, h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


def _radius(w: Array) -> Array:
    """The spectral radius, by Gelfand's formula: the root of the norm of a power.

    Products alone, where eigenvalues of a matrix that is not symmetric are for CPUs.
    """
    power, log_radius = w, jnp.zeros((), w.dtype)
    for k in range(20):
        norm = jnp.maximum(jnp.linalg.norm(power), jnp.finfo(w.dtype).tiny)
        log_radius = log_radius + jnp.log(norm) / 2**k
        power = power / norm
        power = power @ power
    return jnp.where((power != 0).any(), jnp.exp(log_radius), 0)
