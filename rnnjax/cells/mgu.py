"""The minimal gated unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class MGUParams(NamedTuple):
    """``w_ih: (i, 2h)``, ``w_hh: (h, 2h)``, ``b: (2h,)``, gates f n.

    ``b_hn: (h,)`` is the bias that the gate multiplies; ``None`` when the gate comes
    before the product.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    b_hn: Array | None


@constructor
def mgu(
    input_size: int,
    hidden_size: int,
    *,
    reset_after: bool = False,
    forget_bias: float = 1.0,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Minimal gated unit: one gate does the work of the GRU's two.

    .. math::

        f &= \sigma(x_t W_{if} + h_{t-1} W_{hf} + b_f) \\
        n &= \tanh(x_t W_{in} + (f \odot h_{t-1}) W_{hn} + b_n), \quad
            h_t = (1 - f) \odot h_{t-1} + f \odot n \\
        n &= \tanh(x_t W_{in} + b_n + f \odot (h_{t-1} W_{hn} + b_{hn})), \quad
            h_t = (1 - f) \odot n + f \odot h_{t-1} \quad \text{reset after}

    With ``reset_after=True`` it is Flax's: a GRU whose r and z are one gate. There f
    keeps the state, whereas in the paper it replaces it.

    The carry is ``h: (h,)``, zero at first, and the output is ``h`` too.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      reset_after: Flax's form instead of the paper's; no weights turn one into the
        other.
      forget_bias: what the gate's bias starts at.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Zhou, Wu, Zhang, Zhou 2016, Minimal gated unit for recurrent neural
    networks, arXiv:1603.09420.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.mgu(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("reset_after", reset_after)
    checks.number("forget_bias", forget_bias)

    def init(key):
        w_ih, w_hh = recurrent_weights(checks.key(key), input_size, hidden_size, 2)
        b = jnp.zeros((2, hidden_size)).at[0].set(forget_bias).ravel()
        return MGUParams(w_ih, w_hh, b, jnp.zeros(hidden_size) if reset_after else None)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step_before(params, h, z):
        w_f, w_n = jnp.split(params.w_hh, 2, axis=1)
        x_f, x_n = jnp.split(z, 2)
        f = jax.nn.sigmoid(x_f + h @ w_f)
        n = jnp.tanh(x_n + (f * h) @ w_n)
        h = (1 - f) * h + f * n
        observe(f=f, n=n, h=h)
        return h, h

    def step_after(params, h, z):
        x_f, x_n = jnp.split(z, 2)
        h_f, h_n = jnp.split(h @ params.w_hh, 2)
        f = jax.nn.sigmoid(x_f + h_f)
        n = jnp.tanh(x_n + f * (h_n + params.b_hn))
        h = (1 - f) * n + f * h
        observe(f=f, n=n, h=h)
        return h, h

    step = step_after if reset_after else step_before
    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
