"""The best sequences that a cell can write, found by beam search."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Params
from rnnjax.combinators.attending import AttentionCarry
from rnnjax.decoding.loop import Next, raw_unroll


class Beams(NamedTuple):
    """The best sequences, best first.

    ``tokens: (beams, steps)``, zero after each of ``lengths: (beams,)``, which count
    the end token; ``scores: (beams,)``; ``carry``, leaves ``(beams, ...)``.
    """

    tokens: Array
    lengths: Array
    scores: Array
    carry: Carry


def beam_search(
    cell: Cell,
    params: Params,
    carry: Carry,
    start_token: Any,
    *,
    steps: int,
    beams: int,
    end_token: int,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
) -> Beams:
    r"""Keep the best ``beams`` sequences at every step.

    .. math::

        score(y) = \frac{\log P(y)}{((5 + |y|) / 6)^\alpha}
            + \beta \sum_s \log \min(1, \textstyle\sum_t a_{ts})

    The second term is for a cell with `attention`, whose alignments are :math:`a_{ts}`:
    it prefers sequences that have looked at all of the memory, and is added once a
    sequence has ended. Such a sequence stays among the best for as long as its score
    does. The search is exact where ``beams`` is at least the number of all sequences.
    Scores of places that no sequence could fill are minus infinity.

    Args:
      cell: takes a token, returns logits ``(v,)``. Its carry is kept once for each
        beam, with the memory of an `attention`.
      params: its parameters.
      carry: the carry of one example.
      start_token: the first input.
      steps: how many tokens at most. A sequence that has not ended by then counts as
        if it ended there.
      beams: how many sequences are kept.
      end_token: the token that ends a sequence.
      length_penalty: :math:`\alpha`; zero prefers short sequences, one long ones.
      coverage_penalty: :math:`\beta`; 0.2 is usual.

    Raises:
      ValueError: for a ``coverage_penalty`` and a cell that has not just one attention.

    References: Graves 2012, arXiv:1211.3711; both penalties: Wu et al. 2016,
    arXiv:1609.08144.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.embedding(9, 4), rnnjax.gru(4, 9))
    >>> params = cell.init(jax.random.key(0))
    >>> found = rnnjax.beam_search(cell, params, cell.initial_carry(params), 1,
    ...                            steps=5, beams=3, end_token=2)
    >>> found.tokens.shape, bool((jnp.diff(found.scores) <= 0).all())
    ((3, 5), True)
    """
    checks.model(cell, params)
    checks.size("beams", beams)
    carry = checks.carry(carry, jax.eval_shape(cell.initial_carry, params))

    def widen(tree):
        return jax.tree.map(lambda a: jnp.stack([jnp.asarray(a)] * beams), tree)

    # Found before anything runs: a cell without attention has no coverage.
    covered = widen(jnp.zeros_like(attended(carry)[0])) if coverage_penalty else ()

    def follow(t, carry, logits, state):
        log_probability, done, lengths, tokens, covered = state
        added = jax.nn.log_softmax(logits)
        size = added.shape[-1]
        # A sequence that has ended goes on in one way only, and at no cost.
        ends = jnp.arange(size) == end_token
        stay = jnp.where(ends, 0, -jnp.inf)
        added = jnp.where(done[:, None], stay.astype(added.dtype), added)
        total = log_probability[:, None] + added
        lengths = lengths + (~done).astype(lengths.dtype)
        scores = total / penalty(lengths, total.dtype)[:, None]
        if coverage_penalty:
            alignment, valid = attended(carry)
            covered = covered + jnp.where(done[:, None], 0, alignment)
            missed = uncovered(covered, valid)[:, None]
            scores = scores + jnp.where(ends | (t == steps - 1), missed, 0)
        _, best = lax.top_k(scores.ravel(), beams)
        parent, token = best // size, (best % size).astype(jnp.int32)
        before, done, lengths, tokens, covered, carry = jax.tree.map(
            lambda a: a[parent], (done, done, lengths, tokens, covered, carry)
        )
        tokens = tokens.at[:, t].set(jnp.where(before, 0, token))
        done = done | (token == end_token)
        state = (total.ravel()[best], done, lengths, tokens, covered)
        return Next(token, carry, (), done.all(), state)

    def penalty(lengths, dtype):
        return ((5 + lengths.astype(dtype)) / 6) ** length_penalty

    def uncovered(covered, valid):
        # What was never looked at has no logarithm, only a very small one.
        least = jnp.finfo(covered.dtype).tiny
        logs = jnp.log(jnp.clip(covered, least, 1))
        return coverage_penalty * jnp.where(valid, logs, 0).sum(-1)

    wide = Cell(
        cell.init,
        lambda params: widen(cell.initial_carry(params)),
        jax.vmap(cell.step, (None, 0, 0)),
        cell.unroll,
    )
    start, carry = widen(jnp.asarray(start_token, jnp.int32)), widen(carry)
    dtype = jax.eval_shape(wide.step, params, carry, start)[1].dtype
    # All beams start alike: but for one they must not count, or all stay alike.
    alone = jnp.where(jnp.arange(beams) == 0, 0, -jnp.inf).astype(dtype)
    none = jnp.zeros(beams, jnp.int32)
    tokens = jnp.zeros((beams, steps), jnp.int32)
    state = (alone, jnp.zeros(beams, bool), none, tokens, covered)
    given = (wide, params, carry, start, follow, state)
    raw = raw_unroll(*given, steps=steps, stop_early=True)
    log_probability, _, lengths, tokens, covered = raw.state
    scores = log_probability / penalty(lengths, dtype)
    if coverage_penalty:
        scores = scores + uncovered(covered, attended(raw.carry)[1])
    return Beams(tokens, lengths, scores, raw.carry)


def attended(carry: Carry) -> tuple[Array, Array]:
    """The alignment of the one attention in a carry, and which steps are valid."""

    def found(leaf):
        return isinstance(leaf, AttentionCarry)

    carries = [leaf for leaf in jax.tree.leaves(carry, is_leaf=found) if found(leaf)]
    if len(carries) != 1:
        raise ValueError(
            f"coverage_penalty is given, and the cell has {len(carries)} attentions; "
            "expected one, whose alignments say what is covered. Write "
            "coverage_penalty=0.0, or put rnnjax.attention into the cell."
        )
    return carries[0].alignment, carries[0].valid
