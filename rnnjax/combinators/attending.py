"""Attention around a cell: over the memory of an encoder, or over its own outputs."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, signals
from rnnjax.batch import output_spec
from rnnjax.cell import Carry, Cell, Params, Reset, constructor
from rnnjax.combinators.stepping import walk
from rnnjax.observation import observe
from rnnjax.pooling import masked_softmax


class AttentionParams(NamedTuple):
    """For memory ``(s, m)``, a cell's output ``(q,)`` and ``size`` units.

    ``cell``: the cell's; ``w_memory: (m, size)`` and ``w_query: (q, size)``, ``v:
    (size,)`` for an additive score, ``(m, q)`` and ``None`` twice for a multiplicative
    one; ``w_out: (q + m, size)``.
    """

    cell: Params
    w_memory: Array
    w_query: Array | None
    v: Array | None
    w_out: Array


class AttentionCarry(NamedTuple):
    """The cell's carry, the last output, and what is attended to.

    ``attention: (size,)``, ``memory: (s, m)``, ``valid: (s,)`` bool.
    """

    cell: Carry
    attention: Array
    memory: Array
    valid: Array


@constructor
def attention(
    cell: Cell,
    input_size: int,
    size: int,
    memory_shape: tuple[int, int],
    *,
    score: str = "additive",
) -> Cell:
    r"""A decoder's cell that attends to a memory, such as the outputs of an encoder.

    .. math::

        (carry_t, q_t) &= cell(carry_{t-1}, [x_t; a_{t-1}]) \\
        e_{ts} &= v \cdot \tanh(m_s W_m + q_t W_q) \quad \text{additive} \\
        e_{ts} &= m_s W_m \cdot q_t \quad \text{multiplicative} \\
        a_t &= \tanh([q_t; \textstyle\sum_s softmax_s(e_t)\, m_s] W_o)

    The output is :math:`a_t`; the weights have the name ``alignment`` in
    `rnnjax.trace`. The memory is data, hence part of the carry: put the encoder's
    outputs there, as below. At first it is zero and all valid. Resets go to that, or
    to a memory of one's own by `rnnjax.Reset`.

    Args:
      cell: the decoder's cell, for inputs of ``input_size + size`` features.
      input_size: features of one input.
      size: units of the output, and of the additive score.
      memory_shape: ``(s, m)``, the steps of the encoder, padding included, and the
        features of its outputs.
      score: ``"additive"`` (Bahdanau) or ``"multiplicative"`` (Luong's "general").
        In both the query is the cell's new output, as in TensorFlow's
        ``AttentionWrapper``; Bahdanau took the state before.

    References: Bahdanau, Cho, Bengio 2015, arXiv:1409.0473; Luong, Pham, Manning 2015,
    arXiv:1508.04025.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> encoder, sources = rnnjax.gru(3, 8), jnp.ones((2, 7, 3))
    >>> decoder = rnnjax.attention(rnnjax.gru(5 + 4, 8), 5, 4, memory_shape=(7, 8))
    >>> key_e, key_d = jax.random.split(jax.random.key(0))
    >>> params_e, params_d = encoder.init(key_e), decoder.init(key_d)
    >>> lengths = jnp.array([7, 4])
    >>> h, memory = rnnjax.unroll(encoder, params_e, sources, lengths=lengths)
    >>> def start(h, memory, valid):
    ...     carry = decoder.initial_carry(params_d)
    ...     return carry._replace(cell=h, memory=memory, valid=valid)
    >>> carry = jax.vmap(start)(h, memory, rnnjax.sequence_mask(lengths, 7))
    >>> _, ys = rnnjax.unroll(decoder, params_d, jnp.ones((2, 6, 5)), carry=carry)
    >>> ys.shape
    (2, 6, 4)
    """
    checks.size("input_size", input_size)
    checks.size("size", size)
    steps, features = memory_shape
    checks.size("memory_shape[0]", steps)
    checks.size("memory_shape[1]", features)
    if score not in ("additive", "multiplicative"):
        raise ValueError(
            f"score is {score!r}; expected 'additive' or 'multiplicative'. Write "
            "score='additive'."
        )

    def init(key):
        keys = jax.random.split(checks.key(key), 5)
        query = _output_size(cell, input_size + size)
        draw = jax.nn.initializers.glorot_uniform()
        w_out = draw(keys[4], (query + features, size))
        params = cell.init(keys[0])
        if score == "multiplicative":
            w_memory = draw(keys[1], (features, query))
            return AttentionParams(params, w_memory, None, None, w_out)
        w_memory = draw(keys[1], (features, size))
        v = draw(keys[3], (size, 1))[:, 0]
        return AttentionParams(params, w_memory, draw(keys[2], (query, size)), v, w_out)

    def initial_carry(params):
        dtype = params.w_out.dtype
        return AttentionCarry(
            cell.initial_carry(params.cell),
            jnp.zeros(size, dtype),
            jnp.zeros(memory_shape, dtype),
            jnp.ones(steps, bool),
        )

    def prepared(params, carry):
        # Keys are made once, not at every step. Padding of the memory may hold NaN.
        memory = jnp.where(carry.valid[:, None], carry.memory, 0)
        return memory, memory @ params.w_memory, carry.valid

    def advance(step, params, carry, x):
        params, memories = params
        (before, a), restarted = carry
        memory, keys, valid = memories[0]
        if len(memories) == 2:
            memory, keys, valid = jax.tree.map(
                lambda old, new: jnp.where(restarted, new, old), *memories
            )
        after, query = step(params.cell, before, jnp.concatenate([x, a]))
        if score == "additive":
            scores = jnp.tanh(keys + query @ params.w_query) @ params.v
        else:
            scores = keys @ query
        alignment = masked_softmax(scores, valid)
        context = alignment @ memory
        a = jnp.tanh(jnp.concatenate([query, context]) @ params.w_out)
        observe(alignment=alignment, attention=a)
        return ((after, a), restarted), a

    def step(params, carry, x):
        x = checks.step_input(x, (input_size,), params.w_out.dtype)
        carry = checks.carry(carry, jax.eval_shape(initial_carry, params))
        given = ((params, [prepared(params, carry)]), (carry[:2], jnp.array(False)))
        ((after, a), _), y = advance(cell.step, *given, x)
        return carry._replace(cell=after, attention=a), y

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, _ = checks.sequence(xs, (input_size,), params.w_out.dtype)
        start = initial_carry(params)
        given = (start, carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        # The memory goes in beside the params and not as a carry of the loop, which
        # the backward pass would store once for each step.
        memories, again = [prepared(params, carry)], reset
        if reset is not None:
            memories.append(prepared(params, reset.carry))
            again = Reset(reset.where, (reset.carry[:2], jnp.array(True)))
        given = ((params, memories), (carry[:2], jnp.array(False)), xs)
        (after, restarted), ys = walk(
            cell, advance, *given, mask=mask, reset=again, key=key
        )
        if reset is not None:
            carry = jax.tree.map(
                lambda old, new: jnp.where(restarted, new, old), carry, reset.carry
            )
        return carry._replace(cell=after[0], attention=after[1]), ys

    return Cell(init, initial_carry, step, unroll)


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
    r"""Attend to the last ``length`` outputs; once ``AttentionCellWrapper``.

    .. math::

        (carry_t, q_t) &= cell(carry_{t-1}, [x_t; a_{t-1}] W_{in} + b_{in}) \\
        e_{tk} &= v \cdot \tanh(y_{t-k} W_w + carry_t W_q + b_q),
            \quad k = 1 \dots length \\
        a_t &= \textstyle\sum_k softmax_k(e_t)\, y_{t-k} \\
        y_t &= [q_t; a_t] W_o + b_o

    Outputs before the first are zero. The query is the whole carry, flattened in its
    order.

    Args:
      cell: the cell, for inputs of ``input_size`` features.
      input_size: features of one input (TensorFlow's ``input_size`` too).
      size: units of the output (``attn_size``, and ``attn_vec_size`` equal to it).
      length: how many outputs are kept (``attn_length``).

    Reference: Cheng, Dong, Lapata 2016, Long short-term memory-networks for machine
    reading, arXiv:1601.06733; the equations are those of TensorFlow 1.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.attention_window(rnnjax.lstm(3, 8), 3, 4, length=5)
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, bool((carry.window == ys[-5:]).all())
    ((7, 4), True)
    """
    checks.size("input_size", input_size)
    checks.size("size", size)
    checks.size("length", length)

    def init(key):
        keys = jax.random.split(checks.key(key), 6)
        params = cell.init(keys[0])
        carry = jax.tree.leaves(jax.eval_shape(cell.initial_carry, params))
        numbers = sum(math.prod(leaf.shape) for leaf in carry)
        query = _output_size(cell, input_size)
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
        start = initial_carry(params)
        given = (start, carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        return walk(cell, advance, params, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init, initial_carry, step, unroll)


def _output_size(cell: Cell, input_size: int) -> int:
    """How many features a cell puts out, whose inputs must have ``input_size``."""
    x: Any = jax.ShapeDtypeStruct((input_size,), jnp.result_type(float))
    return output_spec(cell, x).shape[-1]
