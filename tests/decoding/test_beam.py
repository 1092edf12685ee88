"""Beams agree with brute force and with a search by hand."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.model import CELL, END, KEY, STEPS, VOCABULARY, unroll

import rnnjax


def log_probabilities(model, tokens):
    """Of each of ``tokens`` after those before it, the start token being 1."""
    # Zeros are added after them, so that one compilation serves all lengths.
    inputs = np.array([1, *tokens[:-1], *[0] * (STEPS - len(tokens))])
    logits = np.asarray(unroll(*model, inputs)[1])[: len(tokens)]
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return logp[np.arange(len(tokens)), list(tokens)]


def all_sequences(steps):
    """Every sequence that ends with the end token, or is cut off at ``steps``."""
    for length in range(1, steps + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=length):
            if END not in tokens[:-1] and (tokens[-1] == END or length == steps):
                yield tokens


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_wide_beams_are_brute_force(model: Any, penalty):
    steps = 3
    scores = {}
    for tokens in all_sequences(steps):
        total = log_probabilities(model, tokens).sum()
        scores[tokens] = total / ((5 + len(tokens)) / 6) ** penalty
    best = sorted(scores, key=lambda tokens: scores[tokens], reverse=True)
    found = jax.jit(
        functools.partial(
            rnnjax.beam_search, CELL, steps=steps, beams=len(scores), end_token=END,
            length_penalty=penalty,
        )
    )(*model, 1)  # fmt: skip
    np.testing.assert_allclose(found.scores, [scores[tokens] for tokens in best])
    for tokens, row, length in zip(best, found.tokens, found.lengths, strict=True):
        assert tuple(row[:length].tolist()) == tokens
        assert (row[length:] == 0).all()


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_narrow_beams_are_a_search_by_hand(model: Any, beams):
    params, carry = model
    kept = [((), 0.0)]
    for _ in range(STEPS):
        candidates = []
        for tokens, score in kept:
            if tokens and tokens[-1] == END:
                candidates.append((tokens, score))
                continue
            for token in range(VOCABULARY):
                longer = (*tokens, token)
                candidates.append((longer, log_probabilities(model, longer).sum()))
        kept = sorted(candidates, key=lambda c: c[1], reverse=True)[:beams]
    search = functools.partial(
        rnnjax.beam_search, CELL, steps=STEPS, beams=beams, end_token=END
    )
    found = jax.jit(search)(*model, 1)
    np.testing.assert_allclose(found.scores, [score for _, score in kept])
    for (tokens, _), row in zip(kept, found.tokens, strict=True):
        assert tuple(row[: len(tokens)].tolist()) == tokens
    if beams == 1:
        greedy = rnnjax.generate(CELL, params, carry, 1, steps=STEPS, end_token=END)
        np.testing.assert_array_equal(found.tokens[0], greedy.tokens)


def test_more_beams_than_sequences_leave_places_empty(model: Any):
    params, carry = model
    given: Any = {"steps": 1, "beams": 6, "end_token": END}
    found = rnnjax.beam_search(CELL, params, carry, 1, **given)
    assert np.isfinite(found.scores[:4]).all()
    assert (found.scores[4:] == -np.inf).all()


def test_a_decoder_with_attention_runs_in_beams(model: Any):
    del model
    decoder = rnnjax.stack(
        rnnjax.embedding(5, 3),
        rnnjax.attention(rnnjax.gru(3 + 4, 6), 3, 4, (7, 2)),
        rnnjax.dense(4, 5),
    )
    params = decoder.init(KEY)
    memory = jax.random.normal(KEY, (7, 2))
    empty, carry, last = decoder.initial_carry(params)
    carry = (empty, carry._replace(memory=memory), last)
    given = {"steps": 4, "beams": 3, "end_token": 2}
    found = jax.jit(functools.partial(rnnjax.beam_search, decoder, **given))(
        params, carry, 1
    )
    unroll = jax.jit(decoder.unroll)
    # Scores are those of the sequences that it returns.
    found = zip(found.tokens, found.scores, found.lengths, strict=True)
    for tokens, score, length in found:
        inputs = jnp.concatenate([jnp.array([1], tokens.dtype), tokens[:-1]])
        logits = unroll(params, carry, inputs)[1][:length]
        logp = jax.nn.log_softmax(logits)[np.arange(length), tokens[:length]]
        np.testing.assert_allclose(logp.sum(), score)
