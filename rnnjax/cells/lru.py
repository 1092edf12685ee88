"""The linear recurrent unit."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal
from rnnjax.cells.diagonal import ComplexCarry
from rnnjax.cells.prepared import prepared
from rnnjax.initializers import ring
from rnnjax.observation import observe


class LRUParams(NamedTuple):
    r"""``eigenvalues: (2, h)``, rows :math:`\nu \theta`; ``log_gamma: (h,)``.

    ``w_in: (2, i, h)`` and ``w_out: (2, h, i)``, real and imaginary parts; ``skip:
    (i,)``.
    """

    eigenvalues: Array
    log_gamma: Array
    w_in: Array
    w_out: Array
    skip: Array


@constructor
def lru(
    input_size: int,
    hidden_size: int,
    *,
    min_radius: float = 0.0,
    max_radius: float = 1.0,
    max_phase: float = 2 * math.pi,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Linear recurrent unit: complex units that turn and decay, each by itself.

    .. math::

        h_t &= e^{-e^\nu + i e^\theta} \odot h_{t-1} + \gamma \odot (x_t W_{in}) \\
        y_t &= \Re(h_t W_{out}) + skip \odot x_t

    h and both W are complex. The carry is ``ComplexCarry(re, im)``, both ``(h,)`` and
    zero at first; the output is ``y: (i,)``. In a trace ``h: (2, h)`` has both parts. h
    is linear in the carry, so that a prefix scan can walk it. The eigenvalues start
    uniform in a ring, see `rnnjax.initializers.ring`, and :math:`\gamma` such that h
    has the variance of the input. With bfloat16 params write ``carry_dtype=
    jnp.float32``: bfloat16 has no number between 0.996 and 1.

    The unit has no nonlinearity: the paper puts it into the block that
    `rnnjax.residual_block` builds.

    Args:
      input_size: features of one input, ``x: (i,)``, and of one output.
      hidden_size: complex units, ``h: (h,)``.
      min_radius: the least absolute value that an eigenvalue starts with; the longer
        the sequences, the closer to 1.
      max_radius: the largest.
      max_phase: the largest angle that an eigenvalue starts with, in radians.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for radii that are not in order or above 1.

    Reference: Orvieto et al. 2023, Resurrecting recurrent neural networks for long
    sequences, arXiv:2303.06349.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lru(3, 5, min_radius=0.9)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.re.shape, ys.shape
    ((5,), (10, 3))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    draw = ring(min_radius, max_radius, max_phase)

    def init(key):
        keys = jax.random.split(checks.key(key), 4)
        eigenvalues = draw(keys[0], (2, hidden_size))
        squares = jnp.exp(-2 * jnp.exp(eigenvalues[0]))
        w_in = jax.random.normal(keys[1], (2, input_size, hidden_size))
        w_out = jax.random.normal(keys[2], (2, hidden_size, input_size))
        return LRUParams(
            eigenvalues,
            0.5 * jnp.log1p(-squares),
            w_in / math.sqrt(2 * input_size),
            w_out / math.sqrt(hidden_size),
            jax.random.normal(keys[3], (input_size,)),
        )

    def prepare(params):
        nu, theta = params.eigenvalues
        radius, angle = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        keep = (radius * jnp.cos(angle), radius * jnp.sin(angle))
        w_in = params.w_in * jnp.exp(params.log_gamma)
        return keep, w_in, params.w_out, params.skip

    def project(read, x):
        _, w_in, _, skip = read
        return x @ w_in[0], x @ w_in[1], skip * x

    def step(read, h, z):
        keep, _, w_out, _ = read
        re, im = diagonal.times(keep, h)
        re, im = re + z[0], im + z[1]
        y = re @ w_out[0] - im @ w_out[1] + z[2]
        observe(h=jnp.stack([re, im]), y=y)
        return ComplexCarry(re, im), y

    def at_rest(dtype):
        return diagonal.zero(dtype, hidden_size)

    shape = (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )
