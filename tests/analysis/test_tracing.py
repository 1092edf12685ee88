# pyright: reportOptionalMemberAccess=false
"""Every value of every step by name."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan


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
    found = rnnjax.trace(cell, params, carry, xs, **given)
    assert found.names == names
    _, ys = cell.unroll(params, carry, xs, **given)
    last = [found[n] for n in names if n.split(".")[-1] in "hy"]
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
    found = rnnjax.trace(cell, (), jnp.zeros(()), jnp.arange(3.0))
    assert found.names == ("carry", "y")
    np.testing.assert_array_equal(found["carry"], [0, 1, 3])


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


def seen(cell, xs=None, **given):
    params, carry = made(cell)
    xs = data(6, 3) if xs is None else xs
    trace = rnnjax.trace(cell, params, carry, xs, **given)
    return trace, cell.unroll(params, carry, xs, **given)[1]


def test_a_trace_is_a_mapping():
    trace, ys = seen(rnnjax.gru(3, 4))
    assert isinstance(trace, Mapping)
    assert list(trace) == list(trace.keys()) == ["r", "z", "n", "h"]
    assert len(trace) == 4
    assert "h" in trace
    assert "gate" not in trace
    assert trace.get("gate") is None
    assert [value.shape for value in trace.values()] == [(6, 4)] * 4
    found = dict(trace)
    assert dict(trace.items()) == found
    assert found["h"] is trace["h"]
    np.testing.assert_allclose({**trace}["h"], ys, atol=1e-12)
    with pytest.raises(KeyError, match="'gate' is not in this trace"):
        trace["gate"]
    doubled = jax.tree.map(lambda a: 2 * a, trace)
    assert list(doubled) == list(trace)
    np.testing.assert_array_equal(doubled["h"], 2 * trace["h"])


@rnnjax.constructor
def residual(size):
    """A user's, whose name is taken."""
    return rnnjax.stack(rnnjax.elman(3, size), rnnjax.elman(size, size))


@rnnjax.constructor
def around(cell):
    return residual_of(rnnjax.stack(cell, rnnjax.dense(4, 3)))


@rnnjax.constructor
def residual_of(cell):
    return rnnjax.residual(cell)


@rnnjax.constructor
def pair(encoder, decoder):
    """A combinator of plain functions, of which no table knows."""
    both = rnnjax.stack(encoder, decoder)
    return rnnjax.Cell(both.init, both.initial_carry, both.step, both.unroll)


@rnnjax.constructor
def twice(cell):
    """The same cell with the same params, and two carries."""

    def initial_carry(params):
        return (cell.initial_carry(params),) * 2

    def through(walk, params, carry, x):
        first, x = walk(params, carry[0], x)
        second, x = walk(params, carry[1], x)
        return (first, second), x

    def step(params, carry, x):
        return through(cell.step, params, carry, x)

    def unroll(params, carry, xs, **signals):
        walk = functools.partial(cell.unroll, **signals)
        return through(walk, params, carry, xs)

    return rnnjax.Cell(cell.init, initial_carry, step, unroll)


@rnnjax.constructor
def stepped(cell):
    """The cell's steps in a loop that no other module knows."""

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        return jax.lax.scan(functools.partial(cell.step, params), carry, xs)

    return rnnjax.Cell(cell.init, cell.initial_carry, cell.step, unroll)


E, F = rnnjax.elman(3, 3), rnnjax.elman(3, 4)
NESTED = rnnjax.stack(rnnjax.stack(E, E), rnnjax.bidirectional(rnnjax.stack(E, E)))

OPENED = {
    "a_name_that_is_taken": (residual(4), ("0.h", "1.h")),
    "your_constructors": (around(F), ("0.h", "1.y")),
    "your_combinator": (pair(E, F), ("encoder.h", "decoder.h")),
    "in_a_combinator": (
        rnnjax.stack(pair(E, E), E), ("0.encoder.h", "0.decoder.h", "1.h")
    ),
    "twice": (twice(E), ("h", "h (2)")),
    "loop": (stepped(rnnjax.stack(E, F)), ("0.h", "1.h")),
    "skip_stack": (rnnjax.skip_stack(E, rnnjax.elman(6, 4)), ("0.h", "1.h")),
    "zoneout": (
        rnnjax.zoneout(rnnjax.stack(E, F), 0.1),
        ("0.h", "1.h", "carry.0", "carry.1"),
    ),
    "dropout": (rnnjax.with_dropout(rnnjax.stack(E, F), state=0.3), ("0.h", "1.h")),
    "drop_connect": (rnnjax.drop_connect(rnnjax.stack(E, F), 0.3), ("0.h", "1.h")),
    "highway": (rnnjax.highway(E, 3), ("h", "gate")),
    "attention": (
        rnnjax.attention(rnnjax.stack(rnnjax.elman(8, 3), E), 3, 5, (6, 2)),
        ("0.h", "1.h", "q", "e", "alignment", "attention"),
    ),
    "one_name_twice": (
        rnnjax.attention_window(rnnjax.intersection_rnn(3), 3, 5, 2),
        ("gh", "nh", "gy", "ny", "h", "cell.y", "alignment", "y"),
    ),
    "nested": (
        NESTED,
        ("0.0.h", "0.1.h", "1.forward.0.h", "1.forward.1.h", "1.backward.0.h",
         "1.backward.1.h"),
    ),
    "initial_carry": (
        rnnjax.with_initial_carry(E, lambda key: (), lambda _: jnp.ones(3)), ("h",)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("cell", "names"), OPENED.values(), ids=OPENED)
@pytest.mark.parametrize("key", [None, jax.random.key(1)], ids=["plain", "key"])
def test_every_combinator_is_opened(cell, names, key):
    trace, _ = seen(cell, key=key)
    assert trace.names == names
    assert {len(value) for value in trace.values()} == {6}


@pytest.mark.float32
@pytest.mark.parametrize(("cell", "names"), OPENED.values(), ids=OPENED)
def test_the_native_loop_hides_no_names(cell, names):
    """A combinator may walk by it in float32, the users' default."""
    assert seen(cell)[0].names == names


# The cell, and the names whose values are the output, side by side.
NOISY = {
    "noise": (rnnjax.leaky_rnn(3, 4, noise=0.5), ("r",)),
    "dropout": (rnnjax.stack(E, rnnjax.dropout(0.5)), ("1.y",)),
    "outputs": (rnnjax.stack(rnnjax.with_dropout(E, inputs=0.5), F), ("1.h",)),
    "state": (rnnjax.with_dropout(rnnjax.stack(E, F), state=0.5), ("1.h",)),
    "both": (
        rnnjax.with_dropout(
            rnnjax.stack(rnnjax.dropout(0.5), rnnjax.leaky_rnn(3, 4, noise=1.0)),
            state=0.5,
        ),
        ("1.r",),
    ),
    "weights": (rnnjax.drop_connect(rnnjax.lstm(3, 4), 0.5), ("h",)),
    "zoneout": (rnnjax.zoneout(F, 0.5), ("carry",)),
    "zoneout_of_two": (rnnjax.zoneout(rnnjax.lstm(3, 4), (0.5, 0.3)), ("carry.h",)),
    "directions": (
        rnnjax.bidirectional(rnnjax.with_dropout(E, state=0.5)),
        ("forward.h", "backward.h"),
    ),
    "attention": (
        rnnjax.attention(
            rnnjax.with_dropout(rnnjax.elman(8, 4), inputs=0.5), 3, 5, (6, 2)
        ),
        ("attention",),
    ),
}


@pytest.mark.parametrize(("cell", "names"), NOISY.values(), ids=NOISY)
@pytest.mark.parametrize("signals", [False, True])
def test_with_a_key_values_are_those_of_unroll(cell, names, signals):
    given = {}
    if signals:
        given["mask"] = jnp.array([1, 1, 0, 1, 1, 0]) == 1
        given["reset"] = jnp.array([0, 1, 0, 0, 1, 0]) == 1
    trace, ys = seen(cell, key=jax.random.key(3), **given)
    found = jnp.concatenate([trace[name] for name in names], 1)
    np.testing.assert_allclose(found, ys, atol=1e-12)
    plain, _ = seen(cell, **given)
    assert plain.names == trace.names
    assert not np.allclose(found, jnp.concatenate([plain[n] for n in names], 1))


def test_your_own_random_cell_is_seen_at_every_step():
    plain = rnnjax.leaky_rnn(3, 4, noise=0.5)
    # Without a spec, and compiled by itself.
    cell = rnnjax.Cell(
        plain.init,
        plain.initial_carry,
        plain.step,
        lambda params, carry, xs, **given: jax.jit(plain.unroll)(
            params, carry, xs, **given
        ),
    )
    key, mask = jax.random.key(3), jnp.array([1, 1, 0, 1, 1, 0]) == 1
    expected, _ = seen(plain, key=key, mask=mask)
    trace, _ = seen(cell, key=key, mask=mask)
    for name in ("v", "r"):
        np.testing.assert_allclose(trace[name], expected[name], atol=1e-12)

    def init(key):
        return ()

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        noise = 0.0 if key is None else jax.random.normal(key, (len(xs),))
        return walked.unroll(params, carry, xs[:, 0] + noise, mask=mask)

    walked = rnnjax.recurrence(
        init, lambda params: jnp.zeros(()), lambda p, x: x, lambda p, c, z: (c + z, -c)
    )

    def step(params, carry, x):
        return walked.step(params, carry, x[0])

    nameless = rnnjax.Cell(init, walked.initial_carry, step, unroll)
    trace, ys = seen(nameless, key=key)
    assert trace.names == ("carry", "y")
    np.testing.assert_allclose(trace["y"], ys, atol=1e-12)
    np.testing.assert_allclose(trace["carry"][:-1], -ys[1:], atol=1e-12)


@pytest.mark.parametrize(
    "walk", [scan.fused, scan.hoisted, scan.deferred, scan.checkpointed, scan.static],
    ids=lambda walk: walk.__name__,
)  # fmt: skip
@pytest.mark.parametrize("time", [1, 3, 7])
def test_names_are_seen_in_every_traversal(walk, time):
    def project(w, x):
        rnnjax.observe(z=x * w)
        return x * w

    def step(w, h, z):
        rnnjax.observe(h=z + h)
        return z + h, z + h

    def make(walk):
        return rnnjax.recurrence(
            lambda key: jnp.arange(1.0, 4), lambda params: 0 * params, project, step,
            traversal=walk,
        )  # fmt: skip

    xs = data(time, 3)
    for key in (None, jax.random.key(0)):
        trace, ys = seen(make(walk), xs, key=key)
        assert set(trace) == {"z", "h"}
        np.testing.assert_allclose(trace["z"], xs * jnp.arange(1.0, 4), atol=1e-12)
        np.testing.assert_allclose(trace["h"], ys, atol=1e-12)


def test_a_jitted_step_is_looked_into():
    @jax.jit
    def step(w, h, z):
        rnnjax.observe(h=z + h)
        return z + h, z + h

    cell = rnnjax.recurrence(
        lambda key: (), lambda params: jnp.zeros(3), lambda p, x: x, step
    )
    trace, ys = seen(rnnjax.stack(cell, cell))
    assert trace.names == ("0.h", "1.h")
    np.testing.assert_allclose(trace["1.h"], ys, atol=1e-12)


def test_gradients_pass_through_a_trace():
    cell = rnnjax.stack(E, rnnjax.zoneout(F, 0.1))
    params, carry = made(cell)
    xs = data(6, 3)

    def last(params):
        return rnnjax.trace(cell, params, carry, xs)["1.carry"][-1].sum()

    def same(params):
        return cell.unroll(params, carry, xs)[1][-1].sum()

    found, expected = jax.grad(last)(params), jax.grad(same)(params)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_wrong_key_is_refused():
    with pytest.raises(TypeError, match="expected a typed random key"):
        seen(rnnjax.gru(3, 4), key=1)
