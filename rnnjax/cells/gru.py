"""Gated recurrent units."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, kernels, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.kernels.equations import GRU, GRU_BEFORE
from rnnjax.observation import observe


class GRUParams(NamedTuple):
    """``w_ih: (i, 3h)``, ``w_hh: (h, 3h)``, ``b: (3h,)``, gates r z n.

    ``b_hn: (h,)`` is the bias that the reset gate multiplies; ``None`` when the reset
    comes before the product.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    b_hn: Array | None


@constructor
def gru(
    input_size: int,
    hidden_size: int,
    *,
    reset_after: bool = True,
    traversal: scan.Traversal | None = None,
    carry_dtype: Any = None,
) -> Cell:
    r"""Gated recurrent unit, with the reset after or before the recurrent product.

    .. math::

        r &= \sigma(x_t W_{ir} + h_{t-1} W_{hr} + b_r) \\
        z &= \sigma(x_t W_{iz} + h_{t-1} W_{hz} + b_z) \\
        n &= \tanh(x_t W_{in} + b_n + r \odot (h_{t-1} W_{hn} + b_{hn}))
            \quad \text{reset after} \\
        n &= \tanh(x_t W_{in} + b_n + (r \odot h_{t-1}) W_{hn})
            \quad \text{reset before} \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too. The two forms
    are different functions; no weights turn one into the other. ``reset_after=True`` is
    that of cuDNN, torch and Keras, ``False`` that of the paper and of TensorFlow 1,
    whose gates' bias starts at 1 (ours at 0) and whose ``u`` is our ``z``.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      reset_after: where the reset gate is applied, see above.
      traversal: how time is walked, see `rnnjax.scan`; a kernel where there is one.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Cho et al. 2014, arXiv:1406.1078.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("reset_after", reset_after)

    if traversal is None:
        traversal = kernels.gru if reset_after else kernels.gru_before

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 3)
        b_hn = jnp.zeros(hidden_size) if reset_after else None
        return GRUParams(w_ih, w_hh, jnp.zeros(3 * hidden_size), b_hn)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step_after(params, h, z):
        x_r, x_z, x_n = jnp.split(z, 3)
        h_r, h_z, h_n = jnp.split(h @ params.w_hh, 3)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * (h_n + params.b_hn))
        return update(h, r, z, n)

    def step_before(params, h, z):
        x_rz, x_n = jnp.split(z, [2 * hidden_size])
        w_rz, w_n = jnp.split(params.w_hh, [2 * hidden_size], axis=1)
        r, z = jnp.split(jax.nn.sigmoid(x_rz + h @ w_rz), 2)
        n = jnp.tanh(x_n + (r * h) @ w_n)
        return update(h, r, z, n)

    def update(h, r, z, n):
        h = (1 - z) * n + z * h
        observe(r=r, z=z, n=n, h=h)
        return h, h

    known = (GRU, step_after) if reset_after else (GRU_BEFORE, step_before)
    given = init, initial_carry, project, kernels.Known(*known), (input_size,)
    return recurrence(*given, traversal, carry_dtype)
