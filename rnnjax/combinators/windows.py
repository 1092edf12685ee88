"""Attention around a cell, over the last of its own outputs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, signals
from rnnjax.cell import Carry, Cell, Params, constructor
from rnnjax.combinators import features
from rnnjax.combinators.attending import output_size
from rnnjax.combinators.stepping import walk
from rnnjax.observation import observe


class AttentionWindowParams(NamedTuple):
    """For inputs ``(i,)``, a cell's carry of ``n`` numbers and its outputs ``(q,)``.

    ``cell``: the cell's; ``w_in: (i + size, i)``, ``b_in: (i,)``, ``w_window: (size,
    size)``, ``w_query: (n, size)``, ``b_query: (size,)``, ``v: (size,)``, ``w_out: (q +
    size, size)``, ``b_out: (size,)``.
    """

    cell: Params
    w_in: Array
    b_in: Array
    w_window: Array
    w_query: Array
    b_query: Array
    v: Array
    w_out: Array
    b_out: Array


class AttentionWindowCarry(NamedTuple):
    """The cell's carry, ``attention: (size,)`` and ``window: (length, size)``."""

    cell: Carry
    attention: Array
    window: Array


@constructor
def attention_window(cell: Cell, input_size: int, size: int, length: int) -> Cell:
    r"""Attend to the last ``length`` outputs, as ``AttentionCellWrapper`` did.

    .. math::

        (carry_t, q_t) &= cell(carry_{t-1}, [x_t; a_{t-1}] W_{in} + b_{in}) \\
        e_{tk} &= v \cdot \tanh(y_{t-k} W_w + carry_t W_q + b_q),
            \quad k = 1 \dots length \\
        a_t &= \textstyle\sum_k softmax_k(e_t)\, y_{t-k} \\
        y_t &= [q_t; a_t] W_o + b_o

    Outputs before the first are zero. The query is the whole carry, its leaves
    flattened and joined in their order.

    Args:
      cell: the cell, for inputs of ``input_size`` features.
      input_size: features of one input (TensorFlow's ``input_size`` too).
      size: units of the output (``attn_size`` and ``attn_vec_size`` in one).
      length: how many outputs are kept (``attn_length``).

    Raises:
      ValueError: for sizes that are not positive, and a cell for inputs of another
        size.

    Reference: Cheng, Dong, Lapata 2016, Long short-term memory-networks for machine
    reading, arXiv:1601.06733; the equations are those of TensorFlow 1.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.attention_window(rnnjax.lstm(3, 8), 3, 4, length=5)
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, bool((carry.window == ys[-5:]).all())
    ((7, 4), True)
    """
    checks.cell("cell", cell)
    checks.size("input_size", input_size)
    checks.size("size", size)
    checks.size("length", length)
    features.fed("attention_window", cell, input_size, "input_size")

    def init(key):
        keys = jax.random.split(checks.key(key), 6)
        params = cell.init(keys[0])
        carry = jax.tree.leaves(jax.eval_shape(cell.initial_carry, params))
        numbers = sum(math.prod(leaf.shape) for leaf in carry)
        query = output_size(cell, input_size)
        draw = jax.nn.initializers.glorot_uniform()
        w_in = draw(keys[1], (input_size + size, input_size))
        zero = jnp.zeros(size, w_in.dtype)
        return AttentionWindowParams(
            cell=params,
            w_in=w_in,
            b_in=jnp.zeros(input_size, w_in.dtype),
            w_window=draw(keys[2], (size, size)),
            w_query=draw(keys[3], (numbers, size)),
            b_query=zero,
            v=draw(keys[4], (size, 1))[:, 0],
            w_out=draw(keys[5], (query + size, size)),
            b_out=zero,
        )

    def initial_carry(params):
        zero = jnp.zeros((length, size), params.w_out.dtype)
        return AttentionWindowCarry(cell.initial_carry(params.cell), zero[0], zero)

    def advance(step, params, carry, x):
        before, a, window = carry
        x = jnp.concatenate([x, a]) @ params.w_in + params.b_in
        after, y = step(params.cell, before, x)
        query = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(after)])
        query = query @ params.w_query + params.b_query
        scores = jnp.tanh(window @ params.w_window + query) @ params.v
        alignment = jax.nn.softmax(scores)
        a = alignment @ window
        y = jnp.concatenate([y, a]) @ params.w_out + params.b_out
        observe(alignment=alignment, y=y)
        window = jnp.concatenate([window[1:], y[None]])
        return AttentionWindowCarry(after, a, window), y

    def step(params, carry, x):
        x = checks.step_input(x, (input_size,), params.w_out.dtype)
        carry = checks.carry(carry, jax.eval_shape(initial_carry, params))
        return advance(cell.step, params, carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, _ = checks.sequence(xs, (input_size,), params.w_out.dtype)
        given = (initial_carry(params), carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        return walk(cell, advance, params, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init, initial_carry, step, unroll)
