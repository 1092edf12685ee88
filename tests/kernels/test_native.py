# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
"""Laws of the compiled CPU kernels, each against a float64 scan."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.kernels import equations, native, products

from . import numpy_cells
from .numpy_cells import COLUMNS

pytestmark = pytest.mark.skipif(
    not native.available(), reason=f"no native kernels: {native.reason()}"
)

CELLS = tuple(cell.name for cell in equations.CELLS)
EQUATIONS = dict(zip(CELLS, equations.CELLS, strict=True))

# (batch, time, input, hidden): one of everything, sizes around the widths of
# vectors (4, 8, 16) and register blocks (3, 6 rows; 4 vectors), both traversals
# (few rows and many), and enough work for two threads.
SHAPES = [
    (1, 1, 1, 1),
    (1, 7, 3, 5),
    (2, 5, 1, 16),
    (3, 4, 7, 17),
    (4, 130, 5, 8),
    (5, 3, 2, 30),
    (6, 2, 16, 31),
    (7, 3, 33, 64),
    (8, 2, 4, 65),
    (13, 2, 3, 100),
    (1, 3, 257, 300),
    (20, 35, 50, 72),
    (3, 2, 1024, 512),
    (2, 2, 9, 1024),
    (12, 20, 512, 512),
]
SIGNALS = ["plain", "mask", "reset", "mask+reset"]
PLAIN = {"cell": "lstm", "reverse": False, "residuals": False}


class Problem:
    """Random weights, inputs and signals for one cell and shape.

    `backward` gives what the two products receive, for a cell where they enter apart
    or not, then the gradients of the carry and of the reset carry.
    """

    def __init__(self, cell, shape, signals="plain", seed=0, dtype=np.float32):
        batch, time, inputs, hidden = shape
        random = np.random.default_rng(seed)

        def normal(*dims, scale=1.0):
            values = random.normal(size=dims) * scale
            return np.asarray(jnp.asarray(values, dtype))

        width = COLUMNS[cell] * hidden
        self.cell, self.shape, self.dtype = cell, shape, dtype
        self.weights = {
            "w_ih": normal(inputs, width, scale=inputs**-0.5),
            "w_hh": normal(hidden, width, scale=hidden**-0.5),
            "b": normal(width, scale=0.3),
        }
        if cell == "gru":
            self.weights["b_hn"] = normal(hidden, scale=0.3)
        carries = EQUATIONS[cell].carries
        self.carry = tuple(normal(batch, hidden) for _ in range(carries))
        self.reset_carry = tuple(normal(batch, hidden) for _ in range(carries))
        self.xs = normal(batch, time, inputs)
        self.dys = normal(batch, time, hidden)
        self.d_last = tuple(normal(batch, hidden) for _ in range(carries))
        self.mask = random.random((batch, time)) < 0.7 if "mask" in signals else None
        self.reset = random.random((batch, time)) < 0.3 if "reset" in signals else None

    def signals(self):
        nothing = np.zeros((0,), bool)
        return (
            nothing if self.mask is None else self.mask,
            nothing if self.reset is None else self.reset,
        )

    def forward_arguments(self):
        absent = tuple(np.zeros((0,), self.dtype) for _ in self.carry)
        resets = absent if self.reset is None else self.reset_carry
        return (self.xs, *self.weights.values(), *self.carry, *self.signals(), *resets)

    def forward_results(self, residuals):
        batch, time, _, hidden = self.shape
        shapes = [(batch, time, hidden)] + [(batch, hidden)] * len(self.carry)
        if residuals:
            shapes.append((batch, time, EQUATIONS[self.cell].saved * hidden))
            shapes += [(batch, time, hidden)] * len(self.carry)
        return [jax.ShapeDtypeStruct(shape, self.dtype) for shape in shapes]

    def forward(self, residuals=False, reverse=False):
        native.register()
        call = jax.ffi.ffi_call(native.FORWARD, self.forward_results(residuals))
        how = {"cell": self.cell, "reverse": reverse}
        run = jax.jit(lambda *a: call(*a, residuals=residuals, **how))
        return run(*self.forward_arguments())

    def backward_arguments(self, residuals):
        saved, *previous = residuals
        return (
            saved,
            *previous[: EQUATIONS[self.cell].reads],
            self.weights["w_hh"],
            *self.signals(),
            self.dys,
            *self.d_last,
        )

    def backward_results(self):
        batch, time, _, hidden = self.shape
        reset = [(batch, hidden) if self.reset is not None else (0,)]
        # Where the two products enter apart, both receive a gradient.
        parts = 1 if EQUATIONS[self.cell].joined else 2
        shapes = [(batch, time, COLUMNS[self.cell] * hidden)] * parts
        shapes += [(batch, hidden)] * len(self.carry) + reset * len(self.carry)
        return [jax.ShapeDtypeStruct(shape, self.dtype) for shape in shapes]

    def backward(self, residuals, reverse=False):
        native.register()
        call = jax.ffi.ffi_call(native.BACKWARD, self.backward_results())
        run = jax.jit(lambda *a: call(*a, cell=self.cell, reverse=reverse))
        out = run(*self.backward_arguments(residuals))
        return (out[0], *out) if EQUATIONS[self.cell].joined else tuple(out)

    def in_float64(self):
        """Weights, carries, inputs and signals, as the reference takes them."""
        batch, time, *_ = self.shape
        mask = np.ones((batch, time), bool) if self.mask is None else self.mask
        reset = np.zeros((batch, time), bool) if self.reset is None else self.reset
        arrays = (self.weights, self.carry, self.reset_carry, self.xs)
        return (*jax.tree.map(np.float64, arrays), mask, reset)

    def expected(self):
        """Outputs, last carry and gradients of the reference."""
        weights, carry, reset_carry, xs, mask, reset = self.in_float64()
        ys, last, tape = numpy_cells.unroll(
            self.cell, weights, carry, reset_carry, xs, mask, reset
        )
        dys, d_last = jax.tree.map(np.float64, (self.dys, self.d_last))
        return (ys, last), numpy_cells.gradients(
            self.cell, weights, tape, mask, reset, dys, d_last
        )

    def weight_gradients(self, dz_input, dz_hidden, residuals):
        """The products over time and batch that follow the backward kernel."""
        dz_input, dz_hidden, saved, h_prev, xs = (
            np.asarray(a, np.float64)
            for a in (dz_input, dz_hidden, residuals[0], residuals[-1], self.xs)
        )
        hidden = self.shape[-1]
        rows = h_prev.reshape(-1, hidden), dz_hidden.reshape(-1, dz_hidden.shape[-1])
        values = np.split(saved.reshape(len(rows[0]), -1), saved.shape[-1] // hidden, 1)
        if self.mask is not None:
            xs = np.where(self.mask[..., None], xs, 0)
        gradients = {
            "w_ih": np.einsum("bti,btg->ig", xs, dz_input),
            "w_hh": numpy_cells.weight_gradient(self.cell, rows[0], values, rows[1]),
            "b": dz_input.sum((0, 1)),
        }
        if self.cell == "gru":
            gradients["b_hn"] = dz_hidden[..., -hidden:].sum((0, 1))
        return gradients


def assert_close(actual, expected, tolerance):
    """Within the tolerance of the largest value, as errors of sums are."""
    expected = np.asarray(expected, np.float64)
    scale = np.max(np.abs(expected), initial=1e-30)
    error = np.max(np.abs(np.float64(actual) - expected), initial=0) / scale
    assert error <= tolerance, f"relative error {error:.2e} above {tolerance:.0e}"


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request):
    library = native._load().library
    assert library is not None
    if library.rnnjax_use(request.param.encode()) is None:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    library.rnnjax_use(None)


def check_values_and_gradients(problem, tolerance):
    (ys, last), (d_weights, d_carry, d_reset) = problem.expected()
    carries = len(problem.carry)
    plain = problem.forward()
    results = problem.forward(residuals=True)
    for a, b in zip(plain, results, strict=False):
        np.testing.assert_array_equal(np.float32(a), np.float32(b))
    assert_close(results[0], ys, tolerance)
    for actual, expected in zip(results[1 : 1 + carries], last, strict=True):
        assert_close(actual, expected, tolerance)

    residuals = results[1 + carries :]
    assert all(np.isfinite(np.float32(a)).all() for a in residuals)
    dz_input, dz_hidden, *others = problem.backward(residuals)
    for actual, expected in zip(others[:carries], d_carry, strict=True):
        assert_close(actual, expected, tolerance)
    if problem.reset is None:
        assert all(a.shape == (0,) for a in others[carries:])
    else:
        for actual, expected in zip(others[carries:], d_reset, strict=True):
            assert_close(actual, expected, tolerance)
    if problem.mask is not None:
        for dz in (dz_input, dz_hidden):
            assert not np.asarray(dz, np.float32)[~problem.mask].any()
    actual = problem.weight_gradients(dz_input, dz_hidden, residuals)
    for name, expected in d_weights.items():
        assert_close(actual[name], expected, tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_of_the_reference_is_its_slope(cell):
    problem = Problem(cell, (3, 5, 4, 6), "mask+reset")
    weights, carry, reset_carry, xs, mask, reset = problem.in_float64()
    dys, d_last = jax.tree.map(np.float64, (problem.dys, problem.d_last))

    def loss(parameters):
        ys, last, _ = numpy_cells.unroll(cell, *parameters, xs, mask, reset)
        return np.sum(ys * dys) + sum(map(np.sum, map(np.multiply, last, d_last)))

    parameters = (weights, carry, reset_carry)
    random = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: random.normal(size=a.shape), parameters)
    moved = [
        jax.tree.map(lambda a, d, e=e: a + e * d, parameters, direction)
        for e in (1e-5, -1e-5)
    ]
    slope = (loss(moved[0]) - loss(moved[1])) / 2e-5
    products = jax.tree.map(np.vdot, problem.expected()[1], direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-7)


@pytest.mark.drawn(0.3)
@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_equals_float64_scan(cell, shape, signals):
    check_values_and_gradients(Problem(cell, shape, signals), 1e-5)


@pytest.mark.drawn(0.3)
@pytest.mark.parametrize("shape", SHAPES[:10], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set_equals_float64_scan(instruction_set, cell, shape):
    check_values_and_gradients(Problem(cell, shape, "mask+reset"), 1e-5)


@pytest.mark.drawn(0.3)
@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("shape", SHAPES[1:12], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_is_rounded_at_each_store(cell, shape, signals):
    # One store rounds to 2^-9; dz passes through rounded residuals. A single unit
    # is left out: where 1 - z is small, nothing averages what z lost.
    check_values_and_gradients(Problem(cell, shape, signals, dtype=jnp.bfloat16), 2e-2)
    problem = Problem(cell, shape, signals, dtype=jnp.bfloat16)
    assert_close(problem.forward()[0], problem.expected()[0][0], 2**-8)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_does_not_depend_on_its_batch(cell, dtype):
    # Rows are divided over threads, and rows and steps over register blocks:
    # equal bits whatever the division, and so whatever the number of threads.
    shape = (23, 9, 40, 70)
    batch = Problem(cell, shape, "mask+reset", dtype=dtype)
    together = batch.forward(residuals=True)
    gradients = batch.backward(together[1 + len(batch.carry) :])
    for row in range(shape[0]):
        single = Problem(cell, shape, "mask+reset", dtype=dtype)
        rows = slice(row, row + 1)
        single.shape = (1, *shape[1:])
        for name in ("xs", "dys", "mask", "reset"):
            setattr(single, name, getattr(batch, name)[rows])
        for name in ("carry", "reset_carry", "d_last"):
            setattr(single, name, tuple(a[rows] for a in getattr(batch, name)))
        alone = single.forward(residuals=True)
        alone_gradients = single.backward(alone[1 + len(batch.carry) :])
        for a, b in zip(
            (*together, *gradients), (*alone, *alone_gradients), strict=True
        ):
            np.testing.assert_array_equal(
                np.asarray(a, np.float32)[rows], np.asarray(b, np.float32), strict=True
            )


@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_inert_even_if_it_holds_nan(cell):
    clean = Problem(cell, (9, 12, 10, 40), "mask+reset")
    dirty = Problem(cell, (9, 12, 10, 40), "mask+reset")
    assert clean.mask is not None
    dirty.xs = np.where(clean.mask[..., None], clean.xs, np.nan)
    dirty.dys = np.where(clean.mask[..., None], clean.dys, np.nan)
    results, dirty_results = clean.forward(True), dirty.forward(True)
    residuals = slice(1 + len(clean.carry), None)
    gradients = clean.backward(results[residuals])
    dirty_gradients = dirty.backward(dirty_results[residuals])
    for a, b in zip(
        (*results, *gradients), (*dirty_results, *dirty_gradients), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("time", [0, 6])
def test_a_sequence_without_valid_steps_is_the_identity(cell, time):
    problem = Problem(cell, (3, time, 4, 20), "mask+reset")
    problem.mask = np.zeros((3, time), bool)
    results = problem.forward(residuals=True)
    carries = len(problem.carry)
    np.testing.assert_array_equal(results[0], 0)
    for actual, expected in zip(results[1 : 1 + carries], problem.carry, strict=True):
        np.testing.assert_array_equal(actual, expected)
    dz_input, dz_hidden, *others = problem.backward(results[1 + carries :])
    np.testing.assert_array_equal(dz_input, 0)
    np.testing.assert_array_equal(dz_hidden, 0)
    for actual, expected in zip(others[:carries], problem.d_last, strict=True):
        np.testing.assert_array_equal(actual, expected)
    for actual in others[carries:]:
        np.testing.assert_array_equal(actual, 0)


def activations(x):
    """(sigmoid(x), tanh(x)) as an LSTM computes them, one unit per value."""
    problem = Problem("lstm", (1, 1, 1, x.size))
    zeros = np.zeros(x.size, np.float32)
    problem.xs = np.ones((1, 1, 1), np.float32)
    problem.weights = {
        "w_ih": np.concatenate([x, x, x, x])[None],
        "w_hh": np.zeros((x.size, 4 * x.size), np.float32),
        "b": np.zeros(4 * x.size, np.float32),
    }
    problem.carry = (zeros[None], zeros[None])
    saved = np.asarray(problem.forward(residuals=True)[3]).reshape(4, x.size)
    return saved[0], saved[2]


def test_activations_are_accurate_to_a_few_units_in_the_last_place(instruction_set):
    small = np.geomspace(1e-6, 1, 400)
    x = np.concatenate([-small, small, np.linspace(-80, 80, 400)]).astype(np.float32)
    sigmoid, tanh = activations(x)
    exact = np.float64(x)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-exact)), rtol=5e-7)
    np.testing.assert_allclose(tanh, np.tanh(exact), rtol=5e-7)


def test_activations_at_infinity_and_nan(instruction_set):
    x = np.array([np.inf, -np.inf, 1e30, -1e30, np.nan, 0.0], np.float32)
    sigmoid, tanh = activations(x)
    np.testing.assert_allclose(sigmoid, [1, 0, 1, 0, np.nan, 0.5], atol=1e-37)
    np.testing.assert_array_equal(tanh, np.array([1, -1, 1, -1, np.nan, 0], np.float32))


# (rows, inputs, outputs): parts of a chunk and of a register block, both ways of
# dividing the work.
PRODUCTS = [
    (0, 3, 4),
    (1, 1, 1),
    (7, 13, 33),
    (128, 6, 64),
    (129, 50, 65),
    (1000, 30, 120),
    (700, 257, 512),
    (16000, 16, 40),
    (900, 1100, 70),
    (50, 33, 40),
    (0, 3, 4),
    (40, 0, 4),
    (40, 3, 0),
]


@pytest.mark.parametrize("left_out", ["nothing", "invalid", "zeros"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_a_weight_gradient_equals_the_product_in_float64(
    instruction_set, shape, dtype, left_out
):
    """Invalid rows count nothing, nor do rows of zeros, whatever they meet."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(0)
    counts = (left_out == "nothing") | (np.arange(rows)[:, None] // 50 % 3 != 1)
    x, dz = (
        jnp.asarray(random.normal(size=(rows, columns)), dtype)
        for columns in (inputs, outputs)
    )
    expected = np.asarray(x, np.float64).T @ np.where(counts, dz, 0).astype(np.float64)
    x = jnp.where(counts, x, jnp.nan).astype(dtype)
    if left_out == "invalid":
        made = jax.jit(products.weight_gradient)(x, dz, counts)
    else:
        made = jax.jit(products.weight_gradient)(x, jnp.where(counts, dz, 0))
    assert_close(made, expected, 1e-6 if dtype == np.float32 else 2**-8)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_a_weight_product_equals_that_in_float64(
    instruction_set, shape, dtype, turned, padded
):
    """Rows that are not valid give zeros."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(0)
    valid = np.arange(rows)[:, None] // 50 % 3 != 1
    x = jnp.asarray(random.normal(size=(rows, inputs)), dtype)
    w = jnp.asarray(random.normal(size=(inputs, outputs)), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    flags = ()
    if padded:
        x = jnp.where(valid, x, jnp.nan).astype(dtype)
        expected, flags = np.where(valid, expected, 0), (valid,)

    @jax.jit
    def product(x, w):
        """Written as the transpose of what it is, where the weights are turned."""
        if not turned:
            return products.weight_product(x, w, *flags)

        def back(y):
            return products.weight_product(y, w.T, *flags)

        y = jax.ShapeDtypeStruct((rows, outputs), dtype)
        return jax.linear_transpose(back, y)(x)[0]

    made = product(x, w)
    assert (made.shape, made.dtype) == (expected.shape, dtype)
    assert_close(made, expected, 1e-6 if dtype == np.float32 else 2**-8)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_derivatives_of_products_are_products(turned, padded):
    """Of any order, forwards and in reverse, with NaN where nothing counts."""
    rows, inputs, outputs = 40, 5, 7
    random = np.random.default_rng(0)
    valid = np.arange(rows)[:, None] % 3 > 0 if padded else np.zeros(0, bool)
    x = jnp.asarray(random.normal(size=(rows, inputs)), np.float32)
    w = jnp.asarray(random.normal(size=(inputs, outputs)), np.float32)
    if padded:
        x = jnp.where(valid, x, jnp.nan)

    def own(x, w):
        w = w.T if turned else w
        return products.product_p.bind(x, w, valid, turned=turned)

    def plain(x, w):
        return (jnp.where(valid, x, 0) if padded else x) @ w

    def loss(product):
        return lambda x, w: jnp.sin(product(x, w)).sum()

    def gradient(product):
        return jax.grad(loss(product), (0, 1))

    def second(product):
        return jax.grad(
            lambda x, w: sum(jnp.cos(d).sum() for d in gradient(product)(x, w)), (0, 1)
        )

    def forwards(product):
        tangents = (jnp.ones_like(x), jnp.cos(w))
        return lambda *at: jax.jvp(gradient(product), at, tangents)

    def batched(product):
        return lambda x, w: jax.vmap(product, (0, None))(jnp.stack([x, 2 * x]), w)

    for derived in (gradient, second, forwards, batched):
        got, want = (jax.jit(derived(product))(x, w) for product in (own, plain))
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert_close(a, np.asarray(b, np.float64), 1e-4)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (40, 5, 7), (700, 600, 130), (40, 0, 3)])
def test_an_affine_product_and_its_derivatives(shape, dtype):
    rows, inputs, outputs = shape
    random = np.random.default_rng(0)
    shapes = (rows, inputs), (inputs, outputs), (outputs,)
    given = [jnp.asarray(random.normal(size=s), dtype) for s in shapes]

    def plain(x, w, b):
        wide = (a.astype(jnp.float32) for a in (x, w, b))
        x, w, b = wide
        return (jnp.matmul(x, w, precision="highest") + b).astype(dtype)

    def loss(product):
        return lambda *at: jnp.sin(product(*at).astype(jnp.float32) / inputs).sum()

    def value(product):
        return product

    def gradient(product):
        return jax.grad(loss(product), (0, 1, 2))

    def forwards(product):
        tangents = tuple(jnp.cos(a) for a in given)
        return lambda *at: jax.jvp(product, at, tangents)

    def batched(product):
        return lambda x, w, b: jax.vmap(product, (0, None, None))(
            jnp.stack([x, -x]), w, b
        )

    def ensemble(product):
        return lambda x, w, b: jax.vmap(product)(
            *(jnp.stack([a, -a]) for a in (x, w, b))
        )

    tolerance = {np.float32: 1e-4, np.float16: 2**-7, jnp.bfloat16: 2**-4}[dtype]
    kinds = (value, forwards, batched, ensemble, *([gradient] if inputs else []))
    for derived in kinds:
        got, want = (
            jax.jit(derived(product))(*given) for product in (products.affine, plain)
        )
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert_close(a, np.asarray(b, np.float64), tolerance)


def wide(shape):
    """With two axes after the batch, which is how XLA divides it over devices."""
    return (shape[0], 1, 1, *shape[1:]) if len(shape) > 1 else shape


@pytest.mark.parametrize("cell", CELLS)
def test_axes_of_one_element_after_the_batch_change_nothing(cell):
    problem = Problem(cell, (3, 4, 5, 8), "mask+reset")
    results = problem.forward(residuals=True)
    residuals = results[1 + len(problem.carry) :]
    forward = range(1, 1 + len(problem.weights))
    backward = range(1 + EQUATIONS[cell].reads, 2 + EQUATIONS[cell].reads)

    def call(target, shapes, weights, arguments, **attributes):
        shapes = [jax.ShapeDtypeStruct(wide(s.shape), s.dtype) for s in shapes]
        arguments = [
            a if i in weights else a.reshape(wide(a.shape))
            for i, a in enumerate(arguments)
        ]
        return jax.ffi.ffi_call(target, shapes)(
            *arguments, cell=cell, reverse=False, **attributes
        )

    again = call(
        *(native.FORWARD, problem.forward_results(True), forward),
        problem.forward_arguments(),
        residuals=True,
    )
    pulled = call(
        *(native.BACKWARD, problem.backward_results(), backward),
        problem.backward_arguments(residuals),
    )
    want = [*results, *problem.backward(residuals)[-len(pulled) :]]
    for a, b in zip([*again, *pulled], want, strict=True):
        np.testing.assert_array_equal(np.asarray(a).reshape(b.shape), b)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_products_of_parts_are_the_products_of_each(dtype):
    native.register()
    random = np.random.default_rng(0)
    x, dz = (jnp.asarray(random.normal(size=(3, 9, n)), dtype) for n in (5, 20))

    def gradient(x, dz):
        shape = (*x.shape[:-2], x.shape[-1], dz.shape[-1])
        result = jax.ShapeDtypeStruct(shape, dtype)
        call = jax.ffi.ffi_call(native.WEIGHT_GRADIENT, result)
        return call(x, dz, np.zeros(0, bool))

    each = [gradient(*pair) for pair in zip(x, dz, strict=True)]
    np.testing.assert_array_equal(gradient(x, dz), jnp.stack(each))


ABSENT = (0,)
WRONG_GRADIENTS = [
    ((4,), (4, 2), ABSENT, (4, 2), r"x is float32 of shape \(4,\), expected"),
    ((4, 3), (5, 2), ABSENT, (3, 2), r"dz is float32 of shape \(5, 2\), expected the"),
    ((4, 3), (4, 2), (4,), (3, 2), r"valid is bool of shape \(4,\), expected bool"),
    ((4, 3), (4, 2), ABSENT, (2, 3), r"d_w is float32 of shape \(2, 3\), expected"),
    ((2, 4, 3), (3, 4, 2), ABSENT, (2, 3, 2), r"dz is float32 of shape \(3, 4, 2\)"),
    ((2, 4, 3), (4, 2), ABSENT, (2, 3, 2), r"dz is float32 of shape \(4, 2\), expect"),
    ((2, 4, 3), (2, 4, 2), (4, 1), (2, 3, 2), r"valid is bool of shape \(4, 1\)"),
    ((2, 4, 3), (2, 4, 2), ABSENT, (3, 2), r"d_w is float32 of shape \(3, 2\), expect"),
]
WRONG_PRODUCTS = [
    ((2, 4, 3), (3, 2), ABSENT, ABSENT, (4, 2), r"x is float32 of shape \(2, 4, 3\)"),
    ((4, 3), (2, 3), ABSENT, ABSENT, (4, 2), r"w is float32 of shape \(2, 3\), expect"),
    ((4, 3), (3, 2), (3,), ABSENT, (4, 2), r"b is float32 of shape \(3,\), expected"),
    ((4, 3), (3, 2), ABSENT, (3, 1), (4, 2), r"valid is bool of shape \(3, 1\)"),
    ((4, 3), (3, 2), ABSENT, ABSENT, (2, 4), r"y is float32 of shape \(2, 4\)"),
]


def call_wrongly(target, *shapes, valid, result, message, **attributes):
    native.register()
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(result, np.float32))
    given = [*(np.ones(shape, np.float32) for shape in shapes), np.ones(valid, bool)]
    with pytest.raises(Exception, match=f"{target}: {message}"):
        jax.block_until_ready(call(*given, **attributes))


@pytest.mark.parametrize("wrong", WRONG_GRADIENTS)
def test_a_weight_gradient_of_wrong_shapes_is_an_error(wrong):
    *shapes, valid, result, message = wrong
    call_wrongly(
        native.WEIGHT_GRADIENT, *shapes, valid=valid, result=result, message=message
    )


@pytest.mark.parametrize("wrong", WRONG_PRODUCTS)
def test_a_weight_product_of_wrong_shapes_is_an_error(wrong):
    *shapes, valid, result, message = wrong
    call_wrongly(
        native.WEIGHT_PRODUCT,
        *shapes,
        valid=valid,
        result=result,
        message=message,
        turned=False,
    )


WRONG = [
    ("xs", 0, (2, 3), "three dimensions"),
    ("w_ih", 1, (4, 28), r"w_ih has shape \(4, 28\), expected \(4, 32\)"),
    ("w_hh", 2, (8, 31), r"w_hh has shape \(8, 31\), expected \(8, 32\)"),
    ("w_hh", 2, (8,), r"w_hh has shape \(8,\), expected two dimensions"),
    ("b", 3, (31,), r"b has shape \(31,\), expected \(32,\)"),
    ("c0", 4, (3, 8), r"c0 has shape \(3, 8\), expected \(2, 8\)"),
    ("h0", 5, (1, 8), r"h0 has shape \(1, 8\), expected \(2, 8\)"),
    ("h0", 5, (), r"h0 has shape \(\), expected \(2, 8\)"),
    ("mask", 6, (2, 4), r"mask has shape \(2, 4\), expected \(2, 3\)"),
    ("reset", 7, (3, 2), r"reset has shape \(3, 2\), expected \(2, 3\)"),
    ("c_reset", 8, (2, 8), r"expected \(0,\) because reset is absent"),
]


@pytest.mark.parametrize(("name", "position", "shape", "message"), WRONG)
def test_a_wrong_shape_is_an_error(name, position, shape, message):
    del name
    problem = Problem("lstm", (2, 3, 4, 8))
    arguments = list(problem.forward_arguments())
    arguments[position] = np.zeros(shape, arguments[position].dtype)
    native.register()
    call = jax.ffi.ffi_call(native.FORWARD, problem.forward_results(False))
    with pytest.raises(Exception, match=f"rnnjax_forward of lstm: .*{message}"):
        jax.block_until_ready(call(*arguments, **PLAIN))


def test_a_wrong_dtype_count_or_result_is_an_error():
    problem = Problem("lstm", (2, 3, 4, 8))
    arguments, results = problem.forward_arguments(), problem.forward_results(False)
    native.register()

    def call(arguments, results):
        call = jax.ffi.ffi_call(native.FORWARD, results)
        jax.block_until_ready(call(*arguments, **PLAIN))

    halves = [jnp.asarray(arguments[0], jnp.float16), *arguments[1:]]
    with pytest.raises(Exception, match=r"xs is float16, expected float32 or bfloat16"):
        call(halves, results)
    mixed = [arguments[0], jnp.asarray(arguments[1], jnp.bfloat16), *arguments[2:]]
    with pytest.raises(Exception, match=r"w_ih is bfloat16, expected float32"):
        call(mixed, results)
    numbers = [*arguments[:6], np.ones((2, 3), np.float32), *arguments[7:]]
    with pytest.raises(Exception, match=r"mask is float32, expected bool"):
        call(numbers, results)
    with pytest.raises(Exception, match=r"got 9 arguments, expected 10"):
        call(arguments[:-1], results)
    with pytest.raises(Exception, match=r"got 2 results, expected 3"):
        call(arguments, results[:-1])
    small = [jax.ShapeDtypeStruct((2, 3, 7), np.float32), *results[1:]]
    with pytest.raises(Exception, match=r"ys has shape \(2, 3, 7\), expected"):
        call(arguments, small)


@pytest.mark.parametrize("signals", ["plain", "mask+reset"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 8), (1, 130, 3, 20), (7, 9, 4, 33)])
@pytest.mark.parametrize("cell", CELLS)
def test_backwards_is_the_walk_of_a_sequence_that_is_turned_round(cell, shape, signals):
    problem = Problem(cell, shape, signals)
    found = problem.forward(residuals=True, reverse=True)
    found = [*found, *problem.backward(found[1 + len(problem.carry) :], reverse=True)]
    timed = [a.ndim == 3 for a in found]
    for name in ("xs", "mask", "reset", "dys"):
        if getattr(problem, name) is not None:
            setattr(problem, name, np.flip(getattr(problem, name), 1))
    want = problem.forward(residuals=True)
    want = [*want, *problem.backward(want[1 + len(problem.carry) :])]
    for a, b, turned in zip(found, want, timed, strict=True):
        np.testing.assert_array_equal(a, np.flip(b, 1) if turned else b)


def test_a_cell_without_a_kernel_is_an_error():
    native.register()
    call = jax.ffi.ffi_call(native.BACKWARD, jax.ShapeDtypeStruct((1,), np.float32))
    with pytest.raises(Exception, match=r"rnnjax: there is no kernel of lstn\."):
        jax.block_until_ready(call(np.ones(1, np.float32), cell="lstn", reverse=False))


def test_calls_from_many_threads_do_not_wait_for_each_other_forever():
    problem = Problem("lstm", (16, 40, 32, 64))
    call = jax.ffi.ffi_call(native.FORWARD, problem.forward_results(False))
    native.register()
    run = jax.jit(lambda *a: call(*a, **PLAIN))
    arguments = [jnp.asarray(a) for a in problem.forward_arguments()]
    expected = np.asarray(run(*arguments)[0])
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda _: np.asarray(run(*arguments)[0]), range(200), timeout=120)
        )
    assert all(np.array_equal(result, expected) for result in results)
