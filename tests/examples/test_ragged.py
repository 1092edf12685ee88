"""``examples/ragged.py``: buckets, what it learns, and what it refuses."""

import sys

import numpy as np
import pytest
import ragged
import timeseries
from programs import main, number, refusal, run
from written import write_ts

pytestmark = pytest.mark.float32


def test_ragged_reads_ts_files_and_learns(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_ts(tmp_path)
    arguments = ["--data-dir", tmp_path, "--out", tmp_path, "--hidden", 8, "--plot"]
    arguments += ["--batch-size", 5, "--epochs", 6, "--layers", 1]
    main(ragged, *arguments)
    lines = capsys.readouterr().out.splitlines()
    assert "60 sequences to train on, 30 (test) to score on, 7 to 29 steps" in lines[1]
    assert number("final test_accuracy", lines) > 0.9
    rows = [line for line in lines if line.startswith("class ")]
    assert [line.split(":")[0] for line in rows] == ["class a", "class b", "class c"]
    right = sum(int(line.split()[2].split("/")[0]) for line in rows)
    assert f"errors {30 - right}/30" in lines[-1]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    main(ragged, *arguments, "--resume")
    assert (
        capsys.readouterr().out.splitlines()[-1].split("training")[0]
        == (lines[-1].split("training")[0])
    )


def test_ragged_quick_on_the_digits_of_scikit_learn(tmp_path):
    pytest.importorskip("sklearn")
    lines = run("ragged", "--quick", "--plot", "--out", tmp_path)
    assert "1438 sequences to train on, 359 (holdout) to score on" in lines[1]
    assert "12 to 29 steps of 4 features, 10 classes" in lines[1]
    assert number("final holdout_accuracy", lines) > 0.5
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.npz", "metrics.jsonl", "curves.png", "confusion.png")
    }


def test_buckets_hold_every_sequence_once_and_little_padding():
    draw = np.random.default_rng(0)
    xs = [np.full((length, 1), i) for i, length in enumerate(draw.integers(7, 30, 50))]
    sequences = timeseries.Sequences(xs, np.arange(50, dtype=np.int32))
    bounds = ragged.bounds_of(sequences, 4)
    assert len(bounds) == 4
    seen = []
    for batch, above, most in zip(
        ragged.bucketed(sequences, bounds), (0, *bounds), bounds, strict=False
    ):
        assert batch.xs.shape[1] == most
        assert ((batch.lengths > above) & (batch.lengths <= most)).all()
        for x, length, label in zip(*batch, strict=True):
            np.testing.assert_array_equal(x[:length], xs[label])
            assert not x[length:].any()
        seen += batch.labels.tolist()
    assert sorted(seen) == list(range(50))


def test_confusion_counts_pairs():
    counts = ragged.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_ragged_refuses_in_a_sentence(tmp_path, capsys, monkeypatch):
    given = ["--data-dir", tmp_path, "--out", tmp_path / "out"]
    assert "has 0 files NAME_TRAIN.ts" in refusal(ragged, capsys, *given)
    write_ts(tmp_path)
    said = refusal(ragged, capsys, *given, "--batch-size", 50)
    assert "--batch-size is 50, and one bucket has only" in said
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install" in refusal(ragged, capsys, "--out", tmp_path)
