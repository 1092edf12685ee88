# pyright: reportOptionalMemberAccess=false
"""Cells without a memory."""

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax


def made(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    return params, cell.initial_carry(params)


def data(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def test_an_unknown_token_is_seen_as_nan():
    cell = rnnjax.embedding(5, 2)
    params, carry = made(cell)
    _, ys = cell.unroll(params, carry, jnp.array([4, 5, -1]))
    np.testing.assert_array_equal(jnp.isnan(ys).all(1), [False, True, True])


def test_a_function_of_your_own_keeps_the_contract():
    cell = rnnjax.time_distributed(
        lambda key: jax.random.normal(key, (3, 2)), lambda w, x: jnp.tanh(x @ w)
    )
    rnnjax.testing.check_cell(cell, np.ones(3))
