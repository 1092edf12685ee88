# pyright: reportOptionalMemberAccess=false
"""Batches, chunks, lengths, compiled steps: using a cell."""

import jax
import jax.numpy as jnp
import numpy as np

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
