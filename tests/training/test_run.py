"""A run in a folder: what it prints, logs and saves, and how it goes on."""

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import regression, regression_data, same_bits, start_of_regression

import rnnjax
from rnnjax import training


class Run:
    """A small LSTM with dropout and a schedule, in a folder."""

    def __init__(self, out: pathlib.Path, epochs: int = 4, config: Any = None):
        cell = rnnjax.stack(rnnjax.lstm(2, 5), rnnjax.dropout(0.3), rnnjax.dense(5, 1))
        schedule = optax.cosine_onecycle_schedule(6 * epochs, 0.05)
        optimizer = optax.chain(optax.clip(1.0), optax.adamw(schedule))
        xs = np.random.default_rng(0).normal(size=(50, 6, 2)).astype(np.float32)
        self.data, self.epochs, self.out = (xs, xs.sum((1, 2))), epochs, out
        self.config = config or {"sizes": (2, 5, 1), "epochs": epochs}

        def loss(params, batch, key):
            xs, targets = batch
            _, ys = rnnjax.unroll(cell, params, xs, key=key)
            return jnp.mean((ys[:, -1, 0] - targets) ** 2), {}

        key = jax.random.key(5)
        self.state = training.init(cell.init(key), optimizer, key)
        self.train = training.epoch(loss, optimizer, batch_size=8)

    def fit(self, resume=False, evaluate=lambda params: {}):
        state, history = self.state, []
        if resume:
            state, history = training.resume(self.out, state, self.config)
        return training.fit(
            self.train,
            state,
            self.data,
            epochs=self.epochs,
            out=self.out,
            config=self.config,
            evaluate=evaluate,
            history=history,
        )


def log(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.mark.float32
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole, history = Run(tmp_path / "whole").fit()
    losses = [record["loss"] for record in history]
    assert losses[-1] < losses[0]

    def interrupt_after(epochs):
        def evaluate(params):
            if len(log(tmp_path / "cut")) == epochs:
                raise KeyboardInterrupt
            return {}

        return evaluate

    with pytest.raises(KeyboardInterrupt) as stopped:
        Run(tmp_path / "cut").fit(evaluate=interrupt_after(1))
    assert "npz has the last full epoch. Go on" in stopped.value.__notes__[0]
    # Killed between its checkpoint and its log.
    (tmp_path / "cut/metrics.jsonl").write_text("")
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "cut").fit(resume=True, evaluate=interrupt_after(3))
    resumed, again = Run(tmp_path / "cut").fit(resume=True)
    same_bits(resumed, whole)
    assert [r["loss"] for r in again] == losses
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


@pytest.mark.float32
def test_finished_run_resumes_to_itself(tmp_path, capsys):
    whole, history = Run(tmp_path, epochs=2).fit(evaluate=lambda params: {"a": 1})
    assert [record["a"] for record in history] == [1.0, 1.0]
    again, same_history = Run(tmp_path, epochs=2).fit(resume=True)
    same_bits(again, whole)
    assert same_history == history
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["compiled", "epoch", "epoch"]
    assert printed[1].startswith("epoch 1/2  loss ")


@pytest.mark.float32
def test_resume_refuses_another_run(tmp_path):
    Run(tmp_path, epochs=1).fit()
    before = (tmp_path / "checkpoint.npz").read_bytes()
    other = Run(tmp_path, epochs=1, config={"sizes": (2, 6, 1), "epochs": 1})
    with pytest.raises(ValueError, match=r"sizes=\[2, 5, 1\]; this one has sizes="):
        other.fit(resume=True)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    for metadata in (["mine"], {"config": 3, "history": []}, {"config": {}}):
        training.save(tmp_path / "checkpoint.npz", Run(tmp_path).state, metadata)
        with pytest.raises(ValueError, match="no config and history"):
            Run(tmp_path).fit(resume=True)


@pytest.mark.float32
def test_more_epochs_of_a_schedule_over_the_whole_run_are_refused(tmp_path):
    Run(tmp_path, epochs=1).fit()
    with pytest.raises(
        ValueError,
        match=r"epochs=1; this one has epochs=3\. A learning rate that falls over the "
        "whole run, such as one cycle, .* cannot be extended. Resume with epochs=1, or "
        "start a new run in another folder",
    ):
        Run(tmp_path, epochs=3).fit(resume=True)


def fit(out, epochs=1, history=(), state=None, optimizer=None, **options):
    """A short run at a constant rate, whose config does not name its epochs."""
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    return training.fit(
        training.epoch(regression, optimizer, batch_size=4),
        start_of_regression(optimizer) if state is None else state,
        regression_data(8),
        epochs=epochs,
        out=out,
        history=history,
        **{"config": {}, **options},
    )


def test_more_epochs_at_a_constant_rate_go_on(tmp_path):
    whole, history = fit(tmp_path / "whole", epochs=5)
    fit(tmp_path / "cut", epochs=2)
    state = start_of_regression(optax.adam(0.1))
    state, begun = training.resume(tmp_path / "cut", state, {})
    assert [record["epoch"] for record in begun] == [1, 2]
    state, extended = fit(tmp_path / "cut", 5, begun, state)
    same_bits(state, whole)
    assert [r["loss"] for r in extended] == [r["loss"] for r in history]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    fit(tmp_path, epochs=2)
    before = files(tmp_path)
    with pytest.raises(
        FileExistsError,
        match=r"checkpoint\.npz holds 2 epochs of another run, which would be lost.*"
        r"rnnjax\.training\.resume, write another folder, or overwrite=True",
    ):
        fit(tmp_path)
    assert files(tmp_path) == before
    _, history = fit(tmp_path, overwrite=True)
    assert len(history) == len(log(tmp_path)) == 1


def test_only_the_run_in_the_folder_goes_on_there(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    state, history = fit(one, epochs=2)
    fit(other, epochs=2, evaluate=lambda params: {"score": np.nan})
    before = files(other)
    with pytest.raises(FileExistsError, match="2 epochs of another run"):
        fit(other, 3, history, state)
    assert files(other) == before
    with pytest.raises(FileExistsError, match="2 epochs of another run"):
        fit(one, 3, history[:1], state)  # it would lose the second epoch
    _, history = fit(one, 3, history, state)
    assert [record["epoch"] for record in log(one)] == [1, 2, 3]
    # A run whose score was NaN goes on as well.
    state = start_of_regression(optax.adam(0.1))
    state, history = training.resume(other, state, {})
    assert len(fit(other, 3, history, state)[1]) == 3


@pytest.mark.parametrize("left", ["a log", "a file of another kind", "params"])
def test_what_else_would_be_lost_is_refused(left, tmp_path):
    if left == "a log":
        fit(tmp_path)
        (tmp_path / "checkpoint.npz").unlink()
    elif left == "params":
        training.save(tmp_path / "checkpoint.npz", jnp.ones(3), {"mine": 1})
    else:
        (tmp_path / "checkpoint.npz").write_bytes(b"mine")
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="would be lost"):
        fit(tmp_path)
    assert files(tmp_path) == before


CONFIGS = {
    "NaN": ({"lr": float("nan")}, r"config\['lr'\] is nan; expected JSON: finite"),
    "infinity within": ({"lr": [0.1, float("inf")]}, r"config\['lr'\] is \[0.1, inf"),
    "NumPy": ({"lr": np.float32(0.1)}, r"config\['lr'\] is .*Write float\(x\)"),
    "JAX": ({"lr": jnp.ones(())}, r"config\['lr'\] is Array.*Write float\(x\)"),
    "path": ({"data": pathlib.Path("a")}, r"config\['data'\] is .*str\(x\)"),
    "number as a name": ({1: 2}, "config has the key 1; expected strings. Write '1'"),
    "list": ([("lr", 0.1)], "config is .*; expected a dict of JSON"),
    "none": (None, "config is None"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_checked_before_anything_runs(name, tmp_path):
    config, sentence = CONFIGS[name]
    with pytest.raises(TypeError, match=sentence):
        fit(tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()
    fit(tmp_path / "out")
    with pytest.raises(TypeError, match=sentence):
        training.resume(tmp_path / "out", start_of_regression(optax.adam(0.1)), config)


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_run_writes_where_its_links_lead(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("checkpoint.npz", "metrics.jsonl"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "disk" / name)
    fit(tmp_path / "out")
    assert all(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert sorted(files(tmp_path / "disk")) == ["checkpoint.npz", "metrics.jsonl"]
    assert len(log(tmp_path / "disk")) == 1


def test_a_folder_in_place_of_the_checkpoint_is_refused_before_training(tmp_path):
    (tmp_path / "checkpoint.npz").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        fit(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_run_stops_where_the_loss_is_not_finite(tmp_path):
    def loss(params, batch, key):
        return params * jnp.where(params < -2, jnp.nan, 1.0), {}

    optimizer = optax.sgd(1.0)
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 2"):
        training.fit(
            training.epoch(loss, optimizer, batch_size=1),
            state,
            jnp.zeros(3),
            epochs=5,
            out=tmp_path,
            config={},
        )
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    _, history = training.resume(tmp_path, state, {})
    assert [record["epoch"] for record in history] == [1]


@pytest.mark.parametrize("enough", [0, 1, 3, 9])
def test_a_run_stops_when_it_is_told_to(enough, tmp_path):
    asked = []

    def stop(history):
        asked.append([record["epoch"] for record in history])
        return len(history) >= enough

    _, history = fit(tmp_path, 5, stop=stop)
    ran = min(enough, 5)
    assert [record["epoch"] for record in history] == list(range(1, ran + 1))
    assert asked == [list(range(1, n + 1)) for n in range(ran + 1)]
    # A run that is over does not go on.
    assert fit(tmp_path, 5, history, stop=stop)[1] == history


def test_a_hook_gets_each_record_once_it_is_saved(tmp_path):
    seen, saved = [], []

    def on_epoch(record):
        seen.append(dict(record))
        line = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
        saved.append(json.loads(line))
        record.clear()  # its own copy: the history stays

    _, history = fit(tmp_path, 2, evaluate=lambda params: {"a": 1}, on_epoch=on_epoch)
    assert seen == saved == history
    state, history = training.resume(tmp_path, start_of_regression(optax.adam(0.1)), {})

    def broken(record):
        raise OSError("no place on the disk of the logger")

    with pytest.raises(OSError, match="of the logger"):
        fit(tmp_path, 4, history, state, on_epoch=broken)
    # That epoch is not lost, and those before it were not reported again.
    state, history = training.resume(tmp_path, start_of_regression(optax.adam(0.1)), {})
    assert [record["epoch"] for record in history] == [1, 2, 3]
    fit(tmp_path, 4, history, state, on_epoch=lambda record: seen.append(record))
    assert [record["epoch"] for record in seen] == [1, 2, 4]


def test_environment_names_what_results_depend_on():
    line = training.environment()
    for part in ("cpu", jax.__version__, np.__version__, rnnjax.__version__):
        assert part in line
