# pyright: reportOptionalMemberAccess=false
"""Every value of every step by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax


def made(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    return params, cell.initial_carry(params)


def data(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


TRACES = {
    "elman": (rnnjax.elman(3, 4), ("h",)),
    "lstm": (rnnjax.lstm(3, 4), ("i", "f", "g", "o", "c", "h")),
    "gru": (rnnjax.gru(3, 4), ("r", "z", "n", "h")),
    "stack": (
        rnnjax.stack(rnnjax.residual(rnnjax.gru(3, 3)), rnnjax.dense(3, 2)),
        ("0.r", "0.z", "0.n", "0.h", "1.y"),
    ),
    "bidirectional": (
        rnnjax.bidirectional(rnnjax.elman(3, 4), rnnjax.learned_carry(
            rnnjax.elman(3, 2))),
        ("forward.h", "backward.h"),
    ),
    "parallel": (
        rnnjax.parallel(rnnjax.elman(3, 4), rnnjax.reverse(rnnjax.elman(3, 2))),
        ("0.h", "1.h"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("cell", "names"), TRACES.values(), ids=TRACES)
@pytest.mark.parametrize("signals", [False, True])
def test_trace_shows_every_value_by_name(cell, names, signals):
    params, carry = made(cell)
    xs = data(6, 3)
    given = {}
    if signals:
        given["mask"] = jnp.array([1, 1, 0, 1, 1, 0]) == 1
        given["reset"] = jnp.array([0, 0, 0, 1, 0, 0]) == 1
    seen = rnnjax.trace(cell, params, carry, xs, **given)
    assert seen.names == names
    _, ys = cell.unroll(params, carry, xs, **given)
    last = [seen[n] for n in names if n.split(".")[-1] in "hy"]
    if cell.spec.name == "stack":
        last = last[1:]
    np.testing.assert_allclose(jnp.concatenate(last, 1), ys, atol=1e-12)


def test_trace_works_under_jit_and_vmap():
    cell = rnnjax.lstm(3, 4)
    params, carry = made(cell)
    xs = data(2, 6, 3)

    @jax.jit
    def traced(xs):
        return jax.vmap(lambda xs: rnnjax.trace(cell, params, carry, xs))(xs)

    for b in range(2):
        for name, value in rnnjax.trace(cell, params, carry, xs[b]).items():
            np.testing.assert_allclose(traced(xs)[name][b], value, atol=1e-12)


def test_the_state_follows_from_the_traced_gates():
    cell = rnnjax.lstm(3, 4)
    params, carry = made(cell)
    t = rnnjax.trace(cell, params, carry, data(6, 3))
    before = jnp.concatenate([carry.c[None], t["c"][:-1]])
    np.testing.assert_allclose(t["f"] * before + t["i"] * t["g"], t["c"], atol=1e-12)
    np.testing.assert_allclose(t["o"] * jnp.tanh(t["c"]), t["h"], atol=1e-12)


def test_a_cell_without_names_shows_its_carry_and_output():
    cell = rnnjax.recurrence(
        lambda key: (), lambda params: jnp.zeros(()), lambda p, x: x,
        lambda p, c, z: (c + z, -c),
    )  # fmt: skip
    seen = rnnjax.trace(cell, (), jnp.zeros(()), jnp.arange(3.0))
    assert seen.names == ("carry", "y")
    np.testing.assert_array_equal(seen["carry"], [0, 1, 3])


def test_a_trace_prints_as_a_table():
    cell = rnnjax.elman(1, 6)
    params, carry = made(cell)
    zero = jax.tree.map(jnp.zeros_like, params)
    text = str(rnnjax.trace(cell, zero, carry, data(2, 1)))
    assert text.splitlines() == [
        "step                            h",
        "   0  0.000 0.000 0.000 0.000 ...",
        "   1  0.000 0.000 0.000 0.000 ...",
    ]
