"""Attention over a memory: its scores, its alignments, and the noise between them."""

import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import testing
from rnnjax.combinators.alignment import move_forward

TENSORFLOW = dict(
    np.load(pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz")
)
# Each of these is recorded under "bahdanau" and under "luong".
VARIANTS = {
    "scaled": {"scaled": True},
    "monotonic_parallel": {"monotonic": "soft"},
    "monotonic_parallel_scaled": {"monotonic": "soft", "scaled": True},
    "monotonic_hard": {"monotonic": "hard"},
    "monotonic_hard_scaled": {"monotonic": "hard", "scaled": True},
}
SCORES: dict[str, Any] = {"bahdanau": "additive", "luong": "multiplicative"}


@pytest.mark.parametrize("variant", ["scaled", "monotonic_parallel_scaled"])
def test_the_contract(variant):
    cell = rnnjax.attention(rnnjax.elman(5, 3), 3, 2, (5, 2), **VARIANTS[variant])
    testing.check_cell(cell, np.ones(3))


def params_of(values, kind, variant):
    wrapper = "rnn.attention_wrapper."
    own = f"{kind}_monotonic_" if "monotonic" in variant else f"{kind}_"
    score = {
        name.removeprefix(wrapper + own + "attention."): value
        for name, value in values.items()
    }
    kernel = values[wrapper + "basic_rnn_cell.kernel"]
    return rnnjax.AttentionParams(
        cell=rnnjax.ElmanParams(
            kernel[:7], kernel[7:], values[wrapper + "basic_rnn_cell.bias"]
        ),
        w_memory=values["memory_layer.kernel"],
        w_query=score.get("query_layer.kernel"),
        v=score.get("attention_v"),
        w_out=values[wrapper + "dense.kernel"],
        scale=score.get("attention_g"),
        b_query=score.get("attention_b"),
        b_score=score.get("attention_score_bias"),
    )


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_of_tensorflow_1(kind, variant):
    name, lengths = f"{kind}_{variant}/", jnp.array([6, 4, 1])
    found = {
        key.removeprefix(name): value
        for key, value in TENSORFLOW.items()
        if key.startswith(name)
    }
    cell = rnnjax.attention(
        rnnjax.elman(7, 4), 3, 4, (5, 4), score=SCORES[kind], **VARIANTS[variant]
    )
    xs = np.random.RandomState(1).normal(size=(3, 6, 3))
    memory = np.random.RandomState(2).normal(size=(3, 5, 4))

    def loss(params, xs, memory):
        valid = rnnjax.sequence_mask(np.array([5, 2, 3]), 5)
        carry = jax.vmap(lambda _: cell.initial_carry(params))(memory)
        carry = carry._replace(memory=memory, valid=valid)
        carry, ys = rnnjax.unroll(cell, params, xs, carry=carry, lengths=lengths)
        return (ys * found["weights"]).sum(), (carry, ys)

    run = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    params = params_of(found, kind, variant)
    assert jax.tree.structure(params) == jax.tree.structure(cell.init(KEY))
    grads, (carry, ys) = run(params, xs, memory)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(ys, found["outputs"])
    close(carry.alignment, found["alignments"])
    close(carry.attention, found["attention"])
    close(carry.cell, found["h"])
    by = {k[2:]: v for k, v in found.items() if k.startswith("d_")}
    jax.tree.map(close, grads, (params_of(by, kind, variant), by["xs"], by["memory"]))


KEY = jax.random.key(0)


def start(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    memory = jax.random.normal(jax.random.key(seed + 1), (6, 2))
    carry = cell.initial_carry(params)._replace(memory=memory)
    return params, carry, jax.random.normal(jax.random.key(seed + 2), (7, 3))


def test_soft_alignments_are_the_expectation_of_hard_ones():
    """Every outcome of every coin is tried; a walk stops where its coin says so."""
    steps, outputs = 3, 2
    stop = np.random.default_rng(0).uniform(size=(outputs, steps))
    expected = np.zeros((outputs, steps))
    for coins in itertools.product([False, True], repeat=steps * outputs):
        coins = np.reshape(coins, (outputs, steps))
        chance, at = np.where(coins, stop, 1 - stop).prod(), 0
        for t in range(outputs):
            while at < steps and not coins[t, at]:
                at += 1
            if at == steps:
                break
            expected[t, at] += chance
    first = move_forward(jnp.asarray(stop[0]), jnp.array([1.0, 0.0, 0.0]))
    second = move_forward(jnp.asarray(stop[1]), first)
    np.testing.assert_allclose(np.stack([first, second]), expected)


def test_hard_attention_never_goes_back_and_reads_one_step():
    cell = rnnjax.attention(rnnjax.gru(7, 5), 3, 4, (6, 2), monotonic="hard")
    params, carry, xs = start(cell)
    alignment = rnnjax.trace(cell, params, carry, xs)["alignment"]
    assert set(np.unique(alignment)) <= {0.0, 1.0}
    assert (alignment.sum(1) == 1).any()
    places = alignment.argmax(1)[alignment.sum(1) == 1]
    assert (np.diff(places) >= 0).all()


def test_a_low_bias_moves_on_and_a_high_one_stays():
    def last_place(bias):
        cell = rnnjax.attention(
            rnnjax.gru(7, 5), 3, 4, (6, 2), monotonic="soft", score_bias=bias
        )
        params, carry, xs = start(cell)
        return cell.unroll(params, carry, xs)[0].alignment

    assert last_place(20.0)[0] > 0.99
    assert last_place(-20.0).sum() < 0.01


def test_a_long_memory_loses_no_alignment():
    """TensorFlow divides by a product that is smaller than any float here."""
    stop = jnp.full(3000, 0.5).at[2999].set(1.0)
    late = jnp.zeros(3000).at[2990].set(1.0)
    np.testing.assert_allclose(move_forward(stop, late).sum(), 1)


def test_noise_comes_with_a_key_at_every_step_anew():
    cell = rnnjax.attention(
        rnnjax.gru(7, 5), 3, 4, (6, 2), monotonic="soft", score_noise=1.0
    )
    quiet = rnnjax.attention(rnnjax.gru(7, 5), 3, 4, (6, 2), monotonic="soft")
    params, carry, xs = start(cell)
    plain = quiet.unroll(params, carry, xs)
    jax.tree.map(np.testing.assert_array_equal, cell.unroll(params, carry, xs), plain)
    noisy = cell.unroll(params, carry, xs, key=KEY)
    again = cell.unroll(params, carry, xs, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, noisy, again)
    assert not np.allclose(noisy[1], plain[1])
    whole = rnnjax.Keys(KEY, jax.random.key(1))
    assert not np.allclose(cell.unroll(params, carry, xs, key=whole)[1], noisy[1])
    # Without monotonic scores to disturb, a key does nothing.
    np.testing.assert_array_equal(quiet.unroll(params, carry, xs, key=KEY)[1], plain[1])


def test_the_noise_has_the_deviation_that_is_asked_for():
    cell = rnnjax.attention(
        rnnjax.elman(5, 3), 3, 2, (4000, 2), monotonic="soft", score_noise=2.0
    )
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    carry = cell.initial_carry(params)
    # All starts everywhere alike, so that one step shows each of the probabilities.
    carry = carry._replace(alignment=jnp.ones(4000))
    stop = cell.unroll(params, carry, jnp.zeros((1, 3)), key=KEY)[0].alignment
    reached = jnp.ones(())
    noise = []
    for a in stop.tolist():
        p = a / float(reached)
        noise.append(np.log(p) - np.log1p(-p))
        reached = (1 - p) * reached + 1
    np.testing.assert_allclose(np.std(noise), 2.0, rtol=0.05)
    np.testing.assert_allclose(np.mean(noise), 0.0, atol=0.1)


def test_attention_shows_its_weights_and_follows_resets_to_a_new_memory():
    cell = rnnjax.attention(rnnjax.gru(7, 5), 3, 4, (6, 2))
    params, carry, xs = start(cell)

    def remembering(seed):
        memory = jax.random.normal(jax.random.key(seed), (6, 2))
        valid = np.arange(6) < seed
        return carry._replace(memory=jnp.where(valid[:, None], memory, jnp.nan),
                              valid=jnp.asarray(valid))  # fmt: skip

    where = np.arange(7) == 3
    given = {"reset": rnnjax.Reset(where, remembering(5))}
    unroll = jax.jit(cell.unroll)
    after, ys = unroll(params, remembering(2), xs, **given)
    first = unroll(params, remembering(2), xs[:3])[1]
    last, second = unroll(params, remembering(5), xs[3:])
    np.testing.assert_allclose(ys, np.concatenate([first, second]))
    jax.tree.map(np.testing.assert_array_equal, after.memory, last.memory)
    alignment = rnnjax.trace(cell, params, remembering(2), xs)["alignment"]
    np.testing.assert_allclose(alignment.sum(1), 1)
    assert (alignment[:, 2:] == 0).all()
    assert (alignment[:, :2] > 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"score": "dot"}, r"score is 'dot'.*score='additive'"),
        ({"monotonic": True}, r"monotonic is True.*monotonic='soft'"),
        ({"score_bias": -4.0}, r"score_bias is -4.0.*monotonic='soft'"),
        ({"score_noise": 1.0}, r"score_noise is 1.0.*monotonic='soft'"),
    ],
)
def test_arguments_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        rnnjax.attention(rnnjax.gru(7, 5), 3, 4, (6, 2), **given)
