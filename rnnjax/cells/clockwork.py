"""Groups of units that run at different speeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax import checks, forms, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class ClockworkParams(NamedTuple):
    """``w_ih: (i, h)``, ``w_hh: (h, h)``, ``b: (h,)``.

    Of ``w_hh`` the weights from faster to slower units are not read.
    """

    w_ih: Array
    w_hh: Array
    b: Array


class ClockworkCarry(NamedTuple):
    """The units ``h`` and the steps ``wait`` until each moves, int32, both ``(h,)``."""

    h: Array
    wait: Array


@constructor
def clockwork(
    input_size: int,
    hidden_size: int,
    *,
    periods: tuple[int, ...] = (1, 2, 4, 8),
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Clockwork network: groups of units that each move at every so many steps.

    .. math::

        s &= 1 \text{ where } T \text{ divides } t, \text{ else } 0 \\
        n &= \tanh(x_t W_{ih} + h_{t-1} W_{hh} + b) \\
        h_t &= s \odot n + (1 - s) \odot h_{t-1}

    where T are the units' periods, and a unit reads only units of its own and of slower
    groups. The first step is t = 0, at which all move. The carry is
    ``ClockworkCarry(h, wait)``, zero at first; the output is ``h: (h,)``. All weights
    are computed with at every step, whoever moves.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      periods: of the groups, from fast to slow, of equal sizes; their number divides
        ``hidden_size``.
      activation: in place of tanh.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the floating part of the carry, where it is not that of the
        params, see `recurrence`.

    Raises:
      ValueError: for periods that do not grow, and a number of them that does not
        divide ``hidden_size``.

    Reference: Koutník, Greff, Gomez, Schmidhuber 2014, A clockwork RNN,
    arXiv:1402.3511.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.clockwork(3, 4, periods=(1, 5))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> ys.shape, bool((ys[:5, 2:] == ys[0, 2:]).all())
    ((10, 4), True)
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.activation(activation)
    if not isinstance(periods, tuple):
        raise TypeError(
            f"periods is {forms.outline(periods)}; expected a tuple of whole numbers. "
            "Write periods=(1, 2, 4, 8)."
        )
    for period in periods:
        checks.size("periods[...]", period)
    if not periods or list(periods) != sorted(set(periods)):
        raise ValueError(
            f"periods is {periods!r}; expected one or more, from fast to slow. Write "
            "periods=(1, 2, 4, 8)."
        )
    if hidden_size % len(periods):
        raise ValueError(
            f"periods is {periods}, {len(periods)} of them; expected a number that "
            f"divides hidden_size={hidden_size}. Write hidden_size="
            f"{len(periods) * (hidden_size // len(periods) + 1)}."
        )
    own = np.repeat(np.array(periods, np.int32), hidden_size // len(periods))
    # By rows the unit that is read, by columns the one that reads it.
    reads = own[:, None] >= own

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 1)
        return ClockworkParams(w_ih, w_hh, jnp.zeros(hidden_size))

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.w_hh.dtype)
        return ClockworkCarry(zero, jnp.zeros(hidden_size, jnp.int32))

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, carry, z):
        h, wait = carry
        n = activation(z + h @ jnp.where(reads, params.w_hh, 0))
        s = wait == 0
        h = jnp.where(s, n, h)
        observe(s=s, n=n, h=h)
        return ClockworkCarry(h, jnp.where(s, own, wait) - 1), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
