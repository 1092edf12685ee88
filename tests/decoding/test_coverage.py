"""Beams of a cell with attention, scored by what they have looked at, too."""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

END = 2
PLACES = jnp.arange(5)
RECORDED = pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz"


def decoder(vocabulary):
    attention = rnnjax.attention(
        rnnjax.elman(7, 4), 3, 4, (5, 4), score="multiplicative"
    )
    return rnnjax.stack(
        rnnjax.embedding(vocabulary, 3), attention, rnnjax.dense(4, vocabulary)
    )


def carry_of(cell, params, memory, length):
    empty, carry, last = cell.initial_carry(params)
    return empty, carry._replace(memory=memory, valid=length > PLACES), last


def test_wide_beams_are_brute_force():
    cell, steps, beta = decoder(3), 3, 0.4
    params = jax.tree.map(lambda a: 3 * a, cell.init(jax.random.key(3)))
    memory = jax.random.normal(jax.random.key(4), (5, 4))
    carry = carry_of(cell, params, memory, 4)

    @jax.jit
    def run(inputs):
        # One step at a time, for the carry holds the alignment of the last alone.
        def one(carry, x):
            carry, logits = cell.step(params, carry, x)
            return carry, (jax.nn.log_softmax(logits), carry[1].alignment)

        return jax.lax.scan(one, carry, inputs)[1]

    scores = {}
    for tokens in itertools.product(range(3), repeat=steps):
        length = tokens.index(END) + 1 if END in tokens else steps
        tokens = tokens[:length]
        inputs = np.array([1, *tokens, *[0] * steps])[:steps]
        logp, alignment = run(inputs)
        covered = np.asarray(alignment)[:length].sum(0)[:4]
        scores[tokens] = (
            np.asarray(logp)[np.arange(length), list(tokens)].sum()
            / ((5 + length) / 6) ** 0.7
            + beta * np.log(np.minimum(covered, 1)).sum()
        )
    best = sorted(scores, key=lambda tokens: scores[tokens], reverse=True)
    found = rnnjax.beam_search(
        cell, params, carry, 1, steps=steps, beams=len(scores), end_token=END,
        length_penalty=0.7, coverage_penalty=beta,
    )  # fmt: skip
    np.testing.assert_allclose(found.scores, [scores[tokens] for tokens in best])
    for tokens, row, length in zip(best, found.tokens, found.lengths, strict=True):
        assert tuple(row[:length].tolist()) == tokens


@pytest.mark.float32
@pytest.mark.parametrize(("name", "coverage"), [("length", 0.0), ("coverage", 0.3)])
def test_answers_of_tensorflow_1(name, coverage):
    """Scores of all sequences that TensorFlow found and that had ended.

    In the step in which a sequence ends TensorFlow counts neither its last token nor
    its coverage, only in those after; so which sequences its narrow beams keep can
    differ, and what ended in the very last step has another score.
    """
    values = {
        key.removeprefix(name + "/"): value
        for key, value in np.load(RECORDED).items()
        if key.startswith(name + "/")
    }
    wrapper, cell = "model.decoder.attention_wrapper.", decoder(5)
    kernel = values[wrapper + "basic_rnn_cell.kernel"]
    params = (
        values["model.table"],
        rnnjax.AttentionParams(
            cell=rnnjax.ElmanParams(
                kernel[:7], kernel[7:], values[wrapper + "basic_rnn_cell.bias"]
            ),
            w_memory=values["model.memory_layer.kernel"],
            w_query=None,
            v=None,
            w_out=values[wrapper + "dense.kernel"],
        ),
        rnnjax.DenseParams(
            values["model.decoder.logits.kernel"],
            values["model.decoder.logits.bias"] + values["soon"],
        ),
    )
    steps = values["tokens"].shape[1]

    def search(h, memory, length):
        given: Any = {"steps": steps, "beams": 100, "end_token": END}
        empty, carry, last = carry_of(cell, params, memory, length)
        carry = empty, carry._replace(cell=h), last
        return rnnjax.beam_search(
            cell, params, carry, 1, **given,
            length_penalty=0.8, coverage_penalty=coverage,
        )  # fmt: skip

    run = jax.jit(jax.vmap(search))
    found = run(values["state"], values["memory"], np.array([5, 2, 3]))
    compared = 0
    for i, k in itertools.product(range(3), range(3)):
        length = values["lengths"][i, k]
        if length < steps:
            tokens = np.zeros(steps, int)
            tokens[:length] = values["tokens"][i, :length, k]
            same = (found.tokens[i] == tokens).all(1) & np.isfinite(found.scores[i])
            (row,) = np.flatnonzero(same)
            np.testing.assert_allclose(
                found.scores[i, row], values["scores"][i, k], rtol=1e-5
            )
            compared += 1
    assert compared >= 6


def test_what_was_never_looked_at_counts_less_than_anything_else():
    cell = rnnjax.stack(
        rnnjax.embedding(3, 3),
        rnnjax.attention(rnnjax.elman(7, 4), 3, 4, (5, 4), monotonic="hard"),
        rnnjax.dense(4, 3),
    )
    params = cell.init(jax.random.key(0))
    memory = jax.random.normal(jax.random.key(4), (5, 4))
    found = rnnjax.beam_search(
        cell, params, carry_of(cell, params, memory, 5), 1,
        steps=3, beams=3, end_token=END, coverage_penalty=0.2,
    )  # fmt: skip
    assert np.isfinite(found.scores).all()
    assert (found.scores < -50).all()


@pytest.mark.parametrize("attentions", [0, 2])
def test_a_cell_without_just_one_attention_says_so(attentions):
    attention = rnnjax.attention(rnnjax.elman(3 + 3, 4), 3, 3, (5, 4))
    cell = rnnjax.stack(rnnjax.embedding(3, 3), *[attention] * attentions)
    params = cell.init(jax.random.key(0))
    given: Any = {"steps": 3, "beams": 2, "end_token": END, "coverage_penalty": 0.2}
    with pytest.raises(ValueError, match=rf"has {attentions} attentions.*expected one"):
        rnnjax.beam_search(cell, params, cell.initial_carry(params), 1, **given)
