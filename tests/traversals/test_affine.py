"""Prefix scans and chunks: values and derivatives of the sequential walk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traversals.linear_cells import CELLS

import rnnjax
from rnnjax import scan
from rnnjax.kernels import native
from rnnjax.testing import check_cell, drawing
from rnnjax.traversals import linear, solver

TIME = 11
MASK = np.arange(TIME) % 5 != 3
RESET = np.arange(TIME) % 4 == 2
WALKS = {"associative": scan.associative, "chunked": scan.chunked(4)}


def everything(cell, given, xs, along):
    """Values, gradients, a tangent, and a product with the Hessian."""

    def loss(given, xs):
        params, carry = given
        out = cell.unroll(params, carry, xs, mask=MASK, reset=RESET)
        return sum(jnp.sin(a).sum() for a in jax.tree.leaves(out)), out

    gradient = jax.grad(loss, (0, 1), has_aux=True)
    (grads, out), (turned, pushed) = jax.jvp(gradient, (given, xs), along)
    return out, grads, turned, pushed


@pytest.mark.drawn(0.5)
@pytest.mark.parametrize(
    ("name", "walk"),
    [
        *((name, "associative") for name in CELLS),
        ("min_gru", "chunked"),
        ("delta rule", "chunked"),
    ],
)
def test_all_derivatives_to_rounding(name, walk):
    made = CELLS[name]
    keys = jax.random.split(jax.random.key(3), 4)
    cell = made(WALKS[walk])
    params = cell.init(keys[0])
    given = params, drawing.perturbed(keys[1], cell.initial_carry(params))
    xs = jax.random.normal(keys[2], (TIME, 2)).at[~MASK].set(jnp.nan)
    along = drawing.draw(keys[3], (given, jnp.ones((TIME, 2))), ())
    found = jax.jit(everything, static_argnums=0)(cell, given, xs, along)
    expected = jax.jit(everything, static_argnums=0)(made(scan.fused), given, xs, along)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        (CELLS["stabilised"](scan.chunked(3)), jnp.float32),
        (CELLS["complex pair"](scan.associative), jnp.bfloat16),
    ],
)
def test_contract(cell, dtype):
    check_cell(cell, np.ones(2), dtype=dtype)


@pytest.mark.skipif(not native.available(), reason=native.reason())
def test_a_reset_brings_back_a_state_that_has_overflowed():
    cell = rnnjax.recurrence(
        lambda key: jnp.ones(3),
        lambda params: jnp.zeros_like(params),
        lambda params, x: x,
        lambda params, h, z: (params * h + z,) * 2,
        (3,),
        scan.associative,
    )
    xs, params = jnp.ones((TIME, 3)).at[1].set(jnp.inf), cell.init(jax.random.key(0))

    _, ys = cell.unroll(params, jnp.zeros(3), xs, reset=np.arange(TIME) == 4)
    assert jnp.isinf(ys[1:4]).all()
    np.testing.assert_array_equal(ys[4:, 0], np.arange(1, TIME - 3))


@pytest.mark.parametrize(
    "walk",
    [solver.recurrence, functools.partial(linear.recurrence, linear.prefix)],
    ids=["primitive", "linear system"],
)
def test_only_coefficients_and_states_are_kept(walk):
    a, b = jnp.ones((TIME, 3, 1, 1)), jnp.ones((TIME, 3, 1))

    def run(a, b):
        return walk(a, b, jnp.ones((3, 1)))

    kept = jax.tree.leaves(jax.jit(lambda a, b: jax.vjp(run, a, b)[1])(a, b))
    long = [k for k in kept if k.ndim and k.size >= TIME * 3]
    # a to solve with, and a and the states before each step for the gradient of a.
    assert len(long) <= 3


def test_chunks_of_any_size():
    a, b = jax.random.normal(jax.random.key(0), (2, TIME, 2, 2))
    b = b[..., 0]
    expected = linear.prefix(a, b)
    for size in (1, 2, TIME - 1, TIME, 3 * TIME):
        np.testing.assert_allclose(linear.chunks(a, b, size), expected, rtol=1e-12)


def test_equal_calls_make_equal_cells():
    assert scan.chunked(8) is scan.chunked(8)
    cell = rnnjax.min_gru(2, 3, traversal=scan.chunked(8))
    assert cell == rnnjax.min_gru(2, 3, traversal=scan.chunked(8))
    assert repr(cell) == "min_gru(2, 3, traversal=chunked(8))"


def _counting(h_dtype):
    def step(params, carry, z):
        h, count = carry
        return (h + z, count + 1), h

    return rnnjax.recurrence(
        lambda key: jax.random.normal(key, (3,)),
        lambda params: (params, jnp.zeros((), h_dtype)),
        lambda params, x: x,
        step,
        (3,),
        scan.associative,
    )


def _many_units(size):
    return rnnjax.recurrence(
        lambda key: jax.random.normal(key, (size, size)),
        lambda params: jnp.zeros(size, params.dtype),
        lambda params, x: x,
        lambda params, h, z: (h @ params + z, h),
        (size,),
        scan.associative,
    )


REFUSED = {
    "a GRU": (
        rnnjax.gru(3, 4, traversal=scan.associative),
        "gru: a sigmoid of the carry, a product of the carry with itself, a tanh of "
        "the carry; scan.associative takes a step that is affine in its carry. Write "
        "traversal=rnnjax.scan.default, or rnnjax.scan.newton()",
    ),
    "an IndRNN": (
        rnnjax.indrnn(3, 4, traversal=scan.chunked(8)),
        r"indrnn: a maximum of the carry; scan.chunked\(8\) takes a step",
    ),
    "a counter": (_counting(int), "_counting: the carry has a leaf of int64"),
    "a large matrix": (_many_units(129), "_many_units: 129 units of the carry see"),
}


@pytest.mark.parametrize(("cell", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_walked_is_refused_in_words(cell, sentence):
    params = cell.init(jax.random.key(0))
    size = 129 if "129" in sentence else 3
    with pytest.raises(ValueError, match=sentence):
        cell.unroll(params, cell.initial_carry(params), jnp.ones((5, size)))
