"""Under jit on eight devices: what XLA makes of kernels whose batch is sharded.

`test_partitioned.py` runs this file in a process of its own.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax
from rnnjax import kernels
from rnnjax.kernels import equations, lowerings, pallas_tpu, primitives, reference

from . import test_primitives as laws
from .test_primitives import BUILD, HIDDEN, INPUT, TIME, make
from .test_tpu import operands

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        kernels.status().lstm.name != "native", reason=str(kernels.status().lstm)
    ),
]

BATCH, DEVICES = 16, 8
WHOLE = P()
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)


def mesh_of(*sizes):
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def problem(name, dtype=jnp.float32):
    """As of one device, with NaN in the padding, of sixteen examples."""
    (params, start, restart, xs), _, where = laws.problem(
        name, "reset", dtype, batch=BATCH
    )
    mask = jnp.arange(TIME) < (jnp.arange(BATCH) % (TIME + 1))[:, None]
    return (
        (params, start, restart, jnp.where(mask[..., None], xs, jnp.nan)),
        mask,
        where,
    )


def place(mesh, args, mask, where, axes="data", of_params=WHOLE):
    """The batch sharded over axes of the mesh."""
    params, start, restart, xs = args
    rows, whole = NamedSharding(mesh, P(axes)), NamedSharding(mesh, P())
    start, xs, mask, where = jax.device_put((start, xs, mask, where), rows)
    params = jax.tree.map(
        lambda p: jax.device_put(
            p, NamedSharding(mesh, of_params if p.ndim == 2 else P())
        ),
        params,
    )
    return (params, start, jax.device_put(restart, whole), xs), mask, where


def compiled(fun, *args):
    program = jax.jit(fun).lower(*args).compile()
    return program, str(program.as_text())


def collectives(text):
    """The instructions by name, with the shapes of what each gives."""
    names = "|".join(COLLECTIVES)
    found = re.findall(rf"= (.*?) ({names})(?:-start)?\(", text)
    return {
        name: [shapes for shapes, other in found if other == name]
        for name in COLLECTIVES
        if any(other == name for _, other in found)
    }


def calls(text, target):
    """The lines of calls of the native library."""
    return [
        line
        for line in text.splitlines()
        if "custom-call(" in line and f'"{target}"' in line
    ]


def rows_of(line):
    """Axis 0 of every array of a call that has three axes or more."""
    shapes = re.findall(r"\[([\d,]+)\]", line.split("custom_call_target")[0])
    axes = [list(map(int, shape.split(","))) for shape in shapes]
    return {shape[0] for shape in axes if len(shape) > 2}


@pytest.mark.parametrize("name", BUILD)
def test_a_forward_pass_needs_no_other_device(name):
    args = place(mesh_of(DEVICES), *problem(name))
    _, text = compiled(functools.partial(laws.value, make(name)), *args)
    assert collectives(text) == {}
    (call,) = calls(text, "rnnjax_forward")
    assert rows_of(call) == {BATCH // DEVICES}


@pytest.mark.parametrize("make", [rnnjax.min_gru, rnnjax.lru])
def test_linear_recurrences_are_divided(make):
    """Those of coefficients that all rows share, too."""
    cell = make(INPUT, HIDDEN, traversal=rnnjax.scan.associative)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (BATCH, TIME, INPUT))

    def gradient(params, xs):
        def loss(params, xs):
            return jnp.square(rnnjax.unroll(cell, params, xs)[1]).sum()

        return jax.value_and_grad(loss)(params, xs)

    rows = NamedSharding(mesh_of(DEVICES), P("data"))
    program, text = compiled(gradient, params, jax.device_put(xs, rows))
    assert set(collectives(text)) == {"all-reduce"}
    for call in calls(text, "rnnjax_linear"):
        assert rows_of(call) == {BATCH // DEVICES}
    assert len(calls(text, "rnnjax_linear")) == 2
    found, expected = program(params, jax.device_put(xs, rows)), gradient(params, xs)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def one_all_reduce(text):
    """One all-reduce and nothing else, and no row in it."""
    found = collectives(text)
    assert set(found) == {"all-reduce"}
    assert len(found["all-reduce"]) == 1
    for shapes in found["all-reduce"]:
        assert f"{BATCH // DEVICES},{TIME}" not in shapes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BUILD)
def test_values_and_gradients_are_those_of_one_device(name, dtype):
    """And of all collectives the program has the sum of the weights' gradients."""
    args, mask, where = problem(name, dtype)
    cell = make(name)

    def run(*given):
        return laws.value(cell, *given), laws.grad_of_vmap(cell, *given)

    placed = place(mesh_of(DEVICES), args, mask, where)
    program, text = compiled(run, *placed)
    one_all_reduce(text)
    for target in ("rnnjax_forward", "rnnjax_backward"):
        for call in calls(text, target):
            assert rows_of(call) == {BATCH // DEVICES}
    k = args[0].w_hh.shape[1]
    parts = calls(text, "rnnjax_weight_gradient")
    assert len(parts) == (3 if name == "gru_before" else 2)
    assert all(rows_of(part) == {1} for part in parts)
    assert all(f",{BATCH // DEVICES * TIME}," in part for part in parts)
    assert f"[{HIDDEN},{k}]" in text
    limits = {"float32": (1e-5, 1e-6), "bfloat16": (2e-2, 2e-3)}[dtype]
    laws.assert_close(program(*placed), jax.jit(run)(args, mask, where), *limits)


def gathers_nothing(transformation, name, mesh, axes):
    args = problem(name)
    placed = place(mesh, *args, axes=axes)
    run = functools.partial(transformation, make(name))
    program, text = compiled(run, *placed)
    assert set(collectives(text)) <= {"all-reduce"}
    laws.assert_close(program(*placed), jax.jit(run)(*args))


@pytest.mark.parametrize("axes", ["data", ("data", "model")])
def test_a_mesh_of_two_axes(axes):
    gathers_nothing(laws.grad_of_vmap, "lstm", mesh_of(4, 2), axes)


TRANSFORMATIONS = (
    laws.vmap_of_grad,
    laws.jvp,
    laws.forward_over_reverse,
    laws.reverse_over_reverse,
    laws.checkpointed,
)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_derivatives_gather_nothing(transformation):
    gathers_nothing(transformation, "gru", mesh_of(DEVICES), "data")


def test_what_the_library_adds_around_a_cell_gathers_nothing():
    """Layers, both directions and lengths, and the update that a user writes."""
    cell = rnnjax.stack(
        rnnjax.bidirectional(rnnjax.lstm(INPUT, 4)), rnnjax.gru(8, HIDDEN)
    )
    params = cell.init(jax.random.key(0))
    xs, lengths = laws.draw(1, (BATCH, TIME, INPUT)), jnp.arange(BATCH) % TIME

    @functools.partial(jax.jit, donate_argnums=0)
    def update(params, xs, lengths):
        def loss(params):
            _, ys = rnnjax.unroll(cell, params, xs, lengths=lengths)
            return jnp.mean(ys**2)

        value, gradients = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

    want = update(jax.tree.map(jnp.copy, params), xs, lengths)
    mesh = mesh_of(DEVICES)
    given = (
        jax.device_put(params, NamedSharding(mesh, P())),
        *jax.device_put((xs, lengths), NamedSharding(mesh, P("data"))),
    )
    program = update.lower(*given).compile()
    one_all_reduce(str(program.as_text()))
    laws.assert_close(program(*given), want)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given[0]))


def test_donated_and_sharded_carries_are_written_in_place():
    """A stream: the carry goes in and comes out on the same devices."""
    args, mask, where = problem("lstm")
    cell = make("lstm")

    @functools.partial(jax.jit, donate_argnums=1)
    def advance(params, start, restart, xs, mask, where):
        return laws.value(cell, (params, start, restart, xs), mask, where)[0]

    want = advance(*args[:1], jax.tree.map(jnp.copy, args[1]), *args[2:], mask, where)
    placed, mask, where = place(mesh_of(DEVICES), args, mask, where)
    shardings = jax.tree.map(lambda a: a.sharding, placed[1])
    program = advance.lower(*placed, mask, where).compile()
    text = str(program.as_text())
    assert collectives(text) == {}
    assert "may-alias" in text or "must-alias" in text
    got = program(*placed, mask, where)
    laws.assert_close(got, want)
    assert jax.tree.map(lambda a: a.sharding, got) == shardings
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(placed[1]))


def test_rows_that_do_not_divide_are_right():
    """Thirty rows over four devices: XLA pads, and nothing of that is seen."""
    mesh = mesh_of(4, 2)
    args = laws.problem("lstm", batch=30)
    constrain = functools.partial(
        jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, P("data"))
    )

    def run(args, mask, where):
        params, start, restart, xs = args
        args = (params, start, restart, constrain(xs))
        return laws.grad_of_vmap(make("lstm"), args, mask, where)

    on_all = jax.device_put(args, NamedSharding(mesh, P()))
    laws.assert_close(jax.jit(run)(*on_all), laws.grad_of_vmap(make("lstm"), *args))


@pytest.mark.parametrize(
    ("sizes", "of_params"),
    [((DEVICES,), P("data")), ((4, 2), P(None, "model")), ((4, 2), P("data", "model"))],
    ids=["over the inputs", "over the gates", "over both"],
)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_sharded_params_are_gathered_and_rows_are_not(name, sizes, of_params):
    mesh, (args, mask, where) = mesh_of(*sizes), problem(name)
    cell = make(name, True, 16, 8)
    params = cell.init(jax.random.key(0))
    xs = laws.draw(1, (BATCH, TIME, 16))
    carry = jax.vmap(lambda _: cell.initial_carry(params))(xs)
    args = (params, carry, cell.initial_carry(params), xs)
    placed = place(mesh, args, mask, where, of_params=of_params)
    shardings = jax.tree.map(lambda p: p.sharding, placed[0][0])

    def gradient(*given):
        d_params, *_ = laws.grad_of_vmap(cell, *given)
        return jax.lax.with_sharding_constraint(d_params, shardings)

    program, text = compiled(gradient, *placed)
    found = collectives(text)
    assert set(found) == {"all-gather", "all-reduce"}
    assert len(found["all-reduce"]) == 1
    axes = [axis for axis in of_params if axis is not None]
    assert len(found["all-gather"]) == 2 * len(axes)  # each of two weights, once
    assert not re.search(rf"\b{TIME}\b", str(found))
    laws.assert_close(program(*placed), laws.grad_of_vmap(cell, args, mask, where)[0])


@pytest.mark.parametrize("batch", [BATCH, 6])
def test_a_kernel_written_in_jax_runs_for_the_rows_of_each_device(batch):
    """As on TPUs, here interpreted; rows that do not divide have the reference."""
    cell, walk = equations.LSTM, primitives.make_primitive("walk")
    walk.def_abstract_eval(primitives._value_shapes)
    kernel = functools.partial(pallas_tpu.value, interpret=True)
    rule = lowerings._on_tpu(kernel, lowerings._VALUE, primitives.value_weights)
    mlir.register_lowering(walk, rule, platform="cpu")

    args = operands(cell, batch, TIME, INPUT, HIDDEN, jnp.float32, reset=True)
    rows = P("data") if batch == BATCH else P()
    whole = primitives.value_weights(cell)
    placed = [
        jax.device_put(a, NamedSharding(mesh_of(DEVICES), P() if i in whole else rows))
        for i, a in enumerate(args)
    ]
    run = functools.partial(walk.bind, cell=cell, residuals=True)
    with jax.default_matmul_precision("float32"):
        program, text = compiled(run, *placed)
    laws.assert_close(
        program(*placed), reference.value(*args, cell=cell, residuals=True)
    )
    assert collectives(text) == {}


def test_the_partitioner_before_shardy():
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        gathers_nothing(laws.grad_of_vmap, "lstm", mesh_of(DEVICES), "data")
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
