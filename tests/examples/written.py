"""Digits that are noise with a bright row, in the files of MNIST and of Kaggle."""

import gzip
import struct

import digits
import numpy as np


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


TS = """# a comment
@problemName Made
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true low high
@data
1,2,3:4,5,6:low

7.5,-8:9e1,10:high
"""


def write_ts(folder):
    """Noise of many lengths around a level that is the class."""
    draw = np.random.default_rng(0)
    head = TS.partition("1,2,3")[0].replace("low high", "a b c")
    for part, count in (("TRAIN", 60), ("TEST", 30)):
        rows = []
        for i in range(count):
            x = draw.normal(size=(2, draw.integers(7, 30))) + i % 3
            values = (",".join(f"{v:.4f}" for v in row) for row in x)
            rows.append(":".join([*values, "abc"[i % 3]]))
        (folder / f"Made_{part}.ts").write_text(head + "\n".join(rows) + "\n")
