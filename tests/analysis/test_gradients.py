"""Gradients for the carry of every step are as by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

CELL = rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.gru(5, 4))
XS = np.random.default_rng(0).normal(size=(7, 3))


def zeros(params):
    return jnp.zeros_like(params)


def linear(factors):
    """A state of independent numbers, each multiplied at every step."""

    def step(params, h, z):
        h = params * h + z
        return h, h

    return rnnjax.recurrence(
        lambda key: jnp.array(factors), zeros, lambda p, x: x, step
    )


def test_carry_gradients_of_a_linear_recurrence():
    factors = np.array([0.5, 1.0, -2.0])
    cell = linear(factors)
    found = rnnjax.carry_gradients(
        cell, jnp.array(factors), jnp.zeros(3), XS, lambda ys: ys[4].sum()
    )
    expected = np.zeros((7, 3))  # nothing after the step that counts
    expected[:5] = factors ** np.arange(5, 0, -1)[:, None]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("cell", [rnnjax.lstm(3, 4), CELL], ids=repr)
def test_the_first_carry_gradient_is_that_of_unroll(cell):
    params = cell.init(jax.random.key(1))

    def loss(ys):
        return (ys**2).sum()

    def run(carry):
        return loss(cell.unroll(params, carry, XS)[1])

    carry = jax.tree.map(lambda a: a + 0.1, cell.initial_carry(params))
    found = rnnjax.carry_gradients(cell, params, carry, XS, loss)
    for a, b in zip(*map(jax.tree.leaves, (found, jax.grad(run)(carry))), strict=True):
        assert a.shape == (7, *b.shape)
        np.testing.assert_allclose(a[0], b, rtol=1e-6)


def test_a_counter_in_the_carry_has_no_gradient():
    def step(params, carry, z):
        h, count = carry
        h = params * h + z.sum() + count.astype(h.dtype)
        return (h, count + 1), h

    cell = rnnjax.recurrence(
        lambda key: jnp.array(0.5),
        lambda params: (jnp.zeros(()), jnp.array(0, jnp.int32)),
        lambda p, x: x,
        step,
    )
    params = cell.init(jax.random.key(0))
    h, count = rnnjax.carry_gradients(
        cell, params, cell.initial_carry(params), XS, lambda ys: ys[-1]
    )
    np.testing.assert_allclose(h, 0.5 ** np.arange(7, 0, -1))
    assert (count == 0).all()


def test_carry_gradients_need_a_step():
    cell = rnnjax.bidirectional(rnnjax.gru(3, 4))
    params = cell.init(jax.random.key(0))
    with pytest.raises(rnnjax.NoStepError):
        rnnjax.carry_gradients(
            cell, params, cell.initial_carry(params), XS, lambda ys: ys.sum()
        )
