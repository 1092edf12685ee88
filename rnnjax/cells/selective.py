"""A state space whose step size, input and output weights are chosen by the input."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import lecun_normal

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal
from rnnjax.observation import observe


class SelectiveSSMParams(NamedTuple):
    """``w: (s, rank + 2n)``, blocks d B C; ``w_dt: (rank, s)``, ``b_dt: (s,)``.

    ``log_decay: (s, n)``, ``skip: (s,)``.
    """

    w: Array
    w_dt: Array
    b_dt: Array
    log_decay: Array
    skip: Array


@constructor
def selective_ssm(
    size: int,
    state_size: int = 16,
    *,
    rank: int | None = None,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Selective state space (S6), the recurrence of Mamba.

    .. math::

        (d, B, C) &= x_t W \\
        dt &= softplus(d W_{dt} + b_{dt}) \\
        h_t &= e^{-dt \, e^{log\_decay}} \odot h_{t-1} + (dt \odot x_t) B^T \\
        y_t &= h_t C + skip \odot x_t

    Each feature has n states of its own, and B and C are shared by all features. A step
    of zero, which the input may choose, keeps the state and ignores the input. The
    carry is ``h: (s, n)``, zero at first; the output is ``y: (s,)``. h is linear in the
    carry, so that a prefix scan can walk it. As in the authors' code, B enters by an
    Euler step where the paper has a zero-order hold. The projections, the convolution
    (`causal_conv`) and the gate of Mamba's block are around it.

    The decays start as 1 to n, ``b_dt`` such that steps without input are log-uniform
    between ``dt_min`` and ``dt_max``.

    Args:
      size: features of one input, ``x: (s,)``, and of one output.
      state_size: states n of each feature.
      rank: of the map from inputs to step sizes; by default a 16th of ``size``, rounded
        up.
      dt_min: the least step size that a feature starts with.
      dt_max: the largest.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for step sizes that are not in order.

    Reference: Gu, Dao 2023, Mamba: linear-time sequence modeling with selective state
    spaces, arXiv:2312.00752.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.selective_ssm(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((3, 4), (10, 3))
    """
    checks.size("size", size)
    checks.size("state_size", state_size)
    rank = math.ceil(size / 16) if rank is None else checks.size("rank", rank)
    diagonal.check_steps(dt_min, dt_max)

    def init(key):
        key_w, key_dt, key_b = jax.random.split(checks.key(key), 3)
        bound = 1 / math.sqrt(rank)
        decays = jnp.arange(1.0, state_size + 1)
        return SelectiveSSMParams(
            lecun_normal()(key_w, (size, rank + 2 * state_size)),
            jax.random.uniform(key_dt, (rank, size), minval=-bound, maxval=bound),
            diagonal.softplus_steps(key_b, (size,), dt_min, dt_max),
            jnp.broadcast_to(jnp.log(decays), (size, state_size)),
            jnp.ones(size),
        )

    def initial_carry(params):
        return jnp.zeros((size, state_size), params.w.dtype)

    def project(params, x):
        d, b, c = jnp.split(x @ params.w, [rank, rank + state_size])
        dt = jax.nn.softplus(d @ params.w_dt + params.b_dt)
        observe(d=d, B=b, C=c, dt=dt)
        return dt, b, c, x

    def step(params, h, z):
        # Here and not in project: for all steps at once these are n times the inputs.
        dt, b, c, x = z
        keep = jnp.exp(-dt[:, None] * jnp.exp(params.log_decay))
        h = keep * h + (dt * x)[:, None] * b
        y = h @ c + params.skip * x
        observe(h=h, y=y)
        return h, y

    return recurrence(
        init, initial_carry, project, step, (size,), traversal, carry_dtype
    )
