"""A diagonal state space for each feature."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax import checks, scan
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal
from rnnjax.cells.diagonal import ComplexCarry
from rnnjax.cells.prepared import prepared
from rnnjax.initializers import hippo
from rnnjax.observation import observe


class S4DParams(NamedTuple):
    """``log_decay``, ``frequency: (i, n)``; ``log_dt``, ``skip: (i,)``.

    ``w_out: (2, i, n)``, real and imaginary parts.
    """

    log_decay: Array
    frequency: Array
    log_dt: Array
    w_out: Array
    skip: Array


@constructor
def s4d(
    input_size: int,
    state_size: int = 32,
    *,
    spectrum: str = "legs",
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    timed: bool = False,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Diagonal state spaces, one for each feature of the input.

    .. math::

        h_t &= e^{\Lambda dt} \odot h_{t-1}
            + \Lambda^{-1} (e^{\Lambda dt} - 1) \odot x_t \\
        y_t &= 2 \Re \textstyle\sum_n W_{out} \odot h_t + skip \odot x_t

    It is the zero-order hold of :math:`\dot h = \Lambda h + x` with complex
    :math:`\Lambda = -e^{log\_decay} + i\, frequency`; the 2 stands for the conjugates
    of the n states. What the paper calls B is 1, as in its experiments: C, here W,
    stands for the product. The carry is ``ComplexCarry(re, im)``, both ``(i, n)`` and
    zero at first; the output is ``y: (i,)``. In a trace ``h: (2, i, n)`` has both
    parts. h is linear in the carry, so that a prefix scan can walk it.

    Features do not see each other, and there is no nonlinearity: both are in the block
    that `rnnjax.residual_block` builds.

    Args:
      input_size: features of one input, ``x: (i,)``, and of one output.
      state_size: complex states n of each feature, each for a conjugate pair.
      spectrum: what :math:`\Lambda` starts as, ``"legs"`` for the eigenvalues of
        `rnnjax.initializers.hippo`, ``"lin"`` for :math:`-\tfrac12 + i \pi n`,
        ``"inv"`` for :math:`-\tfrac12 + i \tfrac{N}{\pi} (\tfrac{N}{2n+1} - 1)` with N
        twice ``state_size``.
      dt_min: the least step size that a feature starts with; steps are log-uniform.
      dt_max: the largest.
      timed: the input is a pair ``(x, elapsed)`` with the time since the input before,
        ``elapsed: ()``, as in `cfc`; it multiplies dt. All ones are the plain cell; a
        2 for every step reads a sequence that was sampled half as often.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for another ``spectrum``, and step sizes that are not in order.

    Reference: Gu, Gupta, Goel, Ré 2022, On the parameterization and initialization of
    diagonal state space models, arXiv:2206.11893.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.s4d(3, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.re.shape, ys.shape
    ((3, 8), (10, 3))
    """
    checks.size("input_size", input_size)
    checks.size("state_size", state_size)
    checks.choice("spectrum", spectrum, ("legs", "lin", "inv"), "spectrum='legs'")
    checks.flag("timed", timed)
    diagonal.check_steps(dt_min, dt_max)

    def init(key):
        key_dt, key_out, key_skip = jax.random.split(checks.key(key), 3)
        w_out = jax.random.normal(key_out, (2, input_size, state_size))
        frequency = jnp.asarray(_frequencies(spectrum, state_size), w_out.dtype)
        shape = (input_size, state_size)
        return S4DParams(
            jnp.full(shape, math.log(0.5)),
            jnp.broadcast_to(frequency, shape),
            diagonal.log_steps(key_dt, (input_size,), dt_min, dt_max),
            w_out / math.sqrt(2),
            jax.random.normal(key_skip, (input_size,)),
        )

    def held(params, elapsed: Any = 1.0):
        dt = elapsed * jnp.exp(params.log_dt)[:, None]
        return diagonal.held(params.log_decay, params.frequency, dt)

    def prepare(params):
        return params, (() if timed else held(params))

    def project(read, inputs):
        params, _ = read
        if not timed:
            return inputs, ()
        dtype = params.skip.dtype
        x, elapsed = checks.timed_input(inputs, input_size, dtype, name="elapsed")
        return x, held(params, elapsed.astype(dtype))

    def step(read, h, z):
        (params, fixed), (x, own) = read, z
        keep, scale = own if timed else fixed
        re, im = diagonal.times(keep, h)
        re, im = re + scale[0] * x[:, None], im + scale[1] * x[:, None]
        read_out = params.w_out[0] * re - params.w_out[1] * im
        y = 2 * read_out.sum(-1) + params.skip * x
        observe(h=jnp.stack([re, im]), y=y)
        return ComplexCarry(re, im), y

    def at_rest(dtype):
        return diagonal.zero(dtype, input_size, state_size)

    shape = None if timed else (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )


def _frequencies(spectrum: str, size: int) -> np.ndarray:
    if spectrum == "legs":
        return hippo(size)[0].imag
    n = np.arange(size)
    if spectrum == "lin":
        return np.pi * n
    return 2 * size / np.pi * (2 * size / (2 * n + 1) - 1)
