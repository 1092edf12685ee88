"""Noise comes from a key alone, and is what its docstrings promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from combinators.running import run

import rnnjax
from rnnjax import LSTMCarry, testing

TIME, INPUT, HIDDEN = 7, 3, 4
WRAPPERS = {
    "zoneout": rnnjax.zoneout(rnnjax.lstm(INPUT, 2), (0.5, 0.1)),
    "dropout": rnnjax.with_dropout(rnnjax.gru(INPUT, 2), inputs=0.3, state=0.3),
    "drop-connect": rnnjax.drop_connect(rnnjax.bidirectional(rnnjax.gru(3, 2)), 0.5),
}


@pytest.mark.parametrize("cell", WRAPPERS.values(), ids=WRAPPERS)
def test_the_contract(cell):
    testing.check_cell(cell, np.ones(INPUT))


def start(cell):
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (TIME, INPUT))
    return params, cell.initial_carry(params), xs


# Cells that draw random numbers, and whether they do so once for a whole sequence.
NOISY = {
    "dropout": (rnnjax.stack(rnnjax.gru(3, 4), rnnjax.dropout(0.5)), False),
    "dropout-sequence": (
        rnnjax.stack(rnnjax.dropout(0.5, per="sequence"), rnnjax.gru(3, 4)),
        True,
    ),
    "everywhere": (
        rnnjax.with_dropout(rnnjax.lstm(3, 4), inputs=0.3, state=0.3, outputs=0.3),
        False,
    ),
    "variational": (
        rnnjax.with_dropout(
            rnnjax.lstm(3, 4), inputs=0.3, state=0.3, outputs=0.3, per="sequence"
        ),
        True,
    ),
    "zoneout": (rnnjax.zoneout(rnnjax.gru(3, 4), 0.4), False),
    "drop-connect": (rnnjax.drop_connect(rnnjax.gru(3, 4), 0.5), True),
    # A wrapper that steps through a cell which draws for a whole sequence.
    "stepped": (
        rnnjax.attention_window(rnnjax.drop_connect(rnnjax.gru(3, 4), 0.5), 3, 4, 2),
        True,
    ),
    "stepped-twice": (
        rnnjax.with_dropout(rnnjax.zoneout(rnnjax.lstm(3, 4), 0.3), state=0.3),
        False,
    ),
}


@pytest.mark.parametrize(("cell", "once"), NOISY.values(), ids=NOISY)
def test_chunks_keep_the_masks_of_a_sequence_and_only_those(cell, once):
    params, carry, xs = start(cell)

    @jax.jit
    def run(carry, xs, sequence, step):
        key = rnnjax.Keys(jax.random.key(sequence), jax.random.key(step))
        return cell.unroll(params, carry, xs, key=key)

    def chunked(sequence, step):
        middle, first = run(carry, xs[:4], 0, 0)
        return np.concatenate([first, run(middle, xs[4:], sequence, step)[1]])

    whole = run(carry, xs, 0, 0)[1]
    if once:
        np.testing.assert_allclose(chunked(0, 1), whole, atol=1e-12)
        assert not np.allclose(chunked(1, 0), whole)
    else:
        assert not np.allclose(chunked(0, 1), chunked(0, 0))
        np.testing.assert_array_equal(chunked(0, 1), chunked(1, 1))


@pytest.mark.parametrize(("cell", "once"), NOISY.values(), ids=NOISY)
def test_a_key_is_what_makes_noise_and_each_example_has_its_own(cell, once):
    del once
    params, _carry, xs = start(cell)

    @functools.partial(jax.jit, static_argnames="noisy")
    def run(key, xs, mask, noisy=True):
        same = jnp.stack([xs] * 4)
        given = {"mask": jnp.stack([mask] * 4), "key": key if noisy else None}
        return rnnjax.unroll(cell, params, same, **given)

    mask = np.arange(TIME) < 5
    _, ys = run(jax.random.key(2), xs, mask)
    again, plain = run(jax.random.key(2), xs, mask), run(None, xs, mask, noisy=False)
    np.testing.assert_array_equal(again[1], ys)
    assert not np.allclose(ys, plain[1])
    assert not np.allclose(ys, ys[:1])
    # A plain key stands for both.
    keys = rnnjax.Keys(jax.random.key(2), jax.random.key(2))
    np.testing.assert_array_equal(run(keys, xs, mask)[1], ys)
    # Padding is inert with noise, too.
    polluted = run(jax.random.key(2), xs.at[5:].set(jnp.nan), mask)
    jax.tree.map(np.testing.assert_array_equal, polluted, again)


def test_dropout_of_state_is_that_of_a_loop_by_hand():
    """Masks are read back from a cell that shows the state that it was given."""
    show = rnnjax.recurrence(
        lambda key: jnp.zeros(()),
        lambda params: LSTMCarry(jnp.ones(500), jnp.ones(500)),
        lambda params, x: x,
        lambda params, carry, z: (LSTMCarry(*map(jnp.ones_like, carry)), (*carry, z)),
    )

    def masks(state, per):
        cell = rnnjax.with_dropout(show, state=state, inputs=0.5, per=per)
        carry = cell.initial_carry(jnp.zeros(()))
        given = {"key": jax.random.key(0)}
        return cell.unroll(jnp.zeros(()), carry, jnp.ones((20, 500)), **given)[1]

    c, h, x = masks(0.25, "step")
    assert (c == 1).all()  # as in TensorFlow, memories are not dropped by a number
    for drawn, rate in ((h, 0.25), (x, 0.5)):
        np.testing.assert_allclose(np.unique(drawn), [0, 1 / (1 - rate)])
        np.testing.assert_allclose((drawn == 0).mean(), rate, atol=0.02)
        assert not (drawn[1:] == drawn[0]).all(1).any()
    assert abs(np.corrcoef(h[0], x[0])[0, 1]) < 0.15
    c, h, x = masks((0.25, 0.5), "sequence")
    for drawn, rate in ((c, 0.25), (h, 0.5), (x, 0.5)):
        np.testing.assert_allclose((drawn == 0).mean(), rate, atol=0.06)
        assert (drawn == drawn[0]).all()
    assert not (h == x).all()


def test_a_clock_among_the_states_goes_on_whatever_is_dropped():
    inner = rnnjax.clockwork(INPUT, 4, periods=(1, 5))
    for cell in (rnnjax.with_dropout(inner, state=0.9), rnnjax.zoneout(inner, 0.9)):
        np.testing.assert_array_equal(run(cell)[0].wait, [0, 0, -TIME % 5, -TIME % 5])


@pytest.mark.parametrize("with_key", [True, False])
def test_zoneout_of_one_freezes_and_of_zero_does_nothing(with_key):
    key = jax.random.key(2) if with_key else None
    for rates in (1.0, (1.0, 0.0), 0.0):
        cell = rnnjax.zoneout(rnnjax.lstm(INPUT, HIDDEN), rates)
        params, _, xs = start(cell)
        before = LSTMCarry(jnp.full(HIDDEN, 0.5), jnp.full(HIDDEN, -0.5))
        after, ys = cell.unroll(params, before, xs, key=key)
        if rates == 1.0:
            np.testing.assert_array_equal(after.h, before.h)
            np.testing.assert_array_equal(ys, np.tile(before.h, (TIME, 1)))
        if rates != 0.0:
            np.testing.assert_array_equal(after.c, before.c)
        else:
            plain = rnnjax.lstm(INPUT, HIDDEN).unroll(params, before, xs)
            jax.tree.map(np.testing.assert_allclose, (after, ys), plain)


def test_zoneout_is_a_loop_by_hand():
    """Krueger et al. 2017, equation 5, the masks taken from what stayed the same."""
    cell, rates = rnnjax.lstm(INPUT, 200), (0.3, 0.6)
    zoned = rnnjax.zoneout(cell, rates)
    params, carry, xs = start(zoned)
    expected, step = carry, jax.jit(cell.step)
    for x in xs:
        c, h = step(params, expected, x)[0]
        expected = LSTMCarry(0.3 * expected.c + 0.7 * c, 0.6 * expected.h + 0.4 * h)
    after, ys = jax.jit(zoned.unroll)(params, carry, xs)
    jax.tree.map(np.testing.assert_allclose, after, expected)
    np.testing.assert_allclose(ys[-1], expected.h)
    key = jax.random.key(3)
    once, _ = zoned.unroll(params, carry, xs[:1], key=key)
    new = step(params, carry, xs[0])[0]
    for name, rate in (("c", 0.3), ("h", 0.6)):
        old, drawn, stepped = (getattr(a, name) for a in (carry, once, new))
        assert ((drawn == old) | np.isclose(drawn, stepped, rtol=1e-12)).all()
        np.testing.assert_allclose((drawn == old).mean(), rate, atol=0.12)


def test_drop_connect_is_dropped_weights_in_a_plain_cell():
    cell = rnnjax.drop_connect(rnnjax.elman(INPUT, 64), 0.25)
    params, *_ = start(cell)
    # The first output after a unit state shows a row of the dropped matrix.
    params = params._replace(w_ih=0 * params.w_ih)
    unit = jnp.zeros(64).at[3].set(1.0)
    for key in map(jax.random.key, range(3)):
        _, ys = cell.unroll(params, unit, jnp.zeros((1, INPUT)), key=key)
        row, kept = np.arctanh(ys[0]), np.asarray(params.w_hh[3])
        dropped = np.isclose(row, 0)
        np.testing.assert_allclose(row[~dropped], kept[~dropped] / 0.75)
        assert 4 <= dropped.sum() <= 30
    with pytest.raises(ValueError, match=r"names is \('w',\).*w_hh"):
        rnnjax.drop_connect(rnnjax.elman(2, 2), 0.5, names=("w",)).init(
            jax.random.key(0)
        )


def test_one_mask_may_serve_a_batch():
    cell = rnnjax.drop_connect(rnnjax.gru(INPUT, HIDDEN), 0.5)
    params, carry, xs = start(cell)
    same = jnp.stack([xs, xs])
    ys = jax.vmap(lambda x: cell.unroll(params, carry, x, key=jax.random.key(0))[1])(
        same
    )
    np.testing.assert_array_equal(ys[0], ys[1])


MISUSE = {
    "per": (lambda: rnnjax.dropout(0.5, per="batch"), "per='sequence'"),
    "rate": (lambda: rnnjax.with_dropout(rnnjax.gru(3, 4), outputs=1.0), "outputs=0.5"),
    "zoneout": (lambda: rnnjax.zoneout(rnnjax.gru(3, 4), 1.5), r"\[0, 1\]"),
    "rates": (
        lambda: run(rnnjax.zoneout(rnnjax.gru(3, 4), (0.1, 0.1))),
        "2 rates for the 1 leaves",
    ),
    "lost-noise": (
        lambda: run(rnnjax.zoneout(rnnjax.drop_connect(rnnjax.gru(3, 4), 0.5), 0.1)),
        "with_dropout",
    ),
    "tokens": (lambda: run(rnnjax.dropout(0.5), np.ones(3, int)), "embedding"),
    "keys": (
        lambda: run(
            rnnjax.dropout(0.5), key=rnnjax.Keys(jax.random.key(0), jnp.array(1))
        ),
        "key.step",
    ),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_answered_with_what_to_write(wrong, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        wrong()
