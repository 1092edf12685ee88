# pyright: reportOptionalMemberAccess=false
"""Batches, chunks, streaming, dropout, tracing: using a cell."""

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


def test_a_batch_is_the_single_sequences():
    cell = rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.gru(4, 2))
    params, carry = made(cell)
    xs, reset = data(5, 7, 3), data(5, 7) > 1
    last, ys = rnnjax.unroll(cell, params, xs, reset=reset)
    for b in range(5):
        want = cell.unroll(params, carry, xs[b], reset=reset[b])
        got = jax.tree.map(lambda a, b=b: a[b], (last, ys))
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-12),
                     got, want)  # fmt: skip


def test_the_carry_of_a_batch_goes_on_with_the_next_chunk():
    cell = rnnjax.lstm(3, 4)
    params, _ = made(cell)
    xs, lengths = data(4, 10, 3), jnp.array([10, 3, 6, 0])
    carry, first = rnnjax.unroll(
        cell, params, xs[:, :6], lengths=jnp.minimum(lengths, 6)
    )
    carry, second = rnnjax.unroll(
        cell, params, xs[:, 6:], carry=carry, lengths=jnp.maximum(lengths - 6, 0)
    )
    last, ys = rnnjax.unroll(cell, params, xs, lengths=lengths)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), ys, atol=1e-12)
    np.testing.assert_allclose(carry, last, atol=1e-12)
    np.testing.assert_array_equal(last.c[3], 0)


def test_lengths_and_mask_both_count():
    cell = rnnjax.gru(3, 4)
    params, _ = made(cell)
    xs, mask, lengths = data(2, 7, 3), data(2, 7) > 0, jnp.array([5, 2])
    both = mask & (jnp.arange(7) < lengths[:, None])
    found = rnnjax.unroll(cell, params, xs, mask=mask, lengths=lengths)
    want = rnnjax.unroll(cell, params, xs, mask=both)
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_a_reset_of_a_batch_may_bring_its_own_carry():
    cell = rnnjax.gru(3, 4)
    params, _ = made(cell)
    start = data(2, 4)
    xs, where = data(2, 7, 3), jnp.zeros((2, 7), bool).at[:, 0].set(True)
    found = rnnjax.unroll(cell, params, xs, reset=rnnjax.Reset(where, start))
    want = rnnjax.unroll(cell, params, xs, carry=start)
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_time_major_is_a_vmap():
    cell = rnnjax.gru(3, 4)
    params, carry = made(cell)
    xs = data(7, 2, 3)
    time_major = jax.vmap(cell.unroll, (None, None, 1), (0, 1))
    _, ys = time_major(params, carry, xs)
    _, want = rnnjax.unroll(cell, params, jnp.swapaxes(xs, 0, 1))
    np.testing.assert_allclose(jnp.swapaxes(ys, 0, 1), want, atol=1e-12)


def test_an_ensemble_is_a_vmap_over_params():
    cell = rnnjax.lstm(3, 4)
    xs = data(2, 7, 3)
    ensemble = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 3))
    ys = jax.vmap(lambda p: rnnjax.unroll(cell, p, xs)[1])(ensemble)
    for i in range(3):
        member = jax.tree.map(lambda a, i=i: a[i], ensemble)
        want = rnnjax.unroll(cell, member, xs)[1]
        np.testing.assert_allclose(ys[i], want, atol=1e-12)


def test_streaming_a_compiled_step_is_the_unroll():
    cell = rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.dense(4, 1))
    params, carry = made(cell)
    xs, traces = data(9, 3), []

    @jax.jit
    def step(params, carry, x):
        traces.append(None)
        return cell.step(params, carry, x)

    last, ys = cell.unroll(params, carry, xs)
    for x, y in zip(xs, ys, strict=True):
        carry, streamed = step(params, carry, x)
        np.testing.assert_allclose(streamed, y, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), carry, last)
    assert len(traces) == 1


def test_static_unroll_is_a_python_loop_that_sees_numbers():
    seen = []

    def watch(h):
        seen.append(float(h.sum()))
        return h

    cell = rnnjax.stack(rnnjax.gru(3, 4), rnnjax.pointwise(watch))
    params, carry = made(cell)
    xs, mask = data(6, 3), jnp.array([1, 1, 0, 1, 1, 0]) == 1
    last, ys = rnnjax.static_unroll(cell, params, carry, xs, mask=mask)
    assert len(seen) == 6
    inner = cell.spec.cells[0]
    want = inner.unroll(params[0], carry[0], xs, mask=mask)
    np.testing.assert_allclose(ys, want[1], atol=1e-12)
    np.testing.assert_allclose(last[0], want[0], atol=1e-12)


def test_params_decide_the_dtype_and_inputs_follow():
    cell = rnnjax.lstm(3, 4)
    params, _ = made(cell)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    carry, ys = rnnjax.unroll(cell, half, data(2, 7, 3))
    assert {a.dtype for a in (*carry, ys)} == {jnp.dtype(jnp.bfloat16)}


# Dropout


def test_dropout_needs_a_key_and_keeps_the_mean():
    cell = rnnjax.dropout(0.25)
    ones = jnp.ones((500, 40))
    assert (cell.unroll((), (), ones)[1] == 1).all()
    _, ys = cell.unroll((), (), ones, key=jax.random.key(0))
    assert set(np.unique(ys).round(6)) == {0.0, round(4 / 3, 6)}
    np.testing.assert_allclose(ys.mean(), 1, atol=0.02)
    # steps and features are dropped apart from each other
    np.testing.assert_allclose(ys.mean(0).std(), np.sqrt(1 / 3 / 500), rtol=0.3)


def test_every_example_and_every_layer_drops_its_own():
    cell = rnnjax.stack(rnnjax.dropout(0.5), rnnjax.dropout(0.5))
    xs = jnp.ones((2, 50, 8))
    _, ys = rnnjax.unroll(cell, ((), ()), xs, key=jax.random.key(0))
    assert (ys[0] != ys[1]).any()
    np.testing.assert_allclose((ys != 0).mean(), 0.25, atol=0.06)
    _, again = rnnjax.unroll(cell, ((), ()), xs, key=jax.random.key(0))
    np.testing.assert_array_equal(ys, again)


def test_dropout_leaves_padding_at_zero_and_nan_out():
    cell = rnnjax.stack(rnnjax.gru(3, 4), rnnjax.dropout(0.5), rnnjax.gru(4, 2))
    params, carry = made(cell)
    mask = jnp.arange(7) < 4
    dirty = jnp.where(mask[:, None], data(7, 3), jnp.nan)

    def loss(params, xs):
        key = jax.random.key(1)
        return cell.unroll(params, carry, xs, mask=mask, key=key)[1].sum()

    grads = jax.grad(loss, (0, 1))(params, dirty)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(grads))
    assert not grads[1][4:].any()


# Combinators


def test_bidirectional_reads_ragged_sequences_from_their_own_end():
    forward, backward = rnnjax.lstm(3, 4), rnnjax.gru(3, 2)
    cell = rnnjax.bidirectional(forward, backward)
    params, _ = made(cell)
    xs, lengths = data(3, 7, 3), (5, 7, 1)
    (f, b), ys = rnnjax.unroll(cell, params, xs, lengths=jnp.array(lengths))
    for i, n in enumerate(lengths):
        hf, yf = forward.unroll(params[0], forward.initial_carry(params[0]), xs[i, :n])
        hb, yb = backward.unroll(
            params[1], backward.initial_carry(params[1]), xs[i, :n][::-1]
        )
        want = jnp.concatenate([yf, yb[::-1]], 1)
        np.testing.assert_allclose(ys[i, :n], want, atol=1e-12)
        np.testing.assert_allclose(f.h[i], hf.h, atol=1e-12)
        np.testing.assert_allclose(b[i], hb, atol=1e-12)


def test_merge_decides_how_directions_meet():
    cell = rnnjax.bidirectional(rnnjax.gru(3, 4), merge=jnp.add)
    wide = rnnjax.bidirectional(rnnjax.gru(3, 4))
    params, carry = made(cell)
    xs = data(7, 3)
    ys, both = (c.unroll(params, carry, xs)[1] for c in (cell, wide))
    np.testing.assert_allclose(ys, both[:, :4] + both[:, 4:], atol=1e-12)


def test_a_learned_carry_gets_a_gradient_from_start_and_resets():
    cell = rnnjax.learned_carry(rnnjax.bidirectional(rnnjax.gru(3, 4)))
    params, _ = made(cell)
    xs, where = data(6, 3), jnp.array([0, 0, 0, 1, 0, 0]) == 1

    def loss(carry, reset):
        given = params._replace(carry=carry)
        return cell.unroll(given, cell.initial_carry(given), xs, reset=reset)[1].sum()

    once = jax.grad(loss)(params.carry, jnp.zeros(6, bool))
    twice = jax.grad(loss)(params.carry, where)
    for a, b in zip(once, twice, strict=True):
        assert (a != 0).all()
        assert (a != b).all()


def test_an_unknown_token_is_seen_as_nan():
    cell = rnnjax.embedding(5, 2)
    params, carry = made(cell)
    _, ys = cell.unroll(params, carry, jnp.array([4, 5, -1]))
    np.testing.assert_array_equal(jnp.isnan(ys).all(1), [False, True, True])


# Seeing values


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
