"""Convolutions by patches, beside those of XLA, in values and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import rnnjax
from rnnjax.kernels.convolutions import convolve

# Space, kernel, strides and padding.
WINDOWS = [
    ((5,), (3,), (1,), "SAME"),
    ((6,), (2,), (2,), "VALID"),
    ((5, 4), (3, 2), (1, 1), "SAME"),
    ((7, 5), (2, 3), (3, 2), "SAME"),
    ((7, 5), (3, 3), (2, 1), "VALID"),
    ((4, 3), (2, 2), (1, 2), ((0, 2), (1, 0))),
    ((3, 4, 2), (2, 3, 1), (1, 2, 1), "SAME"),
]


def by_xla(x, w, strides, padding):
    space = "DHW"[-len(strides) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        x[None], w, strides, padding, dimension_numbers=layout
    )[0]


def draw(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_values_and_derivatives_are_those_of_xla(window):
    space, kernel, strides, padding = window
    x, w = draw(0, (2, *space, 3)), draw(1, (*kernel, 3, 2))
    moved = draw(2, x.shape), draw(3, w.shape)

    def derivatives(convolution):
        def run(x, w):
            one = functools.partial(convolution, strides=strides, padding=padding)
            return jax.vmap(one, (0, None))(x, w)

        def loss(x, w):
            return jnp.sin(run(x, w)).sum()

        gradient = jax.grad(loss, (0, 1))
        return (
            jax.jvp(run, (x, w), moved),
            gradient(x, w),
            jax.jvp(gradient, (x, w), moved)[1],
            jax.grad(lambda *a: jnp.vdot(gradient(*a)[1], w), (0, 1))(x, w),
            jax.grad(lambda *a: jnp.vdot(gradient(*a)[0], x), (0, 1))(x, w),
        )

    close(jax.jit(derivatives, static_argnums=0)(convolve), derivatives(by_xla))


def test_kernels_of_their_own_and_gradients_of_each_example():
    x, w = draw(0, (3, 5, 4, 2)), draw(1, (3, 3, 3, 2, 4))

    def of(convolution):
        run = functools.partial(convolution, strides=(1, 1), padding="SAME")
        each = jax.grad(lambda w, x: jnp.sin(run(x, w)).sum())
        return (
            jax.vmap(run)(x, w),
            jax.vmap(run, (None, 0))(x[0], w),
            jax.vmap(each, (None, 0))(w[0], x),
        )

    close(of(convolve), of(by_xla))


def test_a_gradient_on_a_cpu_convolves_nothing():
    """XLA's convolutions are slow there, and those of gradients slower."""
    cell = rnnjax.conv_lstm((5, 4, 2), 3)
    params = cell.init(jax.random.key(0))
    xs = draw(1, (2, 3, 5, 4, 2))

    def loss(params, xs):
        return rnnjax.unroll(cell, params, xs)[1].sum()

    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(params, xs)
    assert "stablehlo.convolution" not in lowered.as_text()
    assert "stablehlo.dot_general" in lowered.as_text()
