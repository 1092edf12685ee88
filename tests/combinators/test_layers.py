# pyright: reportOptionalMemberAccess=false
"""Layers beside and after each other, and backwards."""

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax


def made(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    return params, cell.initial_carry(params)


def data(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def test_bidirectional_reads_ragged_sequences_from_their_own_end():
    forward, backward = rnnjax.lstm(3, 4), rnnjax.gru(3, 2)
    cell = rnnjax.bidirectional(forward, backward)
    params, _ = made(cell)
    xs, lengths = data(3, 7, 3), (5, 7, 1)
    (f, b), ys = rnnjax.unroll(cell, params, xs, lengths=jnp.array(lengths))
    for i, n in enumerate(lengths):
        hf, yf = forward.unroll(params[0], forward.initial_carry(params[0]), xs[i, :n])
        hb, yb = backward.unroll(
            params[1], backward.initial_carry(params[1]), xs[i, :n][::-1]
        )
        want = jnp.concatenate([yf, yb[::-1]], 1)
        np.testing.assert_allclose(ys[i, :n], want, atol=1e-12)
        np.testing.assert_allclose(f.h[i], hf.h, atol=1e-12)
        np.testing.assert_allclose(b[i], hb, atol=1e-12)


def test_merge_decides_how_directions_meet():
    cell = rnnjax.bidirectional(rnnjax.gru(3, 4), merge=jnp.add)
    wide = rnnjax.bidirectional(rnnjax.gru(3, 4))
    params, carry = made(cell)
    xs = data(7, 3)
    ys, both = (c.unroll(params, carry, xs)[1] for c in (cell, wide))
    np.testing.assert_allclose(ys, both[:, :4] + both[:, 4:], atol=1e-12)


def test_a_learned_carry_gets_a_gradient_from_start_and_resets():
    cell = rnnjax.learned_carry(rnnjax.bidirectional(rnnjax.gru(3, 4)))
    params, _ = made(cell)
    xs, where = data(6, 3), jnp.array([0, 0, 0, 1, 0, 0]) == 1

    def loss(carry, reset):
        given = params._replace(carry=carry)
        return cell.unroll(given, cell.initial_carry(given), xs, reset=reset)[1].sum()

    once = jax.grad(loss)(params.carry, jnp.zeros(6, bool))
    twice = jax.grad(loss)(params.carry, where)
    for a, b in zip(once, twice, strict=True):
        assert (a != 0).all()
        assert (a != b).all()
