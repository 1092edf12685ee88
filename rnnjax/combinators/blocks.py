"""Blocks of deep networks: a norm, a cell, a gate and a way around them."""

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.batch import output_spec
from rnnjax.cell import Cell, constructor
from rnnjax.combinators import features
from rnnjax.combinators.convolving import causal_conv
from rnnjax.combinators.layers import parallel, stack
from rnnjax.combinators.memoryless import dense, pointwise
from rnnjax.combinators.normalizing import layer_norm, rms_norm
from rnnjax.combinators.shortcuts import residual
from rnnjax.combinators.timing import passing_time


@constructor
def residual_block(
    cell: Cell, size: int, *, expansion: int = 0, timed: bool = False
) -> Cell:
    r"""The block of deep state spaces: a norm, the cell, a gate, and the input added.

    .. math::

        a_t &= gelu(cell(LN(x_t))) \\
        u_t &= x_t + (a_t W + b) \odot \sigma(a_t V + c) \\
        y_t &= u_t + gelu(LN(u_t) W_1 + b_1) W_2 + b_2

    It is a stack of `residual`, `layer_norm`, the cell, `pointwise` and `dense`, so
    that a deep S5 is ``stack(*blocks)``. Without ``expansion`` there is no last line.

    Args:
      cell: the cell, for inputs of ``size`` features; its outputs may have more.
      size: features of one input and of one output.
      expansion: units of the last line's hidden layer, in multiples of ``size``.
      timed: the cell takes pairs with the time since the input before, as
        ``s5(..., timed=True)`` does. So does the block then, which puts out such pairs
        for the next block, see `passing_time`; the params are the same.

    Raises:
      ValueError: for a cell that takes other inputs.

    Reference: Smith, Warrington, Linderman 2023, Simplified state space layers for
    sequence modeling, arXiv:2208.04933; the gate is that of Orvieto et al. 2023,
    arXiv:2303.06349.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> blocks = [rnnjax.residual_block(rnnjax.s5(4, 8), 4) for _ in range(3)]
    >>> cell = rnnjax.stack(rnnjax.dense(2, 4), *blocks, rnnjax.dense(4, 1))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 2)))
    >>> ys.shape
    (7, 1)
    """
    checks.cell("cell", cell)
    checks.size("size", size)
    features.fed("residual_block", cell, size, "size")
    if not isinstance(expansion, int) or expansion:
        checks.size("expansion", expansion)
    checks.flag("timed", timed)
    x = jax.ShapeDtypeStruct((size,), jnp.result_type(float))
    time = jax.ShapeDtypeStruct((), x.dtype)
    inner = output_spec(cell, (x, time) if timed else x).shape[-1]
    gate = stack(dense(inner, size), pointwise(jax.nn.sigmoid))
    mixed = parallel(dense(inner, size), gate, merge=jnp.multiply)

    def passing(layer, reads=False):
        return passing_time(layer, timed=reads) if timed else layer

    layers = (layer_norm(size), cell, pointwise(jax.nn.gelu), mixed)
    block = residual(stack(*(passing(layer, layer is cell) for layer in layers)))
    if not expansion:
        return block
    units = expansion * size
    wide = stack(dense(size, units), pointwise(jax.nn.gelu), dense(units, size))
    return stack(block, residual(stack(passing(layer_norm(size)), passing(wide))))


@constructor
def griffin_block(
    cell: Cell, size: int, *, inner_size: int, width: int = 4, expansion: int = 3
) -> Cell:
    r"""The recurrent block of Griffin and its MLP, both with a norm and a way around.

    .. math::

        v_t &= RMS(x_t), \quad a_t = cell(conv(v_t W_2 + b_2)) \\
        u_t &= x_t + (gelu(v_t W_1 + b_1) \odot a_t) W_3 + b_3 \\
        w_t &= RMS(u_t) \\
        y_t &= u_t + (gelu(w_t W_4 + b_4) \odot (w_t W_5 + b_5)) W_6 + b_6

    conv is `causal_conv`. It is a stack of `residual`, `rms_norm`, `parallel`, `dense`
    and the cell, so that Hawk, Griffin without attention, is ``stack(*blocks)``.

    Args:
      cell: the cell, ``rg_lru(inner_size)`` in the paper, with as many outputs as
        inputs.
      size: features of one input and of one output.
      inner_size: features of the cell, about 4/3 of ``size`` in the paper.
      width: inputs that the convolution reads.
      expansion: units of the MLP, in multiples of ``size``.

    Raises:
      ValueError: for a cell that takes or puts out other features.

    Reference: De et al. 2024, Griffin: mixing gated linear recurrences with local
    attention for efficient language models, arXiv:2402.19427.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> blocks = [
    ...     rnnjax.griffin_block(rnnjax.rg_lru(8), 6, inner_size=8) for _ in range(2)]
    >>> cell = rnnjax.stack(rnnjax.embedding(50, 6), *blocks, rnnjax.dense(6, 50))
    >>> params = cell.init(jax.random.key(0))
    >>> tokens = jnp.array([3, 14, 15])
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), tokens)
    >>> ys.shape
    (3, 50)
    """
    checks.cell("cell", cell)
    checks.size("size", size)
    checks.size("inner_size", inner_size)
    checks.size("width", width)
    checks.size("expansion", expansion)
    features.fed("griffin_block", cell, inner_size, "inner_size")

    def gated(units, other):
        gate = stack(dense(size, units), pointwise(jax.nn.gelu))
        return stack(parallel(gate, other, merge=jnp.multiply), dense(units, size))

    recurrent = stack(dense(size, inner_size), causal_conv(inner_size, width), cell)
    units = expansion * size
    return stack(
        residual(stack(rms_norm(size), gated(inner_size, recurrent))),
        residual(stack(rms_norm(size), gated(units, dense(size, units)))),
    )
