"""Runs over an iterator of batches: read ahead, saved with its place, and resumed."""

import itertools
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import regression, regression_data, same_bits, start_of_regression

from rnnjax import training

OPTIMIZER = optax.adam(0.1)
XS, YS = map(np.asarray, regression_data(64))


class Drawn:
    """Batches drawn by their number, which is the state of the iterator."""

    def __init__(self, as_bytes):
        self.number, self.as_bytes = 0, as_bytes

    def __iter__(self):
        return self

    def __next__(self):
        rows = np.random.default_rng(self.number).integers(0, 64, 8)
        self.number += 1
        return XS[rows], YS[rows]

    def get_state(self):
        return str(self.number).encode() if self.as_bytes else {"next": self.number}

    def set_state(self, state):
        self.number = int(state) if self.as_bytes else state["next"]


def fit(out, batches, epochs, *, steps=3, resume=False, train=None):
    state, history = start_of_regression(OPTIMIZER), []
    if resume:
        data = batches if hasattr(batches, "get_state") else None
        state, history = training.resume(out, state, {}, data=data)
    train = train or training.epoch(regression, OPTIMIZER, batch_size=4)
    return training.fit(
        train,
        state,
        batches,
        epochs=epochs,
        out=out,
        config={},
        steps=steps,
        history=history,
    )


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_resumed_run_sees_the_same_batches_bit_for_bit(as_bytes, tmp_path):
    whole, history = fit(tmp_path / "whole", Drawn(as_bytes), 4)
    fit(tmp_path / "cut", Drawn(as_bytes), 1)
    batches = Drawn(as_bytes)
    resumed, again = fit(tmp_path / "cut", batches, 4, resume=True)
    assert batches.number == 12
    same_bits(resumed, whole)
    assert [r["loss"] for r in again] == [r["loss"] for r in history]


def test_an_epoch_is_the_loop_over_its_items(tmp_path):
    """Each item has two batches, so one epoch of three items makes six updates."""
    train = training.epoch(regression, OPTIMIZER, batch_size=4)
    expected, losses = start_of_regression(OPTIMIZER), []
    for batch in itertools.islice(Drawn(True), 3):
        expected, metrics = train(expected, batch)
        losses.append(float(metrics["loss"]))
    state, history = fit(tmp_path, Drawn(True), 1)
    same_bits(state, expected)
    assert int(state.step) == 6
    np.testing.assert_allclose(history[0]["loss"], np.mean(losses), rtol=1e-12)


def test_any_iterator_will_do_and_is_read_no_further_than_needed(tmp_path):
    read = itertools.count()

    def generated():
        for number in itertools.count():
            assert next(read) == number
            yield XS[:8], YS[:8]

    _, history = fit(tmp_path, generated(), 2)
    assert len(history) == 2
    assert next(read) == 6
    # It has no state, so a resumed run gets what it is given.
    _, history = fit(tmp_path, zip([XS] * 3, [YS] * 3, strict=True), 3, resume=True)
    assert len(history) == 3


def test_the_next_batch_is_read_while_an_update_runs(tmp_path):
    """Each update ends only when the batch after it was read."""
    steps = 4
    read = [threading.Event() for _ in range(steps)]
    in_time = []

    def numbered():
        for number in range(steps):
            read[number].set()
            yield np.full(4, float(number))

    def wait_for_the_next(batch):
        following = min(int(batch[0]) + 1, steps - 1)
        in_time.append(read[following].wait(timeout=20))

    def loss(params, batch, key):
        jax.debug.callback(wait_for_the_next, batch)
        return jnp.mean((batch - params) ** 2), {}

    training.fit(
        training.epoch(loss, OPTIMIZER, batch_size=4),
        training.init(jnp.zeros(()), OPTIMIZER, jax.random.key(0)),
        numbered(),
        epochs=1,
        out=tmp_path,
        config={},
        steps=steps,
    )
    assert in_time == [True] * steps


def test_a_bar_counts_steps(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    fit(tmp_path, Drawn(True), 2)
    said = capsys.readouterr()
    assert "/6 [" in said.err
    assert "step/s" in said.err or "s/step" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == [
        *("compiled", "epoch", "epoch")
    ]


@pytest.mark.float32
def test_a_loader_of_grain_goes_on(tmp_path):
    grain = pytest.importorskip("grain")

    def loader():
        sampler = grain.samplers.IndexSampler(64, shuffle=True, seed=0)
        return iter(
            grain.DataLoader(
                data_source=list(zip(XS, YS, strict=True)),
                sampler=sampler,
                operations=[grain.transforms.Batch(8, drop_remainder=True)],
            )
        )

    def data_set():
        records = grain.MapDataset.source(list(zip(XS, YS, strict=True)))
        return iter(records.shuffle(seed=0).repeat().batch(8).to_iter_dataset())

    for name, batches in (("loader", loader), ("set", data_set)):
        whole, _ = fit(tmp_path / f"{name} whole", batches(), 4)
        fit(tmp_path / name, batches(), 1)
        resumed, _ = fit(tmp_path / name, batches(), 4, resume=True)
        same_bits(resumed, whole)


class WithState:
    def __init__(self, state):
        self.state = state

    def __iter__(self):
        return self

    def __next__(self):
        return XS[:8], YS[:8]

    def get_state(self):
        return self.state


def trained_over(out, batches=None):
    fit(out, Drawn(True) if batches is None else batches, 1)


def resume(out, **options):
    training.resume(out, start_of_regression(OPTIMIZER), {}, **options)


MISUSES = {
    "no iterator": (
        lambda out: fit(out, [(XS, YS)], 1),
        TypeError,
        r"data is a list, and steps=3 is for an iterator\. Write iter\(data\)",
    ),
    "no steps at all": (
        lambda out: fit(out, Drawn(True), 1, steps=0),
        ValueError,
        "steps is 0",
    ),
    "another state": (
        lambda out: fit(out, WithState({1: 2}), 1),
        TypeError,
        r"get_state\(\) returned \{1: 2\}; expected bytes, or what JSON",
    ),
    "an array as a state": (
        lambda out: fit(out, WithState({"next": np.int64(3)}), 1),
        TypeError,
        "expected bytes, or what JSON",
    ),
    "resumed without": (
        lambda out: [trained_over(out), resume(out)],
        ValueError,
        r"written by a run over an iterator.*resume\(out, state, config, data=batches",
    ),
    "resumed with another": (
        lambda out: [trained_over(out), resume(out, data=iter([]))],
        TypeError,
        "which has no set_state",
    ),
    "resumed with one too many": (
        lambda out: [
            trained_over(out, itertools.cycle([(XS, YS)])),
            resume(out, data=Drawn(True)),
        ],
        ValueError,
        "written by a run without an iterator that has a state.*Leave data out",
    ),
}


@pytest.mark.parametrize(("call", "error", "sentence"), MISUSES.values(), ids=MISUSES)
def test_a_refusal_says_what_to_write(call, error, sentence, tmp_path):
    with pytest.raises(error, match=f"(?s){sentence}"):
        call(tmp_path / "out")


def test_the_place_of_each_process():
    from rnnjax.training.batches import place_of_process

    places = [{"json": 1}, {"json": 2}]
    assert place_of_process(places, 1, 2) == {"json": 2}
    assert place_of_process(places[:1] * 4, 1, 2) == {"json": 1}
    with pytest.raises(ValueError, match=r"in each of 2 processes.*this run has 1"):
        place_of_process(places, 0, 1)
