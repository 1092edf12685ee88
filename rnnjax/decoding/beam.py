"""The best sequences that a cell can write, by beam search."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Carry, Cell, Params
from rnnjax.decoding.loop import Next, raw_unroll


class Beams(NamedTuple):
    """The best sequences, best first.

    ``tokens: (beams, steps)``, zero behind each of ``lengths: (beams,)``, which count
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
) -> Beams:
    r"""Keep the best ``beams`` sequences at every step.

    .. math:: score(y) = \frac{\log P(y)}{((5 + |y|) / 6)^\alpha}

    Sequences that have ended stay among them for as long as their score does. It is
    exact where ``beams`` is at least the number of all sequences. Scores of places that
    no sequence could fill are minus infinity.

    Args:
      cell: takes a token, returns logits ``(v,)``. Its carry is kept once for each
        beam, with the memory of an `attention`.
      params: its parameters.
      carry: the carry of one example.
      start_token: the first input.
      steps: how many tokens at most; sequences that have not ended by then count as
        they are.
      beams: how many sequences are kept.
      end_token: the token that ends a sequence.
      length_penalty: :math:`\alpha`; zero prefers short sequences, one long ones.

    References: Graves 2012, arXiv:1211.3711; the length penalty: Wu et al. 2016,
    arXiv:1609.08144.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.embedding(9, 4), rnnjax.gru(4, 9))
    >>> params = cell.init(jax.random.key(0))
    >>> found = rnnjax.beam_search(cell, params, cell.initial_carry(params), 1,
    ...                            steps=5, beams=3, end_token=2)
    >>> found.tokens.shape, bool((jnp.diff(found.scores) <= 0).all())
    ((3, 5), True)
    """
    checks.size("beams", beams)
    carry = checks.carry(carry, jax.eval_shape(cell.initial_carry, params))

    def widen(tree):
        return jax.tree.map(lambda a: jnp.stack([jnp.asarray(a)] * beams), tree)

    def follow(t, carry, logits, state):
        log_probability, done, lengths, tokens = state
        added = jax.nn.log_softmax(logits)
        size = added.shape[-1]
        # A sequence that has ended goes on in one way only, and at no cost.
        stay = jnp.where(jnp.arange(size) == end_token, 0, -jnp.inf)
        added = jnp.where(done[:, None], stay.astype(added.dtype), added)
        total = log_probability[:, None] + added
        lengths = lengths + (~done).astype(lengths.dtype)
        scores = total / penalty(lengths, total.dtype)[:, None]
        _, best = lax.top_k(scores.ravel(), beams)
        parent, token = best // size, (best % size).astype(jnp.int32)
        before, done, lengths, tokens, carry = jax.tree.map(
            lambda a: a[parent], (done, done, lengths, tokens, carry)
        )
        tokens = tokens.at[:, t].set(jnp.where(before, 0, token))
        done = done | (token == end_token)
        state = (total.ravel()[best], done, lengths, tokens)
        return Next(token, carry, (), done.all(), state)

    def penalty(lengths, dtype):
        return ((5 + lengths.astype(dtype)) / 6) ** length_penalty

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
    state = (alone, jnp.zeros(beams, bool), none, jnp.zeros((beams, steps), jnp.int32))
    given = (wide, params, carry, start, follow, state)
    raw = raw_unroll(*given, steps=steps, stop_early=True)
    log_probability, _, lengths, tokens = raw.state
    scores = log_probability / penalty(lengths, dtype)
    return Beams(tokens, lengths, scores, raw.carry)
