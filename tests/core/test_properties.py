"""Laws over drawn lengths, chunkings, resets and masks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnjax

TIME, BATCH = 9, 4
CELLS = {
    "lstm": rnnjax.lstm(2, 3),
    "gru": rnnjax.gru(2, 3),
    "stacked": rnnjax.stack(rnnjax.gru(2, 3), rnnjax.elman(3, 2)),
    "bidirectional": rnnjax.bidirectional(rnnjax.lstm(2, 3), rnnjax.gru(2, 2)),
}
CAUSAL = [name for name in CELLS if name != "bidirectional"]
quick = functools.partial(settings, deadline=None, max_examples=25)

lengths = st.lists(st.integers(0, TIME), min_size=BATCH, max_size=BATCH)
flags = st.lists(st.booleans(), min_size=TIME, max_size=TIME)


@functools.cache
def compiled(name):
    cell = CELLS[name]
    params = jax.tree.map(lambda a: a + 0.1, cell.init(jax.random.key(0)))
    return params, jax.jit(functools.partial(cell.unroll, params))


def data(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def close(found, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-12), found, expected
    )


@pytest.mark.parametrize("name", CELLS)
@quick()
@given(lengths=lengths)
def test_lengths_equal_sequences_cut_to_them(name, lengths):
    cell, (params, _) = CELLS[name], compiled(name)
    xs = data(0, BATCH, TIME, 2)
    dirty = jnp.where(
        jnp.arange(TIME)[:, None] < jnp.array(lengths)[:, None, None], xs, jnp.nan
    )
    carry, ys = rnnjax.unroll(cell, params, dirty, lengths=jnp.array(lengths))
    for b, n in enumerate(lengths):
        one = jax.tree.map(lambda a, b=b: a[b], (carry, ys))
        start = cell.initial_carry(params)
        # Nine lengths are nine compilations, shared by all the examples drawn.
        want = compiled(name)[1](start, xs[b, :n]) if n else (start, one[1][:0])
        close((one[0], one[1][:n]), want)
        assert not one[1][n:].any()


@pytest.mark.parametrize("name", CAUSAL)
@quick()
@given(cut=st.integers(1, TIME - 1), mask=flags, reset=flags)
def test_any_chunking_is_the_whole(name, cut, mask, reset):
    params, run = compiled(name)
    xs, mask, reset = data(1, TIME, 2), jnp.array(mask), jnp.array(reset)
    start = CELLS[name].initial_carry(params)
    carry, first = run(start, xs[:cut], mask=mask[:cut], reset=reset[:cut])
    carry, second = run(carry, xs[cut:], mask=mask[cut:], reset=reset[cut:])
    whole = run(start, xs, mask=mask, reset=reset)
    close((carry, jnp.concatenate([first, second])), whole)


@pytest.mark.parametrize("name", CELLS)
@quick()
@given(mask=flags, reset=flags)
def test_resets_and_masks_equal_runs_over_the_segments(name, mask, reset):
    params, run = compiled(name)
    xs, start = data(2, TIME, 2), CELLS[name].initial_carry(params)
    _, ys = run(start, xs, mask=jnp.array(mask), reset=jnp.array(reset))
    valid = np.flatnonzero(mask)
    begins = [i for i, t in enumerate(valid) if reset[t] or i == 0]
    for begin, end in itertools.pairwise([*begins, len(valid)]):
        segment = valid[begin:end]
        close(ys[segment], run(start, xs[segment])[1])
    assert not ys[~np.array(mask)].any()


@pytest.mark.parametrize("name", CAUSAL)
@quick(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_backwards_twice_is_forwards(name, seed):
    cell, (params, run) = CELLS[name], compiled(name)
    twice = rnnjax.reverse(rnnjax.reverse(cell))
    xs, start = data(seed, TIME, 2), cell.initial_carry(params)
    mask = data(seed + 1, TIME) > 0
    close(twice.unroll(params, start, xs, mask=mask), run(start, xs, mask=mask))
