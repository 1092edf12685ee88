"""Tokens are what a loop by hand picks, and samples come from their distribution."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.model import CELL, END, KEY, STEPS, step

import rnnjax


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
