"""The simple recurrent unit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.initializers import per_gate
from rnnjax.observation import observe


class SRUParams(NamedTuple):
    """``w: (i, 3h)``, blocks x f r, or ``(i, 4h)`` with the highway's as the last.

    ``b: (2h,)``, gates f r; ``v: (2, h)``, gates f r, or ``None``.
    """

    w: Array
    b: Array
    v: Array | None


@constructor
def sru(
    input_size: int,
    hidden_size: int,
    *,
    recurrent_gates: bool = False,
    activation: Callable[[Array], Array] = jnp.tanh,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Simple recurrent unit: all matrix products outside of the recurrence.

    .. math::

        content &= x_t W_x \\
        f &= \sigma(x_t W_f + v_f \odot c_{t-1} + b_f) \\
        r &= \sigma(x_t W_r + v_r \odot c_{t-1} + b_r) \\
        c_t &= f \odot c_{t-1} + (1 - f) \odot content \\
        h_t &= r \odot \tanh(c_t) + (1 - r) \odot x_t

    The carry is ``c: (h,)``, zero at first; the output is ``h: (h,)``. Where the sizes
    differ the highway carries :math:`x_t W_h` in place of :math:`x_t`. Without
    ``recurrent_gates`` there is no v and c is linear in the carry, so that a prefix
    scan can walk it: the first version of the paper and TensorFlow 1's ``SRUCell``.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``c: (h,)``.
      recurrent_gates: let the gates see the memory through v, as in the published
        version; its constant factor on the highway is left out, a matter of
        initialisation.
      activation: in place of tanh; the published version has none,
        ``activation=jnp.asarray``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Lei, Zhang, Wang, Dai, Artzi 2018, Simple recurrent units for highly
    parallelizable recurrence, arXiv:1709.02755.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.sru(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> c, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> params.w.shape, c.shape, ys.shape
    ((3, 20), (5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("recurrent_gates", recurrent_gates)
    checks.activation(activation)
    blocks = 3 if input_size == hidden_size else 4

    def init(key):
        key_w, key_v = jax.random.split(checks.key(key))
        w = per_gate(glorot_uniform(), blocks)(
            key_w, (input_size, blocks * hidden_size)
        )
        v = None
        if recurrent_gates:
            v = jax.random.uniform(key_v, (2, hidden_size), minval=-1.0)
        return SRUParams(w, jnp.zeros(2 * hidden_size), v)

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w.dtype)

    def project(params, x):
        content, f, r, *highway = jnp.split(x @ params.w, blocks)
        b_f, b_r = jnp.split(params.b, 2)
        return content, f + b_f, r + b_r, highway[0] if highway else x

    def step(params, c, z):
        content, f, r, highway = z
        if recurrent_gates:
            v_f, v_r = params.v
            f, r = f + v_f * c, r + v_r * c
        f, r = jax.nn.sigmoid(f), jax.nn.sigmoid(r)
        c = f * c + (1 - f) * content
        h = r * activation(c) + (1 - r) * highway
        observe(content=content, f=f, r=r, c=c, h=h)
        return c, h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
