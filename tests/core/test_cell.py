# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
"""A cell is static: equality, hashing, tracing, reading, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

READS = {
    "lstm(28, 128)": lambda: rnnjax.lstm(28, 128),
    "lstm(28, 128, forget_bias=0.0)": lambda: rnnjax.lstm(28, 128, forget_bias=0.0),
    "elman(3, 4, activation=relu)": lambda: rnnjax.elman(3, 4, activation=jax.nn.relu),
    "gru(3, 4, traversal=hoisted)": lambda: rnnjax.gru(
        3, 4, traversal=rnnjax.scan.hoisted
    ),
    "stack(bidirectional(gru(3, 4)), dropout(0.5), dense(8, 2))": lambda: rnnjax.stack(
        rnnjax.bidirectional(rnnjax.gru(3, 4)), rnnjax.dropout(0.5), rnnjax.dense(8, 2)
    ),
    "bidirectional(gru(3, 4), backward=lstm(3, 2))": lambda: rnnjax.bidirectional(
        rnnjax.gru(3, 4), rnnjax.lstm(3, 2)
    ),
    "learned_carry(residual(gru(3, 3)))": lambda: rnnjax.learned_carry(
        rnnjax.residual(rnnjax.gru(3, 3))
    ),
}


@pytest.mark.parametrize(("text", "make"), READS.items(), ids=READS)
def test_cells_read_as_the_call_and_equal_their_twins(text, make):
    assert repr(make()) == text
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != rnnjax.lstm(1, 1)


def test_a_rebuilt_cell_never_retraces():
    traces = []

    @jax.jit
    def run(cell, params, xs):
        traces.append(cell)
        return cell.unroll(params, cell.initial_carry(params), xs)[1]

    def make(size):
        return rnnjax.stack(rnnjax.lstm(3, size), rnnjax.dense(size, 2))

    for size in (4, 4, 5, 4):
        run(make(size), make(size).init(jax.random.key(0)), jnp.ones((6, 3)))
    assert traces == [make(4), make(5)]


def test_cells_are_leafless_pytrees_and_static_arguments():
    cell = rnnjax.lstm(3, 4)
    assert jax.tree.leaves(cell) == []
    shape = jax.jit(lambda cell: cell.init(jax.random.key(0)).b, static_argnums=0)
    assert shape(cell).shape == (16,)


def test_a_cell_without_a_spec_equals_itself_only():
    one, two = (dataclasses.replace(rnnjax.gru(2, 3), spec=None) for _ in range(2))
    assert one == one
    assert one != two
    assert repr(one).startswith("<Cell at")


def test_replacing_a_function_makes_another_cell():
    cell = rnnjax.gru(2, 3)
    other = dataclasses.replace(cell, unroll=rnnjax.reverse(cell).unroll)
    assert other != cell
    assert other.spec == cell.spec


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_sizes_can_be_asked_for(dtype):
    cell = rnnjax.stack(
        rnnjax.lstm(3, 5), rnnjax.bidirectional(rnnjax.gru(5, 4)), rnnjax.dense(8, 2)
    )
    params = jax.tree.map(lambda a: a.astype(dtype), cell.init(jax.random.key(0)))
    carry = cell.initial_carry(params)
    after, ys = cell.unroll(params, carry, jnp.ones((7, 3)))

    def form(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    assert form(rnnjax.carry_spec(cell, dtype)) == form(carry) == form(after)
    spec = rnnjax.output_spec(cell, jnp.ones(3), dtype)
    assert (spec.shape, spec.dtype) == (ys.shape[1:], ys.dtype) == ((2,), dtype)
    assert rnnjax.output_spec(cell, jax.ShapeDtypeStruct((3,), dtype)).shape == (2,)


def test_the_spec_names_arguments_and_children():
    cell = rnnjax.stack(rnnjax.lstm(3, 5, forget_bias=2.0), rnnjax.dense(5, 1))
    first, second = cell.spec.cells
    assert (cell.spec.name, first.spec.name, second.spec.name) == (
        "stack",
        "lstm",
        "dense",
    )
    assert first.spec["hidden_size"] == 5
    assert first.spec["forget_bias"] == 2.0
    assert first.spec.constructor(**dict(first.spec.arguments)) == first


def test_a_cell_of_ones_own_in_twelve_lines():
    def init(key):
        return 0.5 * jax.random.normal(key, (3, 3))

    def project(w, x):
        return x

    def step(w, h, z):
        h = jnp.tanh(h @ w + z)
        return h, h.sum()

    cell = rnnjax.recurrence(
        init, lambda params: jnp.zeros(3, params.dtype), project, step
    )
    rnnjax.testing.check_cell(cell, np.ones(3))


def test_inputs_and_outputs_may_be_pytrees():
    def step(w, h, z):
        h = {"sum": h["sum"] * w + z["a"], "count": h["count"] + 1}
        return h, (h["sum"], z["b"])

    for traversal in (rnnjax.scan.fused, rnnjax.scan.deferred):
        cell = rnnjax.recurrence(
            lambda key: jax.random.normal(key),
            lambda params: {"sum": jnp.zeros((), params.dtype), "count": jnp.int32(0)},
            lambda w, x: {"a": x["a"] * w, "b": x["b"]},
            step,
            traversal=traversal,
        )
        x = {"a": np.float64(1.0), "b": np.ones(2)}
        rnnjax.testing.check_cell(cell, x)
