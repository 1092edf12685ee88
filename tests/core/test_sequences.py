"""Helpers around sequences: like TensorFlow 1, and blind to what masks leave out."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

TENSORFLOW = {
    key.removeprefix("sequences/"): value
    for key, value in np.load(
        pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz"
    ).items()
    if key.startswith("sequences/")
}
LENGTHS: Any = np.array([5, 2, 0])
MASK = np.arange(5) < LENGTHS[:, None]


def parts(partition):
    table = TENSORFLOW["table"]
    if partition == "mod":
        return [table[i::3] for i in range(3)]
    return np.array_split(table, 3)


ANSWERS = {
    "mask": lambda v: rnnjax.sequence_mask(np.array([[1, 0], [3, 2]]), 4),
    "mask_no_maxlen": lambda v: rnnjax.sequence_mask(np.array([[1, 0], [3, 2]])),
    "boolean": lambda v: rnnjax.boolean_mask(v["value"], v["boolean_mask"]),
    "reverse": lambda v: rnnjax.reverse_sequence(v["value"], LENGTHS),
    "mod": lambda v: rnnjax.embedding_lookup(parts("mod"), v["ids"]),
    "div": lambda v: rnnjax.embedding_lookup(parts("div"), v["ids"], partition="div"),
    "norm": lambda v: rnnjax.embedding_lookup(v["table"], v["ids"], max_norm=1.5),
    "loss": lambda v: rnnjax.sequence_loss(
        v["logits"], v["targets"], v["loss_weights"]
    ),
    "loss_each": lambda v: jax.vmap(rnnjax.sequence_loss)(
        v["logits"], v["targets"], v["loss_weights"]
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_tensorflow_1(name):
    values = {key: jnp.asarray(value) for key, value in TENSORFLOW.items()}
    found = ANSWERS[name](values)
    np.testing.assert_allclose(found, TENSORFLOW[name], rtol=1e-12)
    assert found.dtype == TENSORFLOW[name].dtype


POOLS = {
    "last": (
        lambda ys: rnnjax.last_valid(ys, MASK),
        lambda ys: ys[-1],
    ),
    "mean": (lambda ys: rnnjax.mean_pool(ys, MASK), lambda ys: ys.mean(0)),
    "max": (lambda ys: rnnjax.max_pool(ys, MASK), lambda ys: ys.max(0)),
    "attention": (
        lambda ys: rnnjax.attention_pool(ys, ys[..., 0], MASK),
        lambda ys: (np.exp(ys[:, :1]) * ys).sum(0) / np.exp(ys[:, :1]).sum(0),
    ),
}


@pytest.mark.parametrize(("pool", "plain"), POOLS.values(), ids=POOLS)
def test_pooling_is_that_of_each_sequence_alone(pool, plain):
    ys = np.random.RandomState(0).normal(size=(3, 5, 4)) - 3  # no zero is the largest
    expected = [plain(y[:n]) if n else np.zeros(4) for y, n in zip(ys, LENGTHS)]  # noqa: B905
    polluted = np.where(MASK[..., None], ys, np.nan)
    np.testing.assert_allclose(jax.jit(pool)(polluted), expected)
    gradient = jax.grad(lambda ys: (pool(ys) ** 2).sum())
    clean, dirty = gradient(ys), gradient(polluted)
    np.testing.assert_array_equal(clean, dirty)
    assert (dirty[~MASK] == 0).all()
    assert (clean[0] != 0).any()
    # Any leading axes: one sequence alone, and two batches.
    if pool is POOLS["mean"][0]:
        np.testing.assert_allclose(rnnjax.mean_pool(ys[1], MASK[1]), expected[1])
        two = rnnjax.mean_pool(np.stack([ys, ys]), np.stack([MASK, MASK]))
        np.testing.assert_allclose(two[1], expected)


def test_last_valid_sees_gaps_and_takes_any_tree():
    mask = np.array([[True, False, True, False], [False, True, False, False]])
    steps = np.arange(8).reshape(2, 4)
    found = rnnjax.last_valid({"a": steps, "b": steps[..., None] * 0.5}, mask)
    assert found["a"].tolist() == [2, 5]
    assert found["b"].tolist() == [[1.0], [2.5]]


def test_pack_runs_each_sequence_by_itself_and_unpack_brings_it_back():
    cell = rnnjax.lstm(3, 4)
    params = cell.init(jax.random.key(0))
    xs = np.random.RandomState(1).normal(size=(3, 5, 3))
    _, expected = rnnjax.unroll(cell, params, xs, lengths=LENGTHS)

    def packed(size):
        def run(xs, lengths):
            pack = rnnjax.pack(xs, lengths, size=size)
            _, ys = cell.unroll(
                params,
                cell.initial_carry(params),
                pack.xs,
                reset=pack.reset,
                mask=pack.mask,
            )
            return pack, rnnjax.unpack(ys, lengths, 5)

        return run

    polluted = np.where(MASK[..., None], xs, np.nan)
    pack, ys = packed(None)(polluted, LENGTHS)
    assert pack.xs.shape == (7, 3)
    assert pack.reset.tolist() == [True, *[False] * 4, True, False]
    np.testing.assert_allclose(ys, expected)
    wide, ys = jax.jit(packed(12))(polluted, LENGTHS)
    assert wide.mask.tolist() == [True] * 7 + [False] * 5
    np.testing.assert_allclose(ys, expected)


def test_ragged_to_padded_and_back():
    ragged = [np.ones((n, 2)) * n for n in (3, 0, 1)]
    xs, lengths = rnnjax.pad_sequences(ragged, 4)
    assert xs.shape == (3, 4, 2)
    assert lengths.tolist() == [3, 0, 1]
    back = rnnjax.unpad_sequences(xs, lengths)
    for one, other in zip(back, ragged, strict=True):
        np.testing.assert_array_equal(one, other)


def test_padding_holds_the_value_that_is_asked_for():
    ragged = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    xs, lengths = rnnjax.pad_sequences(ragged, 4, value=np.nan)
    assert xs.dtype == np.float32
    assert (np.isnan(xs).all(-1) == (np.arange(4) >= lengths[:, None])).all()
    tokens, _ = rnnjax.pad_sequences([[5, 6], [7]], value=-1)
    assert tokens.tolist() == [[5, 6], [7, -1]]


def test_buckets_bound_the_number_of_compilations():
    traces = []

    @jax.jit
    def run(xs):
        traces.append(xs.shape)
        return xs.sum()

    for time in range(1, 33):
        xs = rnnjax.pad_to_bucket(np.ones((2, time)), (32, 8, 16))
        assert run(xs) == 2 * time
    assert traces == [(2, 8), (2, 16), (2, 32)]


def test_max_norm_has_a_gradient_at_zero():
    table = jnp.array([[0.0, 0.0], [3.0, 4.0]])

    def loss(table):
        rows = rnnjax.embedding_lookup(table, np.array([0, 1, 1]), max_norm=1.0)
        return rows[:, 0].sum()

    gradient = jax.grad(loss)(table)
    # Of x / |x| at (3, 4): (y², -xy) / |x|³, for two rows.
    expected = [[1.0, 0.0], [2 * 16 / 125, -2 * 12 / 125]]
    np.testing.assert_allclose(gradient, expected)


@pytest.mark.parametrize("partition", ["mod", "div"])
def test_lookup_in_parts_is_lookup_in_the_whole(partition):
    ids = np.array([[0, 6, 3], [7, -1, 2]])
    found = rnnjax.embedding_lookup(parts(partition), ids, partition=partition)
    whole = rnnjax.embedding_lookup(TENSORFLOW["table"], ids)
    np.testing.assert_array_equal(found, whole)
    assert np.isnan(found[1, :2]).all()
    assert not np.isnan(found[0]).any()


def test_two_carries_become_one():
    cell = rnnjax.bidirectional(rnnjax.lstm(3, 4))
    params = cell.init(jax.random.key(0))
    carries, ys = rnnjax.unroll(cell, params, jnp.ones((2, 5, 3)))
    both = rnnjax.concatenate_carries(*carries)
    assert isinstance(both, rnnjax.LSTMCarry)
    np.testing.assert_array_equal(both.h[:, :4], ys[:, -1, :4])
    np.testing.assert_array_equal(both.h[:, 4:], ys[:, 0, 4:])
    decoder = rnnjax.lstm(2, 8)
    params = decoder.init(jax.random.key(1))
    rnnjax.unroll(decoder, params, jnp.ones((2, 3, 2)), carry=both)


MISUSE = {
    "maxlen": (lambda: jax.jit(rnnjax.sequence_mask)(LENGTHS), r"maxlen=xs.shape\[1\]"),
    "size": (
        lambda: jax.jit(rnnjax.boolean_mask)(np.ones((3, 5)), MASK),
        "size=mask.size",
    ),
    "mask": (
        lambda: rnnjax.boolean_mask(np.ones((3, 5)), MASK.T),
        r"expected \(3, 5\)",
    ),
    "floats": (lambda: rnnjax.sequence_mask(np.ones(3)), "astype"),
    "buckets": (lambda: rnnjax.pad_to_bucket(np.ones((2, 9)), (4, 8)), "at least 9"),
    "pad": (lambda: rnnjax.pad_sequences([[1, 2, 3]], 2), "length=3"),
    "padding": (
        lambda: rnnjax.pad_sequences([[1, 2, 3]], value=-0.5),
        r"value is -0.5, and sequences hold int64.*float64",
    ),
    "partition": (
        lambda: rnnjax.embedding_lookup(parts("mod"), 1, partition="modulo"),
        "partition='mod'",
    ),
    "uneven": (
        lambda: rnnjax.embedding_lookup([np.ones((1, 2)), np.ones((3, 2))], 1),
        "even split of 4",
    ),
    "lengths": (lambda: rnnjax.reverse_sequence(np.ones((3, 4)), LENGTHS), "0 to 4"),
    "targets": (
        lambda: rnnjax.sequence_loss(jnp.ones((2, 3, 4)), np.ones((2, 3, 4), int)),
        "one-hot",
    ),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_answered_with_what_to_write(wrong, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        wrong()
