"""The real-gated linear recurrent unit of Griffin."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import lecun_normal

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.observation import observe

_SHARPNESS = 8  # the paper's c


class RGLRUParams(NamedTuple):
    """``w: (2, m, s / m, s / m)``, ``b: (2, s)``, gates r i; ``decay: (s,)``.

    With m ``blocks``, of which each gate has a matrix.
    """

    w: Array
    b: Array
    decay: Array


@constructor
def rg_lru(
    size: int,
    *,
    blocks: int = 1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Real-gated linear recurrent unit: each unit decays as fast as a gate says.

    .. math::

        (r, i) &= \sigma(x_t W + b) \\
        a &= \sigma(-decay)^{8 r} \\
        h_t &= a \odot h_{t-1} + \sqrt{1 - a^2} \odot (i \odot x_t)

    The carry is ``h: (s,)``, zero at first, and the output is ``h`` too. h is linear in
    the carry, so that a prefix scan can walk it. ``decay`` is minus the paper's
    :math:`\Lambda`, and starts so that :math:`a^{1/r}` is uniform between 0.9 and
    0.999. The unit has one size: `griffin_block` puts `dense` and a convolution in
    front of it. With bfloat16 params write ``carry_dtype=jnp.float32``: bfloat16 has no
    number between 0.996 and 1.

    Args:
      size: features of one input, ``x: (s,)``, and units.
      blocks: how many groups of features the gates' matrices keep apart; it divides
        ``size``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``blocks`` that do not divide ``size``.

    Reference: De et al. 2024, Griffin: mixing gated linear recurrences with local
    attention for efficient language models, arXiv:2402.19427.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.rg_lru(4, blocks=2)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 4)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    checks.size("size", size)
    if size % checks.size("blocks", blocks):
        raise ValueError(
            f"blocks is {blocks}; expected a divisor of size={size}. Write blocks=1, "
            f"or size={blocks * (size // blocks + 1)}."
        )
    wide = size // blocks

    def init(key):
        key_w, key_decay = jax.random.split(checks.key(key))
        draw = lecun_normal(batch_axis=(0, 1))
        kept = jax.random.uniform(key_decay, (size,), minval=0.9, maxval=0.999)
        # The logarithm of the odds of an 8th root, without a difference from 1.
        log_root = jnp.log(kept) / _SHARPNESS
        decay = jnp.log(-jnp.expm1(log_root)) - log_root
        w = draw(key_w, (2, blocks, wide, wide))
        return RGLRUParams(w, jnp.zeros((2, size)), decay)

    def initial_carry(params):
        return jnp.zeros(size, params.w.dtype)

    def project(params, x):
        gates = jnp.einsum("mi,gmij->gmj", x.reshape(blocks, wide), params.w)
        r, i = jax.nn.sigmoid(gates.reshape(2, size) + params.b)
        log_a = -_SHARPNESS * r * jax.nn.softplus(params.decay)
        a = jnp.exp(log_a)
        observe(r=r, i=i, a=a)
        # Never zero, where the root has no slope.
        rest = jnp.maximum(-jnp.expm1(2 * log_a), jnp.finfo(x.dtype).tiny)
        return a, jnp.sqrt(rest) * i * x

    def step(params, h, z):
        a, update = z
        h = a * h + update
        observe(h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, (size,), traversal, carry_dtype
    )
