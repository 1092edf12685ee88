# pyright: reportOptionalMemberAccess=false
"""Dropout as a layer."""

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax


def made(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    return params, cell.initial_carry(params)


def data(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def test_dropout_needs_a_key_and_keeps_the_mean():
    cell = rnnjax.dropout(0.25)
    ones = jnp.ones((500, 40))
    assert (cell.unroll((), (), ones)[1] == 1).all()
    _, ys = cell.unroll((), (), ones, key=jax.random.key(0))
    assert set(np.unique(ys).round(6)) == {0.0, round(4 / 3, 6)}
    np.testing.assert_allclose(ys.mean(), 1, atol=0.02)
    # steps and features are dropped apart from each other
    np.testing.assert_allclose(ys.mean(0).std(), np.sqrt(1 / 3 / 500), rtol=0.3)


def test_every_example_and_every_layer_drops_its_own():
    cell = rnnjax.stack(rnnjax.dropout(0.5), rnnjax.dropout(0.5))
    xs = jnp.ones((2, 50, 8))
    _, ys = rnnjax.unroll(cell, ((), ()), xs, key=jax.random.key(0))
    assert (ys[0] != ys[1]).any()
    np.testing.assert_allclose((ys != 0).mean(), 0.25, atol=0.06)
    _, again = rnnjax.unroll(cell, ((), ()), xs, key=jax.random.key(0))
    np.testing.assert_array_equal(ys, again)


def test_dropout_leaves_padding_at_zero_and_nan_out():
    cell = rnnjax.stack(rnnjax.gru(3, 4), rnnjax.dropout(0.5), rnnjax.gru(4, 2))
    params, carry = made(cell)
    mask = jnp.arange(7) < 4
    dirty = jnp.where(mask[:, None], data(7, 3), jnp.nan)

    def loss(params, xs):
        key = jax.random.key(1)
        return cell.unroll(params, carry, xs, mask=mask, key=key)[1].sum()

    grads = jax.grad(loss, (0, 1))(params, dirty)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(grads))
    assert not grads[1][4:].any()
