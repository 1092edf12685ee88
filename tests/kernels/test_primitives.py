"""The kernels' primitives against the plain scan, under every transformation."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import rnnjax
from rnnjax import kernels, scan
from rnnjax.kernels import lowerings, primitives, reference

pytestmark = pytest.mark.float32

BATCH, TIME, INPUT, HIDDEN = 4, 7, 3, 5
LENGTHS = jnp.array([7, 4, 0, 1])

BUILD = {
    "lstm": (rnnjax.lstm, kernels.lstm),
    "gru": (rnnjax.gru, kernels.gru),
    "gru_before": (
        functools.partial(rnnjax.gru, reset_after=False),
        kernels.gru_before,
    ),
    "elman_tanh": (rnnjax.elman, kernels.elman_tanh),
    "elman_relu": (
        functools.partial(rnnjax.elman, activation=jax.nn.relu),
        kernels.elman_relu,
    ),
}
SIGNALS = ("none", "mask", "reset", "both")
CASES = [
    *((name, signals) for name in ("lstm", "gru", "elman_tanh") for signals in SIGNALS),
    *((name, "both") for name in ("gru_before", "elman_relu")),
]


def make(name, kernel=True, input_size=INPUT, hidden_size=HIDDEN):
    build, traversal = BUILD[name]
    walk = traversal if kernel else scan.fused
    return build(input_size, hidden_size, traversal=walk)


def draw(seed, shape, dtype=jnp.float32):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values.astype(np.float32), dtype)


def weights(cell, dtype=jnp.float32):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(lambda p: draw(1, p.shape, dtype) / len(p) ** 0.5, shapes)


def problem(name, signals="none", dtype=jnp.float32, batch=BATCH):
    """Weights, carries and inputs, and how to unroll them as a batch.

    Padding holds NaN: it may reach no value and no gradient.
    """
    cell = make(name)
    params = weights(cell, dtype)
    carry = cell.initial_carry(params)
    start = jax.tree.map(lambda c: draw(2, (batch, *c.shape), dtype), carry)
    restart = jax.tree.map(lambda c: draw(3, c.shape, dtype), carry)
    xs = draw(4, (batch, TIME, INPUT), dtype)
    mask = where = None
    if signals in ("mask", "both"):
        mask = jnp.arange(TIME) < LENGTHS[:batch, None]
        xs = jnp.where(mask[..., None], xs, jnp.nan)
    if signals in ("reset", "both"):
        where = draw(5, (batch, TIME)) > 0.3
    return (params, start, restart, xs), mask, where


def one(cell, params, start, restart, xs, mask, where):
    reset = None if where is None else rnnjax.Reset(where, restart)
    return cell.unroll(params, start, xs, mask=mask, reset=reset)


def value(cell, args, mask, where):
    params, start, restart, xs = args
    run = jax.vmap(functools.partial(one, cell), (None, 0, None, 0, 0, 0))
    return run(params, start, restart, xs, mask, where)


def scalar(tree):
    leaves = enumerate(jax.tree.leaves(tree))
    return sum(
        (jnp.mean(jnp.sin((1.0 + i) * leaf)) for i, leaf in leaves), jnp.zeros(())
    )


def directions(args):
    """A tangent for every operand, NaN in the padding and no function of it."""
    return jax.tree.map(
        lambda a: draw(6, a.shape, a.dtype) + 0 * lax.stop_gradient(a), args
    )


def loss(cell, mask, where):
    return lambda *args: scalar(value(cell, args, mask, where))


def grad_of_vmap(cell, args, mask, where):
    return jax.grad(loss(cell, mask, where), range(4))(*args)


def vmap_of_grad(cell, args, mask, where):
    def of_one(*args):
        return scalar(one(cell, *args))

    axes = (None, 0, None, 0, 0, 0)
    return jax.vmap(jax.grad(of_one, range(4)), axes)(*args, mask, where)


def jvp(cell, args, mask, where):
    def run(*args):
        return value(cell, args, mask, where)

    return jax.jvp(run, args, directions(args))[1]


def forward_over_reverse(cell, args, mask, where):
    gradient = jax.grad(loss(cell, mask, where), range(4))
    return jax.jvp(gradient, args, directions(args))[1]


def reverse_over_reverse(cell, args, mask, where):
    gradient = jax.grad(loss(cell, mask, where), range(4))
    return jax.grad(lambda *args: scalar(gradient(*args)), range(4))(*args)


def reverse_over_forward(cell, args, mask, where):
    def of(*args):
        return scalar(jvp(cell, args, mask, where))

    return jax.grad(of, range(4))(*args)


def nested_vmap(cell, args, mask, where):
    """Two mapped axes, the outer one last, and a mask and weights in neither."""
    params, start, restart, xs = args
    xs = jnp.nan_to_num(jnp.stack([xs, 2 * xs], axis=-1))
    mask, where = (None if flags is None else flags[1] for flags in (mask, where))
    run = functools.partial(one, cell)
    inner = jax.vmap(run, (None, 0, None, 0, None, None))
    outer = jax.vmap(inner, (None, None, None, 3, None, None))
    return outer(params, start, restart, xs, mask, where)


def ensemble(cell, args, mask, where):
    """The gradients of several members on the same data."""
    params, *rest = args
    members = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, -p]), params)
    gradient = jax.grad(loss(cell, mask, where), range(4))
    return jax.vmap(gradient, (0, None, None, None))(members, *rest)


def jacobian(cell, args, mask, where):
    params, start, restart, xs = jax.tree.map(lambda a: a, args)
    mask, where = (None if flags is None else flags[1] for flags in (mask, where))
    start, xs = jax.tree.map(lambda a: a[1], (start, xs))

    def run(restart, start):
        return one(cell, params, start, restart, xs, mask, where)

    forward, reverse = jax.jacfwd(run, (0, 1)), jax.jacrev(run, (0, 1))
    return forward(restart, start), reverse(restart, start)


def checkpointed(cell, args, mask, where):
    def run(*args):
        return scalar(value(cell, args, mask, where))

    return jax.grad(jax.checkpoint(run), range(4))(*args)


TRANSFORMATIONS = (
    value,
    grad_of_vmap,
    vmap_of_grad,
    jvp,
    forward_over_reverse,
    reverse_over_reverse,
    reverse_over_forward,
    nested_vmap,
    ensemble,
    jacobian,
    checkpointed,
)


def assert_close(got, want, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def agree(transformation, name, signals, wrap=lambda cell: cell):
    args, mask, where = problem(name, signals)
    got, want = (
        jax.jit(functools.partial(transformation, wrap(make(name, kernel))))(
            args, mask, where
        )
        for kernel in (True, False)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert_close(got, want)


@pytest.mark.drawn(0.25)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize(("name", "signals"), CASES)
def test_equals_the_plain_scan(name, signals, transformation):
    agree(transformation, name, signals)


@pytest.mark.drawn(0.15)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize(("name", "signals"), CASES)
def test_backwards_equals_the_plain_scan(name, signals, transformation):
    agree(transformation, name, signals, rnnjax.reverse)


@pytest.mark.parametrize("walk", [scan.default, kernels.lstm])
def test_backwards_nothing_is_turned_round(walk):
    cell = rnnjax.bidirectional(*[rnnjax.lstm(3, 64, traversal=walk) for _ in range(2)])
    params, xs = cell.init(jax.random.key(0)), draw(1, (6, 5, 3))
    gradient = jax.grad(lambda p, x: rnnjax.unroll(cell, p, x)[1].sum(), (0, 1))
    assert "reverse" not in re.sub(
        r"reverse = (true|false)", "", jax.jit(gradient).lower(params, xs).as_text()
    )


@pytest.fixture
def reference_only(monkeypatch):
    """What compiles where the native library could not be built."""
    monkeypatch.setattr(lowerings.native, "available", lambda: False)


@pytest.mark.drawn(0.4)
@pytest.mark.usefixtures("reference_only")
@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("wrap", [lambda cell: cell, rnnjax.reverse])
def test_the_reference_lowering_equals_the_plain_scan(name, signals, wrap):
    agree(grad_of_vmap, name, signals, wrap)


@pytest.mark.parametrize("name", BUILD)
def test_hoisting_the_input_product_changes_nothing(name):
    """The lowering for platforms other than the CPU, run on the CPU."""
    args, mask, where = problem(name, "both")
    cell = make(name)
    jaxpr = jax.make_jaxpr(functools.partial(value, cell))(args, mask, where)
    (eqn,) = (e for e in jaxpr.eqns if e.primitive is primitives.value_p)
    operands = [
        draw(i, v.aval.shape) if v.aval.dtype != bool else jnp.ones(v.aval.shape, bool)
        for i, v in enumerate(eqn.invars)
    ]
    run = functools.partial(reference.value, *operands, **eqn.params)
    assert_close(run(hoist=True), run(hoist=False))


@pytest.mark.parametrize("name", BUILD)
def test_shared_weights_have_one_gradient_product(name):
    """No array holds the weights' gradient for each example, or is turned around."""
    batch, cell = 11, make(name)
    params = weights(cell)
    k = params.w_hh.shape[1]
    xs = draw(1, (batch, TIME, INPUT))

    def of_one(params, xs):
        return scalar(cell.unroll(params, cell.initial_carry(params), xs))

    def of_batch(params, xs):
        return jax.vmap(of_one, (None, 0))(params, xs).sum()

    def arrays(fun):
        """The sizes of every array in the program, in any order of the axes."""
        program = jax.jit(fun).lower(params, xs).compile().as_text()
        return set(re.findall(r"f32\[([\d,]+)\]", str(program)))

    for_each = {
        ",".join(map(str, axes))
        for n in (HIDDEN, INPUT)
        for axes in itertools.permutations((batch, n, k))
        if k != n
    }
    shared = arrays(jax.grad(of_batch))
    assert for_each & arrays(jax.vmap(jax.grad(of_one), (None, 0)))
    assert not for_each & shared
    if kernels.status().lstm.name == "native":
        assert f"{k},{batch * TIME}" not in shared
        program = str(jax.jit(jax.grad(of_batch)).lower(params, xs).compile().as_text())
        products = [
            line for line in program.splitlines() if "rnnjax_weight_gradient" in line
        ]
        made = [re.findall(r"f32\[([\d,]+)\]", line)[0] for line in products]
        # Of a gated cell, what multiplies the gated state is a product of its own.
        recurrent = [k] if name != "gru_before" else [2 * HIDDEN, HIDDEN]
        assert sorted(made) == sorted(
            [f"{INPUT},{k}", *(f"{HIDDEN},{n}" for n in recurrent)]
        )


@pytest.mark.parametrize("name", BUILD)
def test_residuals_are_computed_for_a_derivative_only(name):
    args, mask, where = problem(name, "both")
    cell = make(name)

    def residuals(fun):
        jaxpr = str(jax.make_jaxpr(fun)(*args))
        return re.findall(r"residuals=(\w+)", jaxpr)

    run = loss(cell, mask, where)
    assert residuals(run) == ["False"]
    assert residuals(jax.grad(run)) == ["True"]
    # The forward pass of a checkpoint keeps none, the one that is repeated does.
    assert sorted(residuals(jax.grad(jax.checkpoint(run)))) == ["False", "True"]


@pytest.mark.parametrize("name", BUILD)
def test_padding_reaches_no_gradient(name):
    args, mask, where = problem(name, "both")
    *_, d_xs = grad_of_vmap(make(name), args, mask, where)
    padding = jnp.arange(TIME) >= LENGTHS[:, None]
    assert (d_xs[padding] == 0).all()
    assert jnp.abs(d_xs).sum() > 0


@pytest.mark.parametrize("name", BUILD)
def test_a_sequence_of_length_zero_returns_its_carry(name):
    args, mask, where = problem(name, "both")
    carry, ys = value(make(name), args, mask, where)
    empty = int(jnp.argmin(LENGTHS))
    last, first = (jax.tree.map(lambda c: c[empty], c) for c in (carry, args[1]))
    assert_close(last, first, 0, 0)
    assert (ys[empty] == 0).all()


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("which", range(4))
def test_gradients_for_some_operands_equal_those_for_all(name, which):
    """What is not differentiated is a symbolic zero in the rules."""
    args, mask, where = problem(name, "both")
    run = loss(make(name), mask, where)
    alone = jax.jit(jax.grad(run, which))(*args)
    assert_close(alone, jax.jit(jax.grad(run, range(4)))(*args)[which])


@pytest.mark.parametrize("leaf", range(4))
def test_gradients_for_one_weight_equal_those_for_all(leaf):
    args, mask, where = problem("gru", "both")
    run = loss(make("gru"), mask, where)

    def of_leaf(p):
        leaves = [p if i == leaf else q for i, q in enumerate(args[0])]
        return run(rnnjax.GRUParams(*leaves), *args[1:])

    alone = jax.jit(jax.grad(of_leaf))(args[0][leaf])
    assert_close(alone, jax.jit(jax.grad(run))(*args)[leaf])


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize(
    ("time", "input_size", "hidden_size"),
    [(1, 1, 1), (1, 5, 2), (9, 1, 33), (3, 17, 64)],
)
def test_sizes(name, time, input_size, hidden_size):
    got, want = (
        make(name, kernel, input_size, hidden_size) for kernel in (True, False)
    )
    params = weights(got)
    xs = draw(1, (time, input_size))

    def run(cell, params, xs):
        def of(params, xs):
            return scalar(cell.unroll(params, cell.initial_carry(params), xs))

        return jax.value_and_grad(of, (0, 1))(params, xs)

    assert_close(
        *(jax.jit(functools.partial(run, cell))(params, xs) for cell in (got, want))
    )


@pytest.mark.parametrize("transformation", [value, grad_of_vmap])
@pytest.mark.parametrize("name", BUILD)
def test_bfloat16_is_close_to_float32(name, transformation):
    args, mask, where = problem(name, "both", jnp.bfloat16)
    run = jax.jit(functools.partial(transformation, make(name)))
    got = run(args, mask, where)
    want = run(jax.tree.map(lambda a: a.astype(jnp.float32), args), mask, where)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(got))
    got = jax.tree.map(lambda a: a.astype(jnp.float32), got)
    assert_close(got, want, rtol=0.1, atol=0.05)


@pytest.mark.drawn(0.3)
@pytest.mark.parametrize("lowering", ["native", "reference"])
@pytest.mark.parametrize("name", BUILD)
def test_bfloat16_gradients_of_a_long_sequence(monkeypatch, name, lowering):
    """Sums over 2,000 steps and the batch are no worse than the values they add up.

    The kernels' are 2e-3 to 6e-3 from float64; a bias that is summed in bfloat16 is
    1e-2 to 2e-2 from it. The reference rounds its state at every step, and a relu so
    rounded changes sides.
    """
    if lowering == "native" and not lowerings.native.available():
        pytest.skip(f"no native kernels: {lowerings.native.reason()}")
    if lowering == "reference":
        monkeypatch.setattr(lowerings.native, "available", lambda: False)
    hidden, batch, time = 16, 8, 2000
    cell, exact = (make(name, kernel, 4, hidden) for kernel in (True, False))
    params = cell.init(jax.random.key(0))
    xs, ws = draw(1, (batch, time, 4)), draw(2, (batch, time, hidden))
    carry = cell.initial_carry(params)
    operands = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, carry, xs, ws))

    def gradients(cell, params, carry, xs, ws):
        def of(params, carry, xs):
            run = jax.vmap(functools.partial(cell.unroll, params), (None, 0))
            return (run(carry, xs)[1] * ws).astype(jnp.float32).sum()

        return jax.jit(jax.grad(of, (0, 1, 2)))(params, carry, xs)

    got = gradients(cell, *operands)
    with jax.enable_x64(True):
        doubles = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), operands)
        want = gradients(exact, *doubles)
        limit = {"native": 8e-3, "reference": 2e-2}[lowering]
        limit = 0.1 if (name, lowering) == ("elman_relu", "reference") else limit
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            error = jnp.linalg.norm(a.astype(jnp.float64) - b) / jnp.linalg.norm(b)
            assert error < limit


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", BUILD)
def test_other_dtypes_take_the_reference(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        args, mask, where = problem(name, "both", dtype)
        both = (
            value(make(name, kernel), args, mask, where) for kernel in (True, False)
        )
        got, want = both
        assert_close(got, want, 0, 0)
        jaxpr = jax.make_jaxpr(functools.partial(value, make(name)))(args, mask, where)
        assert "recurrence" not in str(jaxpr)


OTHERS = {
    "another activation": (
        lambda: rnnjax.lstm(3, 4, activation=jax.nn.relu, traversal=kernels.lstm),
        r"kernels\.lstm computes rnnjax\.lstm with activation=jnp\.tanh by itself; "
        r"it was given a step that it does not know\. Write traversal=rnnjax\.scan",
    ),
    "cuDNN's": (
        lambda: rnnjax.lstm(3, 4, activation=jax.nn.relu, traversal=kernels.lstm_cudnn),
        "computes rnnjax.lstm with",
    ),
    "relu for tanh": (
        lambda: rnnjax.elman(3, 4, traversal=kernels.elman_relu),
        "given the step of rnnjax.elman with activation=jnp.tanh",
    ),
    "reset after for before": (
        lambda: rnnjax.gru(3, 4, reset_after=False, traversal=kernels.gru),
        "computes rnnjax.gru with reset_after=True",
    ),
    "another cell": (
        lambda: rnnjax.ugrnn(3, 4, traversal=kernels.gru),
        "given a step that it does not know",
    ),
    "a cell of your own": (
        lambda: rnnjax.recurrence(
            lambda key: jnp.zeros(()),
            lambda params: jnp.zeros(4),
            lambda params, x: x,
            lambda params, h, z: (h, h),
            traversal=kernels.elman_tanh,
        ),
        "given a step that it does not know",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_kernel_refuses_equations_that_are_not_its_own(name):
    make_other, message = OTHERS[name]
    with pytest.raises(ValueError, match=message):
        make_other()


def test_a_kernel_inside_a_traversal_of_your_own_refuses_at_trace_time():
    def walk(project, step, params, carry, xs, *, mask=None, reset=None):
        signals = {"mask": mask, "reset": reset}
        return kernels.elman_relu(project, step, params, carry, xs, **signals)

    cell = rnnjax.elman(INPUT, HIDDEN, traversal=walk)
    params, xs = weights(cell), draw(1, (TIME, INPUT))
    with pytest.raises(ValueError, match=r"given the step of rnnjax\.elman with"):
        jax.eval_shape(lambda *a: rnnjax.unroll(cell, *a), params, xs[None])


@pytest.mark.parametrize("name", BUILD)
def test_every_other_traversal_takes_the_step_of_a_kernel(name):
    for walk in (scan.hoisted, scan.deferred, scan.checkpointed, scan.static):
        build, _ = BUILD[name]
        cell = build(INPUT, HIDDEN, traversal=walk)
        args, mask, where = problem(name, "both")
        got = value(cell, args, mask, where)
        assert_close(got, value(make(name, False), args, mask, where))


@pytest.mark.parametrize("name", BUILD)
def test_without_jit(name):
    args, mask, where = problem(name, "both")
    for run in (value, grad_of_vmap, jvp):
        run = functools.partial(run, make(name))
        assert_close(run(args, mask, where), jax.jit(run)(args, mask, where))


@pytest.mark.parametrize("run", [value, grad_of_vmap])
@pytest.mark.parametrize("name", BUILD)
def test_with_jit_disabled(name, run):
    args, mask, where = problem(name, "both")
    run = functools.partial(run, make(name))
    want = jax.jit(run)(args, mask, where)
    with jax.disable_jit():
        assert_close(run(args, mask, where), want)


@pytest.mark.parametrize("signals", ["none", "both"])
@pytest.mark.parametrize("name", BUILD)
def test_no_examples_at_all(name, signals):
    """A mapped axis of size zero, as of an empty batch, and one inside another."""
    args, mask, where = problem(name, signals)
    params, start, restart, xs = args
    start, xs = jax.tree.map(lambda a: a[:0], (start, xs))
    mask, where = (None if f is None else f[:0] for f in (mask, where))
    empty = (params, start, restart, xs), mask, where
    _, ys = value(make(name), *empty)
    assert ys.shape == (0, TIME, HIDDEN)
    d_params, *_ = grad_of_vmap(make(name), *empty)
    for_each = vmap_of_grad(make(name), *empty)[0]
    for one_of, all_of in zip(
        jax.tree.leaves(for_each), jax.tree.leaves(d_params), strict=True
    ):
        assert one_of.shape == (0, *all_of.shape)
    nothing = jax.tree.map(lambda p: p[None][:0], params)
    several = jax.vmap(lambda p: value(make(name), (p, *args[1:]), None, None)[1])
    assert several(nothing).shape == (0, BATCH, TIME, HIDDEN)


@pytest.mark.parametrize("name", BUILD)
def test_donated_operands(name):
    args, mask, where = problem(name, "both")
    run = loss(make(name), mask, where)
    want = run(*args)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def descend(params, start, restart, xs):
        gradient = jax.grad(run, (0, 1))(params, start, restart, xs)
        return jax.tree.map(lambda p, g: p - 0.1 * g, (params, start), gradient)

    for _ in range(3):
        args = (*descend(*args), *args[2:])
    assert run(*args) < want


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", BUILD)
def test_export(name, platform):
    """Exported programs run where no library of ours is loaded: they hold loops."""
    args, mask, where = problem(name, "both")
    run = loss(make(name), mask, where)

    gradient = jax.jit(jax.grad(run))
    program = export.export(gradient, platforms=[platform])(*args)
    if platform == "cpu":
        assert_close(program.call(*args), gradient(*args))
    assert not any(c in program.mlir_module() for c in ("@rnnjax_", "@tpu_"))
    if kernels.status().lstm.name == "native":
        assert "@rnnjax_" in gradient.lower(*args).as_text()


@pytest.mark.parametrize("name", BUILD)
def test_on_one_device_the_program_says_nothing_of_several(name):
    args, mask, where = problem(name, "both")
    gradient = jax.jit(jax.grad(loss(make(name), mask, where), range(4)))
    text = gradient.lower(*args).as_text()
    assert "num_batch_dims" not in text
    assert "sharding_rule" not in text


def test_status_names_a_lowering_and_a_reason_for_every_cell():
    status = kernels.status()
    assert status.platform == jax.default_backend()
    for cell in ("lstm", "gru", "elman"):
        lowering = getattr(status, cell)
        assert lowering.name in ("native", "reference")
        assert lowering.reason in str(status)


@pytest.mark.usefixtures("reference_only")
def test_status_says_that_the_reference_runs():
    assert {lowering.name for lowering in kernels.status()[1:]} == {"reference"}


@pytest.mark.drawn(0.5)
@pytest.mark.parametrize("name", BUILD)
def test_the_contract_holds(name):
    rnnjax.testing.check_cell(make(name), draw(1, (INPUT,)))
