"""Linear recurrences by kernels, for a CPU and for a TPU, against a loop in NumPy."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan
from rnnjax.kernels import linear, native
from rnnjax.traversals import solver

from .test_tpu import gradient_for_a_tpu

pytestmark = pytest.mark.float32
compiled = pytest.mark.skipif(not native.available(), reason=native.reason())

ROWS = 3
# Steps, units, and how many numbers of a unit see each other. The last two are divided
# over threads, the first of them by rows and the other by units.
SHAPES = [(9, 40, 1), (5, 7, 2), (4, 3, 3), (6, 2, 37), (1, 2, 1), (0, 3, 2)]
LARGE = [(700, 37, 1), (2000, 21, 2)]


def problem(shape, rows, shared, dtype: Any = np.float32):
    """Coefficients that keep states about as large as they are, and some zeros."""
    time, _, size = shape
    random = np.random.default_rng(0)
    a = random.normal(size=(1 if shared else rows, *shape, size)) / 2 / size**0.5
    a[:, time // 2 : time // 2 + 1] = 0
    return a.astype(dtype), random.normal(size=(rows, *shape)).astype(dtype)


def walked(a, b, reverse):
    """One step after the other, in float64."""
    a, h = np.broadcast_to(a, (*b.shape, b.shape[-1])).astype(float), b.astype(float)
    for t in range(1, h.shape[1]):
        if reverse:
            t = h.shape[1] - 1 - t
            h[:, t] += np.einsum("nuji,nuj->nui", a[:, t + 1], h[:, t + 1])
        else:
            h[:, t] += np.einsum("nuij,nuj->nui", a[:, t], h[:, t - 1])
    return h


def solved(a, b, reverse):
    return jax.jit(functools.partial(solver.solver_p.bind, reverse=reverse))(a, b)


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request):
    library = native._load().library
    if library is None or library.rnnjax_use(request.param.encode()) is None:
        pytest.skip(f"this machine or build has no {request.param}")
    yield request.param
    library.rnnjax_use(None)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set_equals_the_loop(shape):
    for shared, reverse in itertools.product((False, True), repeat=2):
        a, b = problem(shape, ROWS, shared)
        found = solved(a, b, reverse)
        np.testing.assert_allclose(found, walked(a, b, reverse), 1e-4, 1e-5)


@compiled
@pytest.mark.parametrize(("shape", "rows"), [*zip(LARGE, (5, 1), strict=True)], ids=str)
def test_what_threads_share_equals_the_loop(shape, rows):
    for reverse in (False, True):
        a, b = problem(shape, rows, shared=False, dtype=np.float32)
        np.testing.assert_allclose(
            solved(a, b, reverse), walked(a, b, reverse), 1e-4, 1e-5
        )


def test_float64():
    with jax.enable_x64(True):
        for shape in SHAPES[:4]:
            a, b = problem(shape, ROWS, False, np.float64)
            for reverse in (False, True):
                np.testing.assert_allclose(
                    solved(a, b, reverse), walked(a, b, reverse), 1e-12, 1e-13
                )


@compiled
def test_states_take_the_place_of_what_is_added():
    a, b = map(jnp.asarray, problem((9, 40, 1), ROWS, shared=True))
    run = jax.jit(
        functools.partial(solver.solver_p.bind, reverse=False), donate_argnums=1
    )
    made = run.lower(a, b).compile()
    assert "rnnjax_linear" in str(made.as_text())
    memory: Any = made.memory_analysis()
    assert memory.temp_size_in_bytes < b.nbytes
    expected = walked(np.asarray(a), np.asarray(b), False)
    np.testing.assert_allclose(made(a, b), expected, 1e-4, 1e-5)
    assert b.is_deleted()


@compiled
@pytest.mark.parametrize("size", [1, 2, 40])
def test_a_coefficient_of_zero_forgets_infinity(size):
    a = jnp.ones((1, 4, 20, size, size)).at[:, 2].set(0)
    b = jnp.ones((1, 4, 20, size)).at[:, 1].set(jnp.inf)
    h = solved(a, b, False)
    assert jnp.isinf(h[:, 1]).all()
    assert (h[:, 2] == 1).all()
    b = jnp.ones((1, 4, 20, size)).at[:, 2].set(jnp.inf)
    h = solved(a, b, True)
    assert (h[:, 1] == 1).all()


@compiled
def test_a_gradient_walks_once_in_each_direction():
    """Coefficients that no example changes are there once for all of them."""
    cell = rnnjax.lru(2, 20, traversal=scan.associative)
    params = cell.init(jax.random.key(0))

    def loss(params, xs):
        return jnp.square(rnnjax.unroll(cell, params, xs)[1]).sum()

    lowered = jax.jit(jax.grad(loss)).lower(params, jnp.ones((5, 9, 2)))
    calls = [
        line for line in lowered.as_text().splitlines() if "@rnnjax_linear(" in line
    ]
    assert len(calls) == 2
    for line in calls:
        assert "tensor<1x9x20x2x2xf32>, tensor<5x9x20x2xf32>" in line


def test_mapped_coefficients_and_shared_inputs():
    (a, _), (_, b) = (problem((4, 3, 2), 6, shared) for shared in (False, True))
    a, b = a.reshape(3, 2, *a.shape[1:]), b[:2]
    run = functools.partial(solved, reverse=True)
    np.testing.assert_allclose(
        jax.vmap(run, (0, None))(a, b),
        np.stack([walked(of_one, b, True) for of_one in a]),
        1e-4,
        1e-5,
    )
    a = a[:, :1]
    np.testing.assert_allclose(
        jax.vmap(run, (0, None))(a, b),
        np.stack([walked(of_one, b, True) for of_one in a]),
        1e-4,
        1e-5,
    )


WRONG = [
    ((2, 3, 4, 1), (3, 4, 1), None, r"b is float32 of shape \(3, 4, 1\), expected"),
    ((2, 3, 4, 1), (2, 3, 4, 1), None, r"a is float32 of shape \(2, 3, 4, 1\)"),
    ((2, 3, 4, 1, 1), (4, 3, 4, 1), None, r"a is float32 of shape \(2, 3, 4, 1, 1\)"),
    ((1, 3, 4, 1, 1), (2, 3, 4, 1), (2, 3, 4), r"h is float32 of shape \(2, 3, 4\)"),
]


@compiled
@pytest.mark.parametrize(("a", "b", "h", "message"), WRONG)
def test_wrong_shapes_are_an_error(a, b, h, message):
    native.register()
    result = jax.ShapeDtypeStruct(h or b, np.float32)
    call = jax.ffi.ffi_call(native.LINEAR, result)
    with pytest.raises(Exception, match=f"rnnjax_linear: {message}"):
        jax.block_until_ready(
            call(np.ones(a, np.float32), np.ones(b, np.float32), reverse=False)
        )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "rows"), [((70, 50, 1), 3), ((3, 200, 1), 30)])
def test_a_tpus_kernel_equals_the_loop(shape, rows, reverse):
    """Blocks of time and tiles that are not full; tiles of more than one program."""
    a, b = problem(shape, rows, shared=rows == 3)
    run = jax.jit(functools.partial(linear.on_tpu, reverse=reverse, interpret=True))
    np.testing.assert_allclose(run(a, b), walked(a, b, reverse), 1e-4, 1e-5)


@pytest.mark.parametrize(("make", "calls"), [(rnnjax.min_gru, 2), (rnnjax.lru, 0)])
def test_a_tpu_gets_a_kernel_each_way_where_units_see_only_themselves(make, calls):
    cell = make(3, 4, traversal=scan.associative)
    assert gradient_for_a_tpu(cell, 2).count("@tpu_custom_call") == calls
