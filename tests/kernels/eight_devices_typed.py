"""Where the types of arrays speak of the mesh: shard_map, explicit axes and pmap.

`test_partitioned.py` runs this file in a process of its own, which has eight devices.
"""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax

pytestmark = pytest.mark.float32

DEVICES, TIME = 8, 5

# One of each way to walk; the kernels of the relu and of the other GRU are in layers.
SOME = [
    rnnjax.lstm(2, 3),
    rnnjax.stack(rnnjax.gru(2, 4), rnnjax.elman(4, 3)),
    rnnjax.bidirectional(rnnjax.gru(2, 3, reset_after=False)),
    rnnjax.learned_carry(rnnjax.elman(2, 3, activation=jax.nn.relu)),
    rnnjax.mgu(2, 3, traversal=rnnjax.scan.deferred),
]
OTHERS = [
    rnnjax.mgu(2, 3, traversal=rnnjax.scan.hoisted),
    rnnjax.mgu(2, 3, traversal=rnnjax.scan.checkpointed),
    rnnjax.min_gru(2, 3, traversal=rnnjax.scan.chunked(2)),
    rnnjax.mgu(2, 3, traversal=rnnjax.scan.newton(max_iterations=9)),
    rnnjax.bidirectional(rnnjax.mgu(2, 3)),
    rnnjax.residual(rnnjax.lstm(2, 2)),
]
EVERY = [*CELLS, *((cell, np.ones(2)) for cell in (*SOME, *OTHERS))]


def mesh_of(kind):
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))


def drawn(cell, x, seed=0):
    """Params in float32, two sequences for each device, and their lengths."""
    params = jax.tree.map(
        lambda p: p.astype(jnp.float32) if p.dtype == jnp.float64 else p,
        cell.init(jax.random.key(0)),
    )
    random = np.random.default_rng(seed)
    xs = jax.tree.map(
        lambda a: jnp.asarray(
            random.uniform(0.1, 1.0, (2 * DEVICES, TIME, *np.shape(a))), jnp.float32
        ),
        x,
    )
    lengths = jnp.asarray(random.integers(0, TIME + 1, 2 * DEVICES))
    reset = jnp.asarray(random.random((2 * DEVICES, TIME)) < 0.3)
    return params, xs, lengths, reset


def loss(cell, params, xs, lengths, reset):
    carry, ys = rnnjax.unroll(cell, params, xs, lengths=lengths, reset=reset)
    leaves = [a for a in jax.tree.leaves((carry, ys)) if a.dtype == jnp.float32]
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves)


def with_shard_map(cell, mesh):
    """The gradient of the sum, which `jax.shard_map` sums by itself."""

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), *[P("data")] * 3), out_specs=(P(), P())
    )
    def run(params, xs, lengths, reset):
        def total(params):
            return jax.lax.psum(loss(cell, params, xs, lengths, reset), "data")

        return jax.value_and_grad(total)(params)

    return jax.jit(run)


def with_explicit_axes(cell, mesh):
    return jax.jit(jax.value_and_grad(functools.partial(loss, cell)))


def with_pmap(cell, mesh):
    run = jax.pmap(
        jax.value_and_grad(functools.partial(loss, cell)), in_axes=(None, 0, 0, 0)
    )

    def on_all(params, *rows):
        split = jax.tree.map(lambda a: a.reshape(DEVICES, 2, *a.shape[1:]), rows)
        return jax.tree.map(lambda a: a.sum(axis=0), run(params, *split))

    return on_all


def placed(mesh, params, *rows):
    return (
        jax.device_put(params, NamedSharding(mesh, P())),
        *jax.device_put(rows, NamedSharding(mesh, P("data"))),
    )


WAYS = {
    "shard_map": (with_shard_map, AxisType.Auto),
    "explicit": (with_explicit_axes, AxisType.Explicit),
    "pmap": (with_pmap, AxisType.Auto),
}


def prepared(cell, x, way):
    """The function of a way, and its arguments."""
    run, kind = WAYS[way]
    mesh = mesh_of(kind)
    scope = contextlib.nullcontext()
    if kind is AxisType.Explicit:
        scope = jax.set_mesh(mesh)
    return run(cell, mesh), placed(mesh, *drawn(cell, x)), scope


@pytest.mark.parametrize("way", ["shard_map", "explicit"])
@pytest.mark.parametrize(("cell", "x"), EVERY, ids=lambda v: repr(v)[:60])
def test_the_types_of_every_cell_fit(cell, x, way):
    """Tracing checks them, so that nothing has to be compiled."""
    run, given, scope = prepared(cell, x, way)
    with scope:
        value, _ = run.trace(*given).out_info
    assert value.shape == ()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", SOME, ids=lambda v: repr(v)[:60])
def test_values_and_gradients_are_those_of_one_device(cell, way):
    run, given, scope = prepared(cell, np.ones(2), way)
    with scope:
        got = run(*given)
    one = jax.jit(jax.value_and_grad(functools.partial(loss, cell)))
    want = one(*drawn(cell, np.ones(2)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def on_the_mesh(cell, mesh):
    """A cell that runs each sequence eight times, one on each device.

    It returns their mean, which is exact: the sum of eight equal numbers and the
    division by eight round nothing.
    """
    rows = NamedSharding(mesh, P("data"))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        def copies(a):
            many = jnp.broadcast_to(a, (DEVICES, *jnp.shape(a)))
            return jax.lax.with_sharding_constraint(many, rows)

        def one(carry, xs, mask, reset):
            return cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)

        out = jax.vmap(one)(*jax.tree.map(copies, (carry, xs, mask, reset)))
        return jax.tree.map(lambda a: a.mean(axis=0), out)

    return dataclasses.replace(cell, unroll=unroll, spec=None)


@pytest.mark.parametrize("way", ["shard_map", "explicit"])
def test_rows_of_a_kernel_are_not_gathered(way):
    run, given, scope = prepared(rnnjax.stack(rnnjax.gru(2, 4)), np.ones(2), way)
    with scope:
        text = run.lower(*given).compile().as_text()
    assert "all-reduce" in text
    assert not re.search("all-gather|all-to-all|collective-permute", text)


@pytest.mark.parametrize("name", ["lstm", "gru", "elman"])
def test_the_contract_holds_on_a_mesh(name):
    cell = on_the_mesh(getattr(rnnjax, name)(3, 4), mesh_of(AxisType.Auto))
    rnnjax.testing.check_cell(cell, jnp.ones(3))
