"""One diagonal state space for all features."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn.initializers import lecun_normal

from rnnjax import checks, scan
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal
from rnnjax.cells.diagonal import ComplexCarry
from rnnjax.cells.prepared import prepared
from rnnjax.initializers import hippo
from rnnjax.observation import observe


class S5Params(NamedTuple):
    """``log_decay``, ``frequency``, ``log_dt: (h,)``; ``skip: (i,)``.

    ``w_in: (2, i, h)`` and ``w_out: (2, h, i)``, real and imaginary parts.
    """

    log_decay: Array
    frequency: Array
    log_dt: Array
    w_in: Array
    w_out: Array
    skip: Array


@constructor
def s5(
    input_size: int,
    hidden_size: int,
    *,
    blocks: int = 1,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    timed: bool = False,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Simplified state space layer: one diagonal state space that all features share.

    .. math::

        h_t &= e^{\Lambda dt} \odot h_{t-1}
            + \Lambda^{-1} (e^{\Lambda dt} - 1) \odot (x_t W_{in}) \\
        y_t &= 2 \Re(h_t W_{out}) + skip \odot x_t

    It is the zero-order hold of :math:`\dot h = \Lambda h + x W_{in}` with complex
    :math:`\Lambda = -e^{log\_decay} + i\, frequency` and complex W; the 2 stands for
    the conjugates of the h units, which real inputs and outputs do not need. The
    authors' code keeps the real part of :math:`\Lambda` itself; by its logarithm it
    stays negative. The carry is ``ComplexCarry(re, im)``, both ``(h,)`` and zero at
    first; the output is ``y: (i,)``. In a trace ``h: (2, h)`` has both parts. h is
    linear in the carry, so that a prefix scan can walk it.

    :math:`\Lambda` starts as the eigenvalues of `rnnjax.initializers.hippo`, and both W
    as draws of real matrices in the basis of its eigenvectors. The layer has no
    nonlinearity: the paper's block is `rnnjax.residual_block`.

    Args:
      input_size: features of one input, ``x: (i,)``, and of one output.
      hidden_size: complex units, each for a conjugate pair: half of the paper's P.
      blocks: copies of a smaller HiPPO matrix that :math:`\Lambda` starts from, the
        paper's J; it divides ``hidden_size``.
      dt_min: the least step size that a unit starts with; steps are log-uniform.
      dt_max: the largest.
      timed: the input is a pair ``(x, elapsed)`` with the time since the input before,
        ``elapsed: ()``, as in `cfc`; it multiplies dt. All ones are the plain cell; a
        2 for every step reads a sequence that was sampled half as often.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``blocks`` that do not divide ``hidden_size``, and step sizes that
        are not in order.

    Reference: Smith, Warrington, Linderman 2023, Simplified state space layers for
    sequence modeling, arXiv:2208.04933.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.s5(3, 8, timed=True)
    >>> params = cell.init(jax.random.key(0))
    >>> xs, elapsed = jnp.ones((4, 3)), jnp.array([1.0, 0.5, 2.0, 1.0])
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), (xs, elapsed))
    >>> h.re.shape, ys.shape
    ((8,), (4, 3))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("timed", timed)
    diagonal.check_steps(dt_min, dt_max)
    if hidden_size % checks.size("blocks", blocks):
        raise ValueError(
            f"blocks is {blocks}; expected a divisor of hidden_size={hidden_size}. "
            f"Write blocks=1, or hidden_size={blocks * (hidden_size // blocks + 1)}."
        )

    def init(key):
        key_dt, key_in, key_out, key_skip = jax.random.split(checks.key(key), 4)
        eigenvalues, eigenvectors = hippo(hidden_size // blocks)
        basis = np.kron(np.eye(blocks), eigenvectors)
        w_in = lecun_normal()(key_in, (input_size, 2 * hidden_size))
        w_out = lecun_normal()(key_out, (2 * hidden_size, input_size))
        re, im = (jnp.asarray(a, w_in.dtype) for a in (basis.real, basis.imag))
        return S5Params(
            jnp.full(hidden_size, math.log(0.5)),
            jnp.asarray(np.tile(eigenvalues.imag, blocks), w_in.dtype),
            diagonal.log_steps(key_dt, (hidden_size,), dt_min, dt_max),
            jnp.stack([w_in @ re, -(w_in @ im)]),  # by the conjugate of the basis
            jnp.stack([re.T @ w_out, im.T @ w_out]),
            jax.random.normal(key_skip, (input_size,)),
        )

    def held(params, elapsed: Any = 1.0):
        dt = elapsed * jnp.exp(params.log_dt)
        return diagonal.held(params.log_decay, params.frequency, dt)

    def prepare(params):
        return params, (() if timed else held(params))

    def project(read, inputs):
        params, fixed = read
        if timed:
            dtype = params.skip.dtype
            x, elapsed = checks.timed_input(inputs, input_size, dtype, name="elapsed")
            keep, scale = held(params, elapsed.astype(dtype))
        else:
            x, (keep, scale) = inputs, fixed
        driven = diagonal.times(scale, (x @ params.w_in[0], x @ params.w_in[1]))
        return (keep if timed else ()), driven, params.skip * x

    def step(read, h, z):
        (params, fixed), (own, driven, skipped) = read, z
        re, im = diagonal.times(own if timed else fixed[0], h)
        re, im = re + driven[0], im + driven[1]
        y = 2 * (re @ params.w_out[0] - im @ params.w_out[1]) + skipped
        observe(h=jnp.stack([re, im]), y=y)
        return ComplexCarry(re, im), y

    def at_rest(dtype):
        return diagonal.zero(dtype, hidden_size)

    shape = None if timed else (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )
