"""Sequences of many lengths, each with a class: sktime's ``.ts`` files, or digits."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Sequences(NamedTuple):
    """``xs``: an array ``(t_i, features)`` for each, and ``labels: (n,)`` int32."""

    xs: list[np.ndarray]
    labels: np.ndarray


class Data(NamedTuple):
    """Sequences to train on and others to score on, and the names of the classes.

    ``scored_on`` is "test" for a separate test set, "holdout" for what was held back.
    """

    source: str
    train: Sequences
    score: Sequences
    scored_on: str
    classes: tuple[str, ...]


def load(folder: Path | None) -> Data:
    """The ``_TRAIN.ts`` and ``_TEST.ts`` of a folder, or else scikit-learn's digits.

    Raises:
      OSError: for missing files.
      ValueError: for damaged files. Both say what to do.
    """
    return _digits() if folder is None else _pair(folder)


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """The sequences ``(t_i, dimensions)`` float32 of a ``.ts`` file, and their labels.

    Each line is one sequence: its dimensions, separated by colons, and the label last.
    The values of a dimension are separated by commas. Lengths may differ between lines.

    Raises:
      ValueError: for files without labels, with time stamps or missing values, and
        for damaged ones.
    """
    header, rows = {}, []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            name, _, value = line[1:].partition(" ")
            header[name.lower()] = value.strip().lower()
        elif "data" not in header:
            raise ValueError(
                f"{path}, line {number}, is a sequence above the line @data; expected "
                "all of them below it"
            )
        else:
            rows.append((number, line))
    for name in ("timestamps", "missing"):
        if header.get(name, "false") != "false":
            raise ValueError(
                f"{path} has @{name} {header[name]}; expected false. Write the values "
                "alone, a number at every step."
            )
    if not header.get("classlabel", "false").startswith("true"):
        raise ValueError(
            f"{path} does not say @classLabel true; expected a file with a class for "
            "each sequence"
        )
    xs, labels = [], []
    for number, line in rows:
        *dimensions, label = line.split(":")
        try:
            x = np.array([d.split(",") for d in dimensions], np.float32).T
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, is damaged ({error}); expected dimensions of "
                "equally many numbers, and a label after the last colon"
            ) from error
        expected = int(header.get("dimensions", x.shape[-1]))
        if x.ndim != 2 or x.shape[1] != expected or not np.isfinite(x).all():
            raise ValueError(
                f"{path}, line {number}, has {len(dimensions)} dimensions, or numbers "
                f"that are not finite; expected {expected} dimensions of finite ones"
            )
        xs.append(x)
        labels.append(label.strip())
    if not xs:
        raise ValueError(
            f"{path} has no sequences; expected one on each line below @data"
        )
    return xs, labels


def _pair(folder: Path) -> Data:
    pairs = [
        (path, path.with_name(path.name.replace("_TRAIN.ts", "_TEST.ts")))
        for path in sorted(folder.glob("*_TRAIN.ts"))
    ]
    if len(pairs) != 1 or not pairs[0][1].is_file():
        raise FileNotFoundError(
            f"{folder} has {len(pairs)} files NAME_TRAIN.ts; expected one, and "
            "NAME_TEST.ts beside it, such as those of JapaneseVowels from "
            "timeseriesclassification.com. Leave --data-dir out for scikit-learn's "
            "digits."
        )
    parts = [read_ts(path) for path in pairs[0]]
    classes = tuple(sorted({label for _, labels in parts for label in labels}))
    sizes = {x.shape[1] for xs, _ in parts for x in xs}
    if len(sizes) != 1:
        raise ValueError(
            f"{folder} has sequences of {sorted(sizes)} dimensions; expected the same "
            "number everywhere in both files"
        )
    train, score = (
        Sequences(xs, np.array([classes.index(label) for label in labels], np.int32))
        for xs, labels in parts
    )
    name = pairs[0][0].name.removesuffix("_TRAIN.ts")
    return Data(f"{name} in {folder}", train, score, "test", classes)


def _digits() -> Data:
    """The inked pairs of pixels of each digit in reading order, with their places."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError(
            'no sequences: scikit-learn is not installed. Write pip install "rnnjax'
            '[examples]" for its digits, or --data-dir FOLDER for your own.'
        ) from error
    found: Any = load_digits()
    pairs = np.asarray(found.images, np.float32).reshape(-1, 8, 4, 2) / 16
    at = np.stack(np.meshgrid(np.arange(8) / 7, np.arange(4) / 3, indexing="ij"), -1)
    features = np.concatenate(
        [np.broadcast_to(at, pairs.shape).astype(np.float32), pairs], axis=-1
    )
    inked = np.any(pairs, axis=-1)
    xs = [features[i][inked[i]] for i in range(len(features))]
    labels = np.asarray(found.target, np.int32)
    held = np.zeros(len(xs), bool)
    held[np.random.default_rng(0).permutation(len(xs))[: len(xs) // 5]] = True
    train, score = (
        Sequences([x for x, k in zip(xs, keep, strict=True) if k], labels[keep])
        for keep in (~held, held)
    )
    source = "scikit-learn's 8 x 8 digits, the inked pairs of pixels in reading order"
    return Data(source, train, score, "holdout", tuple("0123456789"))
