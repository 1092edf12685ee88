"""Streams that come and go equal sequences that were there from the beginning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import streaming

CELLS = {
    "lstm": rnnjax.lstm(2, 5),
    "model": rnnjax.stack(
        rnnjax.learned_carry(rnnjax.gru(2, 4)),
        rnnjax.residual(rnnjax.lstm(4, 4)),
        rnnjax.dense(4, 3),
    ),
}


def started(cell, slots):
    params = cell.init(jax.random.key(0))
    draw = np.random.default_rng(0)  # a learned carry that is not zero
    params = jax.tree.map(
        lambda p: p + 0.1 * draw.normal(size=p.shape).astype(p.dtype), params
    )
    return params, streaming.init(cell, params, slots)


def alone(cell, params, xs):
    carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.asarray(xs))
    return carry, ys


def close(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.float32
def test_random_comings_and_goings(name, seed):
    cell, slots, chunk = CELLS[name], 3, 4
    params, streams = started(cell, slots)
    draw = np.random.default_rng(seed)
    given, returned = {}, {}  # what each stream in use has had since it (re)started

    def check(slot):
        if sum(map(len, given[slot])):
            xs = np.concatenate(given[slot])
            close(np.concatenate(returned[slot]), alone(cell, params, xs)[1])

    for _ in range(60):
        free = [slot for slot in range(slots) if slot not in given]
        event = draw.choice(["join", "leave", "reset", "feed", "feed", "feed"])
        if event == "join" and free:
            streams, slot = streaming.join(streams)
            assert slot == free[0]
            given[slot], returned[slot] = [], []
        elif event != "join" and given:
            slot = int(draw.choice(list(given)))
            if event == "leave":
                check(slot)
                streams = streaming.leave(streams, slot)
                del given[slot], returned[slot]
            elif event == "reset":
                check(slot)
                streams = streaming.reset(streams, slot)
                given[slot], returned[slot] = [], []
            else:
                lengths = np.zeros(slots, int)
                lengths[list(given)] = draw.integers(0, chunk + 1, len(given))
                xs = draw.normal(size=(slots, chunk, 2)).astype(np.float32)
                for s in range(slots):
                    xs[s, lengths[s] :] = np.nan  # nobody reads it
                streams, ys = streaming.advance(cell, params, streams, xs, lengths)
                for s in given:
                    given[s].append(xs[s, : lengths[s]])
                    returned[s].append(np.asarray(ys[s, : lengths[s]]))
    for slot in given:
        check(slot)
        if given[slot] and not streams.fresh[slot]:
            here = jax.tree.map(lambda a, slot=slot: a[slot], streams.carry)
            close(here, alone(cell, params, np.concatenate(given[slot]))[0])


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.float32
def test_feed_is_unroll_however_it_is_cut(chunk):
    cell = CELLS["model"]
    params, streams = started(cell, 4)
    draw = np.random.default_rng(0)
    streams, a = streaming.join(streams)
    streams, b = streaming.join(streams)
    xs = {a: draw.normal(size=(9, 2)), b: draw.normal(size=(6, 2))}
    xs = {slot: x.astype(np.float32) for slot, x in xs.items()}
    first = {slot: x[:5] for slot, x in xs.items()}
    rest = {slot: x[5:] for slot, x in xs.items()}
    streams, before = streaming.feed(cell, params, streams, first, chunk=chunk)
    streams, after = streaming.feed(cell, params, streams, rest, chunk=chunk)
    for slot, x in xs.items():
        ys = np.concatenate([before[slot], after[slot]])
        close(ys, alone(cell, params, x)[1])


@pytest.mark.float32
def test_one_program_for_each_chunk_length():
    traced = []
    plain = rnnjax.gru(2, 4)

    def unroll(params, carry, xs, **signals):
        traced.append(xs.shape)
        return plain.unroll(params, carry, xs, **signals)

    cell = dataclasses.replace(plain, unroll=unroll, spec=None)
    params, streams = started(cell, 3)
    for chunk in (1, 8, 1, 8):
        streams, slot = streaming.join(streams)
        xs = np.ones((3, chunk, 2), np.float32)
        streams, _ = streaming.advance(cell, params, streams, xs)
        streams = streaming.reset(streams, slot)
        lengths = np.where(streams.active, 1, 0)
        streams, _ = streaming.advance(cell, params, streams, xs, lengths)
        if chunk == 8:
            streams = streaming.leave(streams, slot)
    assert traced == [(1, 2), (8, 2)]


@pytest.mark.float32
def test_carry_is_donated_and_stays_on_the_device():
    cell = CELLS["lstm"]
    params, streams = started(cell, 2)
    before, _ = streaming.join(streams)
    after, ys = streaming.advance(cell, params, before, np.ones((2, 1, 2), np.float32))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.carry))
    assert all(isinstance(a, jax.Array) for a in jax.tree.leaves((after.carry, ys)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.float32
def test_streams_survive_a_restart(tmp_path):
    cell = CELLS["model"]
    params, streams = started(cell, 2)
    streams, slot = streaming.join(streams)
    xs = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    streams, first = streaming.feed(cell, params, streams, {slot: xs[:5]}, chunk=4)
    rnnjax.training.save(tmp_path / "streams.npz", streams, {})
    again, _ = rnnjax.training.restore(tmp_path / "streams.npz", streams)
    again, other = streaming.join(again)
    again, second = streaming.feed(cell, params, again, {slot: xs[5:]}, chunk=4)
    assert streaming.leave(again, other).active.tolist() == [True, False]
    ys = np.concatenate([first[slot], second[slot]])
    close(ys, alone(cell, params, xs)[1])


def full():
    cell = CELLS["lstm"]
    params, streams = started(cell, 1)
    return cell, params, streaming.join(streams)[0]


def advance(xs, *lengths):
    return streaming.advance(*full(), xs, *lengths)


def used_up():
    cell, params, streams = full()
    for _ in range(2):
        streaming.advance(cell, params, streams, X)


X = np.ones((1, 2, 2), np.float32)
MISUSE = {
    "no slots": (lambda: started(CELLS["lstm"], 0), ValueError, "slots"),
    "full": (lambda: streaming.join(full()[2]), ValueError, "all 1 slots are in use"),
    "leave": (
        lambda: streaming.leave(full()[2], 3),
        ValueError,
        "slot 3 is not in use",
    ),
    "reset": (lambda: streaming.reset(full()[2], -1), ValueError, "slot -1"),
    "one stream": (lambda: advance(X[0]), ValueError, r"\(slots, chunk, ...\)"),
    "other slots": (lambda: advance(np.ones((2, 2, 2))), ValueError, "slots=1"),
    "too long": (lambda: advance(X, [3]), ValueError, "0 to 2"),
    "unused": (
        lambda: streaming.advance(*full()[:2], streaming.leave(full()[2], 0), X, [1]),
        ValueError,
        "slot 0 is not in use",
    ),
    "used up": (used_up, ValueError, "streams was used up by a call before"),
    "nothing to feed": (
        lambda: streaming.feed(*full(), {0: X[0, :0]}, chunk=4),
        ValueError,
        "one step or more",
    ),
    "feed the unused": (
        lambda: streaming.feed(*full(), {1: X[0]}, chunk=4),
        ValueError,
        "slot 1",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
@pytest.mark.float32
def test_misuse(name):
    call, error, sentence = MISUSE[name]
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.float32
def test_a_cell_that_needs_the_future_is_refused():
    cell = rnnjax.stack(rnnjax.bidirectional(rnnjax.gru(2, 3)))
    params, streams = started(cell, 1)
    with pytest.raises(rnnjax.NoStepError, match="still to come"):
        streaming.advance(cell, params, streams, X)
