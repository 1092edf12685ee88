"""A linear regression to train, and states compared bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import training


def regression(params, batch, key):
    xs, ys = batch
    error = xs @ params["w"] + params["b"] - ys
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def start_of_regression(optimizer):
    params = {"w": jnp.array([0.5, -0.5, 0.25]), "b": jnp.zeros(())}
    return training.init(params, optimizer, jax.random.key(0))


def regression_data(examples):
    draw = np.random.default_rng(0)
    xs = draw.normal(size=(examples, 3))
    return jnp.array(xs), jnp.array(xs @ [1.0, 2.0, 3.0] + 0.5)


def same_bits(one, other):
    def bits(leaf):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes(), jnp.shape(leaf), jnp.result_type(leaf)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert bits(a) == bits(b)
