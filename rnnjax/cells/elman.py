"""The simple recurrent network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, kernels, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.kernels.equations import ELMAN_RELU, ELMAN_TANH
from rnnjax.observation import observe


class ElmanParams(NamedTuple):
    """``w_ih: (i, h)``, ``w_hh: (h, h)``, ``b: (h,)``."""

    w_ih: Array
    w_hh: Array
    b: Array


_KERNELS = {jnp.tanh: kernels.elman_tanh, jax.nn.relu: kernels.elman_relu}
_EQUATIONS = {jnp.tanh: ELMAN_TANH, jax.nn.relu: ELMAN_RELU}


@constructor
def elman(
    input_size: int,
    hidden_size: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal | None = None,
    carry_dtype: Any = None,
) -> Cell:
    r"""The simple recurrent network.

    .. math:: h_t = \tanh(x_t W_{ih} + h_{t-1} W_{hh} + b)

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      activation: in place of tanh, for example `jax.nn.relu`.
      traversal: how time is walked, see `rnnjax.scan`; a kernel where there is one.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Elman 1990, Finding structure in time, doi:10.1207/s15516709cog1402_1.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.activation(activation)

    if traversal is None:
        traversal = _KERNELS.get(activation, scan.default)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 1)
        return ElmanParams(w_ih, w_hh, jnp.zeros(hidden_size))

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, h, z):
        h = activation(z + h @ params.w_hh)
        observe(h=h)
        return h, h

    found = _EQUATIONS.get(activation)
    known = step if found is None else kernels.Known(found, step)
    given = init, initial_carry, project, known, (input_size,)
    return recurrence(*given, traversal, carry_dtype)
