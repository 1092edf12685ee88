"""The kernels for a TPU, interpreted on a CPU: values, gradients, sizes, limits.

What a TPU's own compiler makes of them is in `tests/devices`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

import rnnjax
from rnnjax import kernels, scan
from rnnjax.kernels import equations, pallas_tpu, reference

from .test_primitives import BUILD, draw, grad_of_vmap, problem

pytestmark = pytest.mark.float32

EQUATIONS = {cell.name: cell for cell in equations.CELLS}


@pytest.fixture(autouse=True)
def _exact():
    """Without this the kernels round float32 factors to bfloat16, as a TPU does."""
    with jax.default_matmul_precision("float32"):
        yield


INTERPRETED = equations.Program(
    "cpu",
    functools.partial(pallas_tpu.value, interpret=True),
    functools.partial(pallas_tpu.cotangent, interpret=True),
)


def interpreted(name):
    """The traversal of a cell whose kernels are interpreted."""
    cell = EQUATIONS[name]._replace(program=INTERPRETED)

    def traversal(project, step, params, carry, xs, *, mask=None, reset=None):
        return kernels._traverse(cell, project, step, params, carry, xs, mask, reset)

    return traversal


def operands(cell, batch, time, inputs, hidden, dtype, *, masked=True, reset):
    k, state = cell.columns * hidden, [(batch, hidden)] * cell.carries
    shapes = [(batch, time, inputs), (inputs, k), (hidden, k), (k,)]
    shapes += [(hidden,)] * (not cell.joined) + state
    floats = [
        draw(n, shape, dtype) / shape[0] ** 0.5
        if n in (1, 2)
        else draw(n, shape, dtype)
        for n, shape in enumerate(shapes)
    ]
    absent, none = jnp.zeros(0, bool), [jnp.zeros(0, dtype)] * cell.carries
    flags = np.random.default_rng(0).random((2, batch, time)) > 0.3
    return [
        *floats,
        jnp.asarray(flags[0]) if masked else absent,
        jnp.asarray(flags[1]) if reset else absent,
        *([draw(9, shape, dtype) for shape in state] if reset else none),
    ]


def linear(cell, at, found):
    """What the cotangent takes, with the residuals of the value."""
    at = reference.name_operands(cell, at)
    n = 1 + cell.carries
    saved, previous = found[n], found[n + 1 : n + 1 + cell.reads]
    d = [draw(n, a.shape, a.dtype) for n, a in enumerate(found[:n])]
    return [saved, *previous, at.w_hh, at.mask, at.reset, *d]


def wide(arrays):
    return [a if a.dtype == bool else a.astype(jnp.float32) for a in arrays]


def assert_close(got, want):
    for a, b in zip(got, want, strict=True):
        tolerance = 2e-6 if a.dtype == jnp.float32 else 0.02
        scale = float(jnp.abs(b).max(initial=1.0))
        np.testing.assert_allclose(
            np.float32(a), np.float32(b), rtol=0, atol=tolerance * scale
        )


CASES = [
    # cell, batch, time, units, dtype, masked, reset, simulated
    ("lstm", 5, 7, 5, "float32", True, True, True),
    ("gru", 150, 19, 5, "float32", True, False, False),  # tiles, and blocks of time
    ("gru", 9, 7, 130, "bfloat16", True, True, True),
    ("gru_before", 3, 4, 5, "float32", True, True, False),
    ("elman_tanh", 17, 5, 128, "float32", False, True, False),
    ("elman_relu", 1, 1, 1, "bfloat16", False, False, False),
]


@pytest.mark.parametrize(
    ("name", "batch", "time", "units", "dtype", "masked", "reset", "simulated"), CASES
)
def test_the_kernels_equal_the_reference(
    name, batch, time, units, dtype, masked, reset, simulated
):
    """In bfloat16 the reference is that of float32: only what is stored is rounded.

    In the simulated memories of a TPU, what was not written is NaN.
    """
    cell, dtype = EQUATIONS[name], jnp.dtype(dtype)
    interpret = tpu.InterpretParams() if simulated else True
    at = operands(cell, batch, time, 3, units, dtype, masked=masked, reset=reset)
    keys = {"cell": cell, "residuals": True}
    got = jax.jit(functools.partial(pallas_tpu.value, **keys, interpret=interpret))(*at)
    want = jax.jit(functools.partial(reference.value, **keys))(*wide(at))
    assert all(a.dtype == dtype for a in got)
    assert_close(got, want)

    at = linear(cell, at, got)
    back = functools.partial(pallas_tpu.cotangent, cell=cell, interpret=interpret)
    want = jax.jit(functools.partial(reference.cotangent, cell=cell))(*wide(at))
    assert_close(jax.jit(back)(*at), want)


def test_the_kernels_are_a_cells_under_transformations():
    args, mask, where = problem("lstm", "both")
    got, want = (
        jax.jit(functools.partial(grad_of_vmap, rnnjax.lstm(3, 5, traversal=walk)))(
            args, mask, where
        )
        for walk in (interpreted("lstm"), scan.fused)
    )
    assert_close(jax.tree.leaves(got), jax.tree.leaves(want))


@pytest.mark.drawn(0.02)  # a minute for each
@pytest.mark.parametrize("name", BUILD)
def test_the_contract_holds(name):
    cell = BUILD[name][0](3, 5, traversal=interpreted(name))
    rnnjax.testing.check_cell(cell, draw(1, (3,)))


@pytest.mark.parametrize(
    ("setting", "dtype"), [(None, "bfloat16"), ("tensorfloat32", "float32")]
)
def test_factors_are_rounded_as_xla_rounds_them_on_a_tpu(setting, dtype):
    with jax.default_matmul_precision(setting):
        weights = pallas_tpu._weights(
            equations.LSTM,
            jnp.ones((5, 20)),
            pallas_tpu._Sizes(1, 1, 5, jnp.float32),
        )
    assert [(w.shape, w.dtype) for w in weights] == [((128, 512), dtype)]


def gradient_for_a_tpu(cell, batch):
    """The gradient's program for a TPU, in text, which needs no TPU."""

    def loss(params, xs):
        return jnp.square(rnnjax.unroll(cell, params, xs)[1]).sum()

    params = jax.eval_shape(cell.init, jax.random.key(0))
    xs = jax.ShapeDtypeStruct((batch, 7, 3), jnp.float32)
    traced = jax.jit(jax.grad(loss)).trace(params, xs)
    return str(traced.lower(lowering_platforms=("tpu",)).as_text())


@pytest.mark.parametrize(
    ("cell", "batch", "calls"),
    [
        (rnnjax.lstm(3, 5), 4, 2),
        (rnnjax.gru(3, 5), 4, 2),
        (rnnjax.gru(3, 5, reset_after=False), 4, 2),
        (rnnjax.elman(3, 5), 4, 2),
        (rnnjax.lstm(3, 2048), 4, 0),
    ],
)
def test_a_tpu_gets_a_kernel_each_way_or_the_scan(cell, batch, calls):
    text = gradient_for_a_tpu(cell, batch)
    assert text.count("@tpu_custom_call") == calls
    assert ("stablehlo.while" in text) == (calls == 0)


def test_status_says_what_fits_on_a_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(pallas_tpu, "capacity", lambda: 2**24)
    status = kernels.status()
    assert {lowering.name for lowering in status[1:]} == {"pallas"}
    most = pallas_tpu.most_units(equations.LSTM, jnp.float32, 2**24)
    assert f"with more than {most} units" in status.lstm.reason
    fitting, beyond = (
        pallas_tpu.block_of(equations.LSTM, 1000, 50, units, jnp.float32)
        for units in (most, most + 1)
    )
    assert (fitting, beyond) == (1, 0)
    assert pallas_tpu.block_of(equations.LSTM, 0, 50, 8, jnp.float32) == 0
