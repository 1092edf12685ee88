"""Decoding: all ways of it run on one loop and agree with loops written by hand."""

import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

VOCABULARY, END, STEPS = 4, 2, 5
CELL = rnnjax.stack(
    rnnjax.embedding(VOCABULARY, 3), rnnjax.gru(3, 6), rnnjax.dense(6, VOCABULARY)
)
KEY = jax.random.key(0)
unroll, step = jax.jit(CELL.unroll), jax.jit(CELL.step)


@pytest.fixture(scope="module")
def model():
    with jax.enable_x64(True):
        params = CELL.init(jax.random.key(3))
        params = jax.tree.map(lambda a: 3 * a, params)  # decided, not near ties
        return params, CELL.initial_carry(params)


def log_probabilities(model, tokens):
    """Of each of ``tokens`` after those before it, the start token being 1."""
    # Zeros behind, that one compilation serves all lengths.
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


@pytest.mark.float32
@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_answers_of_tensorflow_1(name):
    path = pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz"
    values = {
        key.removeprefix(name + "/"): value
        for key, value in np.load(path).items()
        if key.startswith(name + "/")
    }
    cell = rnnjax.stack(rnnjax.embedding(7, 3), rnnjax.elman(3, 5), rnnjax.dense(5, 7))
    kernel = values["model.decoder.basic_rnn_cell.kernel"]
    bias = values["model.decoder.basic_rnn_cell.bias"]
    dense = [values["model.decoder.logits." + part] for part in ("kernel", "bias")]
    params = (
        values["model.table"],
        rnnjax.ElmanParams(kernel[:3], kernel[3:], bias),
        rnnjax.DenseParams(*dense),
    )
    given: Any = {"steps": 6, "end_token": 2}
    if name == "greedy":

        def decode(h):
            return rnnjax.generate(cell, params, ((), h, ()), 1, **given)

        found = jax.vmap(decode)(values["state"])
        steps = values["tokens"].shape[1]  # TensorFlow stops with the longest
        valid = np.arange(steps) < values["lengths"][:, None]
        np.testing.assert_array_equal(found.length, values["lengths"])
        tokens = np.where(valid, values["tokens"], 0)
        np.testing.assert_array_equal(found.tokens[:, :steps], tokens)
        return

    def search(h):
        return rnnjax.beam_search(cell, params, ((), h, ()), 1, beams=3, **given)

    found = jax.vmap(search)(values["state"])
    np.testing.assert_allclose(found.scores, values["scores"], rtol=1e-5)
    theirs = np.swapaxes(values["tokens"], 1, 2)
    for ours, row, length in zip(
        found.tokens.reshape(9, -1), theirs.reshape(9, -1), found.lengths.ravel(),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours[:length], row[:length])


def test_generation_by_hand_stops_and_is_the_same_in_both_loops(model: Any):
    params, carry = model
    pick = jax.jit(functools.partial(rnnjax.sample, temperature=2.0))

    @jax.jit
    def write(key):
        given: Any = {"steps": STEPS, "pick": pick, "end_token": END, "key": key}
        return rnnjax.generate(CELL, params, carry, 1, **given)

    for key in map(jax.random.key, range(5)):
        found = write(key)
        tokens, before, token = [], carry, jnp.array(1, jnp.int32)
        for t in range(STEPS):
            before, logits = step(params, before, token)
            np.testing.assert_allclose(found.logits[t], logits)
            token = pick(jax.random.fold_in(key, t), logits)
            tokens.append(int(token))
            if token == END:
                break
        assert found.length == len(tokens)
        assert found.tokens[: len(tokens)].tolist() == tokens
        assert (found.tokens[len(tokens) :] == 0).all()
        jax.tree.map(np.testing.assert_allclose, found.carry, before)


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_raw_loop_freezes_each_example_when_it_is_finished(stop_early):
    """A counter that runs to a limit of each example's own."""
    counter = rnnjax.recurrence(
        lambda key: jnp.zeros(()),
        lambda params: jnp.zeros((), int),
        lambda params, x: x,
        lambda params, carry, x: (carry + x, carry + x),
    )

    def count(limit):
        def follow(t, carry, y, state):
            return rnnjax.Next(jnp.array(1), carry, y, y >= limit, state + 1)

        return rnnjax.raw_unroll(
            counter, jnp.zeros(()), jnp.array(0), 1, follow, 0, steps=6,
            finished=limit == 0, stop_early=stop_early,
        )  # fmt: skip

    found = jax.jit(jax.vmap(count))(np.array([3, 0, 9]))
    expected = [[1, 2, 3, 0, 0, 0], [0] * 6, [1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(found.emits, expected)
    assert found.length.tolist() == [3, 0, 6]
    assert found.carry.tolist() == [3, 0, 6]
    assert found.state.tolist() == [3, 0, 6]


def test_scheduled_sampling_runs_from_teacher_forcing_to_generation(model: Any):
    params, carry = model
    tokens = np.array([1, 3, 0, 2, 3])

    @functools.partial(jax.jit, static_argnames="pick")
    def run(probability, length=5, pick=rnnjax.greedy):
        given = (CELL, params, carry, tokens, probability)
        return rnnjax.scheduled_sampling(*given, key=KEY, length=length, pick=pick)

    forced = unroll(params, carry, tokens)
    jax.tree.map(np.testing.assert_allclose, run(0.0), forced)
    own = rnnjax.generate(CELL, params, carry, 1, steps=5)
    np.testing.assert_allclose(run(1.0)[1], own.logits)
    # In between each input is one or the other.
    half = run(0.5)[1]
    assert not np.allclose(half, forced[1])
    assert not np.allclose(half, own.logits)
    for length in (0, 3):
        state, logits = run(0.0, length=length)
        expected = forced[1] if length == 5 else forced[1].at[length:].set(0)
        np.testing.assert_allclose(logits, expected)
        if length == 0:
            jax.tree.map(np.testing.assert_array_equal, state, carry)

    def forcing(params):
        given = (CELL, params, carry, tokens, 0.0)
        return rnnjax.scheduled_sampling(*given, key=KEY)[1].sum()

    gradient = jax.jit(jax.grad(forcing))(params)
    plain = jax.jit(jax.grad(lambda p: CELL.unroll(p, carry, tokens)[1].sum()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), gradient, plain
    )


def test_scheduled_sampling_keeps_the_noise_of_the_cell(model: Any):
    params, carry = model
    noisy = rnnjax.stack(CELL, rnnjax.dropout(0.5))
    given = ((params, ()), (carry, ()), np.array([1, 3, 0]), 0.0)
    _, logits = rnnjax.scheduled_sampling(noisy, *given, key=KEY)
    plain = CELL.unroll(params, carry, np.array([1, 3, 0]))[1]
    dropped = np.isclose(logits, 0)
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_allclose(logits[~dropped], 2 * plain[~dropped])


LOGITS = np.log(np.array([0.4, 0.05, 0.3, 0.15, 0.1]))
LIMITS = {
    "none": ({}, [0.4, 0.05, 0.3, 0.15, 0.1]),
    "temperature": ({"temperature": 0.5}, np.square([0.4, 0.05, 0.3, 0.15, 0.1])),
    "top_k": ({"top_k": 2}, [0.4, 0, 0.3, 0, 0]),
    "top_k of all": ({"top_k": 9}, [0.4, 0.05, 0.3, 0.15, 0.1]),
    "top_p": ({"top_p": 0.6}, [0.4, 0, 0.3, 0, 0]),
    "top_p, one more": ({"top_p": 0.71}, [0.4, 0, 0.3, 0.15, 0]),
    "top_p of nothing": ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
    "both": ({"top_k": 3, "top_p": 0.5}, [0.4, 0, 0.3, 0, 0]),
    "temperature of zero": ({"temperature": 0}, [1, 0, 0, 0, 0]),
    "zero and limits": ({"temperature": 0.0, "top_k": 3, "top_p": 1}, [1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize(("limits", "weights"), LIMITS.values(), ids=LIMITS)
def test_samples_come_from_the_limited_distribution(limits, weights):
    pick = functools.partial(rnnjax.sample, **limits)
    tokens = jax.vmap(pick, (0, None))(jax.random.split(KEY, 4000), LOGITS)
    found = np.bincount(tokens, minlength=5) / 4000
    expected = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert (found[expected == 0] == 0).all()


def test_a_temperature_may_be_traced_and_one_for_each_row():
    logits = jnp.asarray([[1.0, 3.0, 2.0], [3.0, 3.0, 1.0]])

    @jax.jit
    def draw(temperature):
        return rnnjax.sample(KEY, logits, temperature=temperature)

    # Of equal logits the first, as `greedy` takes it.
    np.testing.assert_array_equal(draw(0.0), [1, 0])
    np.testing.assert_array_equal(draw(0.0), rnnjax.greedy(None, logits))
    each = jnp.array([[0.0], [5.0]])
    draws = [rnnjax.sample(k, logits, temperature=each) for k in jax.random.split(KEY)]
    assert [int(row[0]) for row in draws] == [1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -0.5}, r"temperature is -0.5.*temperature=0.8"),
        ({"temperature": float("nan")}, r"temperature is nan"),
        ({"temperature": "hot"}, r"temperature is 'hot'"),
        ({"temperature": None}, r"temperature is None"),
        ({"temperature": jnp.array([1.0, -1.0])}, r"zero or a positive number"),
        ({"top_p": 1.5}, r"top_p is 1.5.*in \[0, 1\].*top_p=0.9"),
        ({"top_p": -0.1}, r"top_p is -0.1"),
        ({"top_k": 0}, r"top_k is 0.*positive integer"),
        ({"top_k": 2.0}, r"top_k is 2.0.*positive integer"),
    ],
)
def test_limits_that_cannot_be_say_so(given, message):
    with pytest.raises(ValueError, match=message):
        rnnjax.sample(KEY, jnp.asarray(LOGITS), **given)


def test_sampling_without_a_key_says_what_to_write(model: Any):
    params, carry = model
    with pytest.raises(TypeError, match=r"jax.random.key\(0\)"):
        rnnjax.generate(CELL, params, carry, 1, steps=3, pick=rnnjax.sample)


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
