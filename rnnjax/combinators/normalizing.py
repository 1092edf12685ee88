"""Layers that bring features to one scale. They have no memory."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Cell, constructor
from rnnjax.cells import normalize
from rnnjax.combinators.memoryless import time_distributed


class LayerNormParams(NamedTuple):
    """``gain``, ``b: (size,)``."""

    gain: Array
    b: Array


@constructor
def layer_norm(size: int, *, epsilon: float = 1e-5) -> Cell:
    """Each input normalised over its features: ``gain * LN(x) + b``.

    LN is `rnnjax.cells.normalize`. The carry is empty.

    Reference: Ba, Kiros, Hinton 2016, Layer normalization, arXiv:1607.06450.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.layer_norm(3), rnnjax.gru(3, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 4)
    """
    checks.size("size", size)
    checks.positive("epsilon", epsilon, example=1e-5)

    def init(key):
        checks.key(key)
        return LayerNormParams(jnp.ones(size), jnp.zeros(size))

    def apply(params, x):
        return params.gain * normalize(x, epsilon=epsilon) + params.b

    return time_distributed(init, apply, input_shape=(size,))


@constructor
def rms_norm(size: int, *, epsilon: float = 1e-6) -> Cell:
    r"""Each input over its root mean square: ``gain * x / sqrt(mean(x ** 2))``.

    The params are the gain, ``(size,)``; ``epsilon`` is added under the root. The carry
    is empty.

    Reference: Zhang, Sennrich 2019, Root mean square layer normalization,
    arXiv:1910.07467.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.rms_norm(2)
    >>> cell.step(cell.init(jax.random.key(0)), (), jnp.array([1.0, 7.0]))[1].round(1)
    Array([0.2, 1.4], dtype=float32)
    """
    checks.size("size", size)
    checks.positive("epsilon", epsilon, example=1e-6)

    def init(key):
        checks.key(key)
        return jnp.ones(size)

    def apply(gain, x):
        return gain * x * lax.rsqrt(jnp.mean(x * x) + epsilon)

    return time_distributed(init, apply, input_shape=(size,))
