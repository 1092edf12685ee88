"""Cells that are fed with their own outputs, in training and after it."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.model import CELL, KEY, unroll

import rnnjax

RECORDED = pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz"
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def recorded(name):
    return {
        key.removeprefix(name + "/"): value
        for key, value in np.load(RECORDED).items()
        if key.startswith(name + "/")
    }


def params_of(values):
    name = "decoder.output_projection_wrapper."
    kernel = values[name + "basic_rnn_cell.kernel"]
    bias = values[name + "basic_rnn_cell.bias"]
    dense = rnnjax.DenseParams(values[name + "kernel"], values[name + "bias"])
    return rnnjax.ElmanParams(kernel[:3], kernel[3:], bias), dense


def cell_of(outputs):
    return rnnjax.stack(rnnjax.elman(3, 4), rnnjax.dense(4, outputs))


# What TensorFlow's coins said is a probability of zero or one for each step.
@pytest.mark.parametrize("name", ["0", "50", "100", "auxiliary"])
def test_answers_of_tensorflow_1(name):
    found = recorded(f"scheduled_{name}")
    outputs, lengths = found["outputs"].shape[-1], np.array([6, 4, 1])
    cell = cell_of(outputs)
    xs = np.random.RandomState(1).normal(size=(3, 6, 3))

    def feed(y, x):
        return jnp.concatenate([jnp.sin(y), x[outputs:]])

    def loss(params, xs, h):
        def run(h, xs, coins, length):
            given = (cell, params, (h, ()), xs, coins)
            return rnnjax.scheduled_outputs(*given, key=KEY, length=length, feed=feed)

        coins = found["coins"].astype(float)
        (h, _), ys = jax.vmap(run)(h, xs, coins, lengths)
        return (ys * found["weights"]).sum(), (h, ys)

    params = params_of(found)
    run = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    grads, (h, ys) = run(params, xs, found["state"])
    close(ys, found["outputs"])
    close(h, found["h"])
    by = {k[2:]: v for k, v in found.items() if k.startswith("d_")}
    jax.tree.map(close, grads, (params_of(by), by["xs"], by["h0"]))


def test_the_inference_helper_of_tensorflow_1_is_a_raw_loop():
    found = recorded("inference")
    cell, params = cell_of(3), params_of(found)

    def follow(t, carry, y, state):
        return rnnjax.Next(jnp.sin(y), carry, y, y[2] > 0.78, state)

    def run(h, x):
        return rnnjax.raw_unroll(cell, params, (h, ()), x, follow, steps=8)

    starts = np.random.RandomState(17).normal(size=(3, 3))
    raw = jax.vmap(run)(found["state"], starts)
    steps = found["ys"].shape[1]  # TensorFlow stops with the longest
    close(raw.emits[:, :steps], found["ys"])
    np.testing.assert_array_equal(raw.length, found["lengths"])
    close(raw.carry[0], found["h"])


def test_a_probability_between_takes_some_of_each():
    cell, params = cell_of(3), cell_of(3).init(KEY)
    carry, xs = cell.initial_carry(params), jax.random.normal(KEY, (500, 3))
    seen = []

    def feed(y, x):
        return jnp.full_like(x, 7.0)

    show = rnnjax.stack(rnnjax.pointwise(lambda x: x))
    _, seen = rnnjax.scheduled_outputs(show, ((),), ((),), xs, 0.25, key=KEY, feed=feed)
    own = (seen[1:] == 7).all(1)
    np.testing.assert_allclose(own.mean(), 0.25, atol=0.06)
    np.testing.assert_array_equal(seen[1:][~own], xs[1:][~own])
    np.testing.assert_array_equal(seen[0], xs[0])
    given = (cell, params, carry, xs)
    plain = rnnjax.scheduled_outputs(*given, 0.0, key=KEY)
    jax.tree.map(close, plain, cell.unroll(params, carry, xs))


def test_an_output_that_cannot_be_an_input_says_so():
    cell = cell_of(2)
    params = cell.init(KEY)
    given = (cell, params, cell.initial_carry(params), jnp.ones((4, 3)), 0.5)
    with pytest.raises(ValueError, match=r"feed returned shape \(2,\).*\(3,\).*dense"):
        rnnjax.scheduled_outputs(*given, key=KEY)


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
