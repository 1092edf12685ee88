"""Attention around a cell, over a memory such as the outputs of an encoder."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, forms, signals
from rnnjax.batch import output_spec
from rnnjax.cell import Carry, Cell, Params, Reset, constructor
from rnnjax.combinators import features
from rnnjax.combinators.alignment import move_forward, scores
from rnnjax.combinators.stepping import walk
from rnnjax.observation import observe
from rnnjax.pooling import masked_softmax


class AttentionParams(NamedTuple):
    """For memory ``(s, m)``, a cell's output ``(q,)`` and ``size`` units.

    ``cell``: the cell's; ``w_memory: (m, size)`` and ``w_query: (q, size)``, ``v:
    (size,)`` for an additive score, ``(m, q)`` and ``None`` twice for a multiplicative
    one; ``w_out: (q + m, size)``. Scaled: ``scale: ()`` and, for an additive score,
    ``b_query: (size,)``. Monotonic: ``b_score: ()``. Each is ``None`` where the score
    has none.
    """

    cell: Params
    w_memory: Array
    w_query: Array | None
    v: Array | None
    w_out: Array
    scale: Array | None = None
    b_query: Array | None = None
    b_score: Array | None = None


class AttentionCarry(NamedTuple):
    """The cell's carry, the last output, and what is attended to.

    ``attention: (size,)``; ``alignment: (s,)``, how much of each of the memory's steps
    is in it; ``memory: (s, m)``; ``valid: (s,)`` bool.
    """

    cell: Carry
    attention: Array
    alignment: Array
    memory: Array
    valid: Array


@constructor
def attention(
    cell: Cell,
    input_size: int,
    size: int,
    memory_shape: tuple[int, int],
    *,
    score: Literal["additive", "multiplicative"] = "additive",
    scaled: bool = False,
    monotonic: Literal["soft", "hard"] | None = None,
    score_bias: float = 0.0,
    score_noise: float = 0.0,
) -> Cell:
    r"""A decoder's cell that attends to a memory, such as the outputs of an encoder.

    .. math::

        (carry_t, q_t) &= cell(carry_{t-1}, [x_t; y_{t-1}]) \\
        e_{ts} &= v \cdot \tanh(m_s W_m + q_t W_q) \quad \text{additive} \\
        e_{ts} &= m_s W_m \cdot q_t \quad \text{multiplicative} \\
        a_t &= softmax(e_t) \\
        y_t &= \tanh([q_t; \textstyle\sum_s a_{ts}\, m_s] W_o)

    Scaled, the additive score has :math:`g v / |v|` in place of v and a bias beside
    :math:`q_t W_q`; the multiplicative one is multiplied by g. Monotonic attention
    replaces the softmax: it starts at the memory's first step, and at every step of the
    decoder it moves forward from where it was until it stops, with probability p:

    .. math::

        p_{ts} &= \sigma(e_{ts} + b) \text{ if soft}, \quad
            e_{ts} + b > 0 \text{ if hard} \\
        q_{ts} &= (1 - p_{t,s-1})\, q_{t,s-1} + a_{t-1,s} \\
        a_{ts} &= p_{ts}\, q_{ts}

    Soft alignments are the expectation of the hard ones. What never stops runs past
    the end of the memory, so the alignments of a step may add up to less than one.

    The output is :math:`y_t`; the alignment :math:`a_t` is part of the carry. In
    `rnnjax.trace` they are ``attention`` and ``alignment``, beside ``q`` and ``e``. The
    memory is data, so it is part of the carry, too: put the encoder's outputs there, as
    below. At first it is zero and all valid. A reset goes back to that, or to the
    memory that a `rnnjax.Reset` holds.

    Args:
      cell: the decoder's cell, for inputs of ``input_size + size`` features.
      input_size: features of one input.
      size: units of the output, and of the additive score.
      memory_shape: ``(s, m)``, the steps of the encoder, padding included, and the
        features of its outputs.
      score: ``"additive"`` (Bahdanau) or ``"multiplicative"`` (Luong's "general").
        In both the query is the cell's new output, as in TensorFlow's
        ``AttentionWrapper``; Bahdanau took the state before.
      scaled: train the scale g of the score.
      monotonic: ``"soft"`` to train, ``"hard"`` with the same params to decode, where
        the decoder can then run while the memory still grows. Hard choices have no
        gradient.
      score_bias: what b starts at. Where the memory is long, write -4.0 or so, or
        attention hardly leaves its first steps.
      score_noise: the standard deviation of the noise that a key adds to monotonic
        scores; it teaches soft attention to decide.

    Raises:
      ValueError: for sizes that are not positive, a cell for inputs of another size,
        names that are none of the above, noise below zero, and a bias or noise without
        ``monotonic``.

    References: Bahdanau, Cho, Bengio 2015, arXiv:1409.0473; Luong, Pham, Manning 2015,
    arXiv:1508.04025; the scale: Salimans, Kingma 2016, arXiv:1602.07868; monotonic:
    Raffel, Luong, Liu, Weiss, Eck 2017, arXiv:1704.00784.

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
    checks.cell("cell", cell)
    checks.size("input_size", input_size)
    checks.size("size", size)
    features.fed("attention", cell, input_size + size, "input_size + size")
    if not isinstance(memory_shape, tuple) or len(memory_shape) != 2:
        raise TypeError(
            f"memory_shape is {forms.outline(memory_shape)}; expected two sizes, the "
            "steps of the memory and their features. Write memory_shape=(7, 8)."
        )
    steps, width = memory_shape
    checks.size("memory_shape[0]", steps)
    checks.size("memory_shape[1]", width)
    checks.choice(*("score", score, ("additive", "multiplicative")), "score='additive'")
    checks.flag("scaled", scaled)
    if monotonic is not None:
        write = "monotonic='soft' to train, 'hard' to decode with the same params"
        checks.choice("monotonic", monotonic, ("soft", "hard"), write)
    checks.number("score_bias", score_bias, example=-4.0)
    if checks.number("score_noise", score_noise) < 0:
        raise ValueError(
            f"score_noise is {score_noise!r}; expected a standard deviation, 0 or "
            "more. Write score_noise=1.0, and a key where you unroll."
        )
    for name, value in (("score_bias", score_bias), ("score_noise", score_noise)):
        if monotonic is None and value:
            raise ValueError(
                f"{name} is {value!r} without monotonic attention; a softmax has no "
                f"use for it. Write monotonic='soft', {name}={value!r}."
            )

    def init(key):
        keys = jax.random.split(checks.key(key), 5)
        query = output_size(cell, input_size + size)
        draw = jax.nn.initializers.glorot_uniform()
        w_out = draw(keys[4], (query + width, size))
        additive = score == "additive"
        return AttentionParams(
            cell=cell.init(keys[0]),
            w_memory=draw(keys[1], (width, size if additive else query)),
            w_query=draw(keys[2], (query, size)) if additive else None,
            v=draw(keys[3], (size, 1))[:, 0] if additive else None,
            w_out=w_out,
            scale=jnp.array(size**-0.5 if additive else 1.0) if scaled else None,
            b_query=jnp.zeros(size) if scaled and additive else None,
            b_score=None if monotonic is None else jnp.array(float(score_bias)),
        )

    def initial_carry(params):
        dtype = params.w_out.dtype
        nowhere = jnp.zeros(steps, dtype)
        return AttentionCarry(
            cell.initial_carry(params.cell),
            attention=jnp.zeros(size, dtype),
            alignment=nowhere if monotonic is None else nowhere.at[0].set(1),
            memory=jnp.zeros(memory_shape, dtype),
            valid=jnp.ones(steps, bool),
        )

    def prepared(params, carry):
        # Keys are made once, not at every step. Padding of the memory may hold NaN.
        memory = jnp.where(carry.valid[:, None], carry.memory, 0)
        return memory, memory @ params.w_memory, carry.valid

    def align(found, valid, before):
        if monotonic is None:
            return masked_softmax(found, valid)
        stop = (found > 0).astype(found.dtype)
        if monotonic == "soft":
            stop = jax.nn.sigmoid(found)
        return move_forward(jnp.where(valid, stop, 0), before)

    def advance(step, params, carry, x):
        (params, memories), (x, noise) = params, x
        (before, y, alignment), restarted = carry
        memory, keys, valid = memories[0]
        if len(memories) == 2:
            memory, keys, valid = jax.tree.map(
                lambda old, new: jnp.where(restarted, new, old), *memories
            )
        after, query = step(params.cell, before, jnp.concatenate([x, y]))
        query = query.astype(y.dtype)  # where the cell's own params are wider
        found = scores(params, keys, query)
        found = found if noise is None else found + noise
        alignment = align(found, valid, alignment)
        context = alignment @ memory
        y = jnp.tanh(jnp.concatenate([query, context]) @ params.w_out)
        observe(q=query, e=found, alignment=alignment, attention=y)
        return ((after, y, alignment), restarted), y

    def resumed(carry, loop):
        after, y, alignment = loop
        return carry._replace(cell=after, attention=y, alignment=alignment)

    def step(params, carry, x):
        x = checks.step_input(x, (input_size,), params.w_out.dtype)
        carry = checks.carry(carry, jax.eval_shape(initial_carry, params))
        given = ((params, [prepared(params, carry)]), (carry[:3], jnp.array(False)))
        (loop, _), y = advance(cell.step, *given, (x, None))
        return resumed(carry, loop), y

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, time = checks.sequence(xs, (input_size,), params.w_out.dtype)
        given = (initial_carry(params), carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        noise = None
        if key is not None and score_noise:
            own, key = signals.split_key(key, 2)
            own, shape = signals.as_keys(own).step, (time, steps)
            noise = score_noise * jax.random.normal(own, shape, params.w_out.dtype)
        # The memory goes in beside the params and not as a carry of the loop, which
        # the backward pass would store once for each step.
        memories, again = [prepared(params, carry)], reset
        if reset is not None:
            memories.append(prepared(params, reset.carry))
            again = Reset(reset.where, (reset.carry[:3], jnp.array(True)))
        given = ((params, memories), (carry[:3], jnp.array(False)), (xs, noise))
        (loop, restarted), ys = walk(
            cell, advance, *given, mask=mask, reset=again, key=key
        )
        if reset is not None:
            carry = jax.tree.map(
                lambda old, new: jnp.where(restarted, new, old), carry, reset.carry
            )
        return resumed(carry, loop), ys

    return Cell(init, initial_carry, step, unroll)


def output_size(cell: Cell, input_size: int) -> int:
    """How many features a cell puts out, whose inputs must have ``input_size``."""
    x: Any = jax.ShapeDtypeStruct((input_size,), jnp.result_type(float))
    return output_spec(cell, x).shape[-1]
