"""How the settings were chosen: ``python -m benchmarks.sweep --data-dir FOLDER``.

It trains ``examples/mnist.py``'s LSTM with one setting changed at a time, on all
training digits but the last ones, which score it. The test digits are never read.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from rnnjax import training

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class Setting(NamedTuple):
    """What is changed: one cycle of AdamW up to ``rate``, the loss, the inputs."""

    rate: float = 0.01
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0  # before the dense layer
    standardize: bool = False  # pixels of mean 0 and variance 1
    second_moment: float = 0.999


SETTINGS = {
    "peak rate 0.01": Setting(),
    "peak rate 0.005": Setting(rate=0.005),
    "weight decay 0.1": Setting(weight_decay=0.1),
    "label smoothing 0.1": Setting(label_smoothing=0.1),
    "weight decay and label smoothing": Setting(weight_decay=0.1, label_smoothing=0.1),
    "dropout 0.3": Setting(dropout=0.3),
    "pixels of mean 0 and variance 1": Setting(standardize=True),
    "second moment 0.99": Setting(second_moment=0.99),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the four idx files")
    add(
        "--hold-back", type=int, default=10_000, help="how many score (default: 10,000)"
    )
    add("--hidden", type=int, default=128)
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=128)
    add("--seed", type=int, default=0)
    add("--only", choices=SETTINGS, action="append", help="a setting; may be repeated")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(EXAMPLES))
    train = importlib.import_module("digits").load(options.data_dir, download=False)[1]
    count = len(train.labels) - options.hold_back
    if not 0 < options.hold_back < count:
        parser.error(
            f"--hold-back must be positive and leave more than it takes: {count}"
        )
    given = jax.tree.map(lambda a: a[:count], train)
    held_back = jax.tree.map(lambda a: a[count:], train)
    print(training.environment())
    print(f"\n| {count} digits, the next {options.hold_back} score | accuracy |")
    print("| --- | ---: |")
    for name in options.only or SETTINGS:
        reached = accuracy(SETTINGS[name], given, held_back, options)
        print(f"| {name} | {reached:.2%} |", flush=True)
    return 0


def accuracy(
    setting: Setting, train: Any, score: Any, options: argparse.Namespace
) -> float:
    """The share of ``score`` that is read rightly after training on ``train``."""
    cell, dense = rnnjax.lstm(28, options.hidden), rnnjax.dense(options.hidden, 10)
    mean, deviation = 0.0, 1.0
    if setting.standardize:
        pixels = np.asarray(train.images) / 255
        mean, deviation = float(pixels.mean()), float(pixels.std())

    def logits(params, images, key=None):
        rows = (images.astype(jnp.float32) / 255 - mean) / deviation
        carry, _ = rnnjax.unroll(cell, params[0], rows)
        features = carry.h
        if key is not None:
            keep = jax.random.bernoulli(key, 1 - setting.dropout, features.shape)
            features = jnp.where(keep, features / (1 - setting.dropout), 0)
        return features @ params[1].w + params[1].b

    def loss(params, batch, key):
        targets = jax.nn.one_hot(batch.labels, 10)
        smooth = optax.smooth_labels(targets, setting.label_smoothing)
        predicted = logits(params, batch.images, key)
        return optax.softmax_cross_entropy(predicted, smooth).mean(), {}

    updates = len(train.labels) // options.batch_size * options.epochs
    schedule = optax.cosine_onecycle_schedule(updates, setting.rate)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule, b2=setting.second_moment, weight_decay=setting.weight_decay
        ),
    )
    keys = jax.random.split(jax.random.key(options.seed), 3)
    params = (cell.init(keys[0]), dense.init(keys[1]))
    state = training.init(params, optimizer, keys[2])
    epoch = training.epoch(loss, optimizer, batch_size=options.batch_size)
    data = jax.tree.map(jnp.asarray, train)
    for _ in range(options.epochs):
        state, _ = epoch(state, data)
    read = training.predict(logits, state.params, jnp.asarray(score.images))
    return float(np.mean(np.asarray(read).argmax(-1) == score.labels))


if __name__ == "__main__":
    sys.exit(main())
