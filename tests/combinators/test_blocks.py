"""Blocks of deep networks, and the layers they are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import testing

TIME, SIZE = 7, 2


def test_the_contract_of_a_causal_conv():
    testing.check_cell(rnnjax.causal_conv(SIZE, 3), np.ones(SIZE))


def drawn(cell, seed=0):
    leaves, structure = jax.tree.flatten(cell.init(jax.random.key(seed)))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = zip(keys, leaves, strict=True)
    params = structure.unflatten([jax.random.normal(k, a.shape) for k, a in draws])
    xs = jax.random.normal(jax.random.key(1), (TIME, SIZE))
    return params, cell.initial_carry(params), xs


def gelu(a):
    return a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def affine(p, a):
    return a @ p.w + p.b


def layer_norm(p, a):
    a = a - a.mean(1, keepdims=True)
    return p.gain * a / np.sqrt((a**2).mean(1, keepdims=True) + 1e-5) + p.b


def rms_norm(gain, a):
    return gain * a / np.sqrt((a**2).mean(1, keepdims=True) + 1e-6)


def test_a_residual_block_by_hand():
    inner = rnnjax.gru(SIZE, 3)
    cell = rnnjax.residual_block(inner, SIZE, expansion=2)
    params, carry, xs = drawn(cell)
    (norm, p, _, (value, (gate, _))), (outer, (wide, _, narrow)) = params
    a = layer_norm(norm, xs)
    a = gelu(inner.unroll(p, inner.initial_carry(p), a)[1])
    u = xs + affine(value, a) / (1 + np.exp(-affine(gate, a)))
    expected = u + affine(narrow, gelu(affine(wide, layer_norm(outer, u))))
    np.testing.assert_allclose(cell.unroll(params, carry, xs)[1], expected, atol=1e-9)
    plain = rnnjax.residual_block(inner, SIZE)
    found = plain.unroll(params[0], carry[0], xs)[1]
    np.testing.assert_allclose(found, u, atol=1e-9)


def test_times_reach_every_layer():
    """With times of one the blocks are the plain ones, and with others they are not."""
    inner = functools.partial(rnnjax.s5, SIZE, 3, dt_min=0.1, dt_max=1.0)
    (first, last), blocks = (
        [
            rnnjax.residual_block(inner(timed=t), SIZE, expansion=e, timed=t)
            for e in (0, 2)
        ]
        for t in (False, True)
    )
    plain, timed = rnnjax.stack(first, last), rnnjax.stack(*blocks)
    params, carry, xs = drawn(plain)
    ones = jnp.ones(TIME)
    _, expected = plain.unroll(params, carry, xs)
    _, (found, passed) = timed.unroll(params, carry, (xs, ones))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(passed, ones)
    gap = ones.at[3].set(5)
    _, (moved, _) = timed.unroll(params, carry, (xs, gap))
    np.testing.assert_allclose(moved[:3], found[:3], rtol=1e-12)
    assert jnp.abs(moved[3:] - found[3:]).max(1).min() > 1e-6
    half = rnnjax.stack(rnnjax.passing_time(first), blocks[1])
    _, (other, _) = half.unroll(params, carry, (xs, gap))
    assert jnp.abs(other[3:] - moved[3:]).max(1).min() > 1e-6


@pytest.mark.drawn(0.4)
def test_the_contract_of_a_timed_block():
    cell = rnnjax.residual_block(rnnjax.s5(SIZE, 3, timed=True), SIZE, timed=True)
    testing.check_cell(cell, (np.ones(SIZE), np.array(0.5)))


def test_a_pair_is_asked_for():
    cell = rnnjax.passing_time(rnnjax.dense(SIZE, 3))
    params = cell.init(jax.random.key(0))
    with pytest.raises(TypeError, match=r"expected a pair \(x, elapsed\)"):
        cell.unroll(params, cell.initial_carry(params), jnp.ones((TIME, SIZE)))


def test_a_griffin_block_by_hand():
    inner = rnnjax.rg_lru(3)
    cell = rnnjax.griffin_block(inner, SIZE, inner_size=3, width=2)
    params, carry, xs = drawn(cell)
    (norm, (((gate, _), (into, conv, p)), out)), mlp = params
    v = rms_norm(norm, xs)
    a = affine(into, v)
    a = conv.w[1] * a + conv.w[0] * np.concatenate([np.zeros((1, 3)), a[:-1]]) + conv.b
    a = inner.unroll(p, inner.initial_carry(p), a)[1]
    u = xs + affine(out, gelu(affine(gate, v)) * a)
    norm, (((gate, _), value), out) = mlp
    w = rms_norm(norm, u)
    expected = u + affine(out, gelu(affine(gate, w)) * affine(value, w))
    np.testing.assert_allclose(cell.unroll(params, carry, xs)[1], expected, atol=1e-9)


def test_causal_conv_is_a_correlation_with_zeros_in_front():
    cell = rnnjax.causal_conv(SIZE, 4)
    params, carry, xs = drawn(cell)
    _, ys = cell.unroll(params, carry, xs)
    for j in range(SIZE):
        kernel = params.w[::-1, j]
        expected = np.convolve(xs[:, j], kernel)[:TIME] + params.b[j]
        np.testing.assert_allclose(ys[:, j], expected, atol=1e-12)


def test_causal_conv_walks_no_time():
    cell = rnnjax.causal_conv(SIZE, 4)
    params, carry, xs = drawn(cell)
    flags = jnp.ones(TIME, bool)

    def run(xs):
        return cell.unroll(params, carry, xs, mask=flags, reset=flags)

    text = str(jax.make_jaxpr(run)(xs))
    assert "scan[" not in text
    assert "while[" not in text


def test_a_deep_stack_of_blocks_streams():
    """What is unrolled at once is what comes out of one step after the other."""
    blocks = [rnnjax.residual_block(rnnjax.s5(SIZE, 2), SIZE) for _ in range(2)]
    cell = rnnjax.stack(*blocks)
    params, carry, xs = drawn(cell)
    last, ys = cell.unroll(params, carry, xs)
    step = jax.jit(cell.step)
    for x, y in zip(xs, ys, strict=True):
        carry, found = step(params, carry, x)
        np.testing.assert_allclose(found, y, atol=1e-9)
    for one, other in zip(*map(jax.tree.leaves, (carry, last)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rnnjax.causal_conv(4, width=1), "2 or more inputs. Write width=4"),
        (lambda: rnnjax.residual_block(rnnjax.gru(3, 3), 4), "gets size, which is 4"),
        (
            lambda: rnnjax.griffin_block(rnnjax.rg_lru(3), 4, inner_size=4),
            "gets inner_size, which is 4 features",
        ),
        (
            lambda: rnnjax.griffin_block(rnnjax.gru(3, 2), 4, inner_size=3),
            "as many features each",
        ),
    ],
)
def test_cells_that_do_not_fit_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
