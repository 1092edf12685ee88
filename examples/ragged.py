"""Classify sequences of many lengths with buckets, masks and both directions.

    python examples/ragged.py --plot
    python examples/ragged.py --data-dir FOLDER --plot

FOLDER holds two files in sktime's format, NAME_TRAIN.ts and NAME_TEST.ts, for example
those of JapaneseVowels: nine speakers say the same two vowels, in 7 to 29 frames of 12
coefficients. Without it the digits of scikit-learn are read, as sequences of 12 to 29
inked pairs of pixels.

Each sequence is padded to the length of its bucket and no further. Masks keep the
padding out of everything, so each direction ends where its sequence does, and a dense
layer reads what the two carries hold there.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
import timeseries
from jax import Array

import rnnjax
from rnnjax import training


class Batch(NamedTuple):
    """``xs: (n, t, features)``, ``lengths: (n,)``, ``labels: (n,)``."""

    xs: Any
    lengths: Any
    labels: Any


class Params(NamedTuple):
    """What is trained."""

    cell: Any
    dense: rnnjax.DenseParams


def bucketed(sequences: timeseries.Sequences, buckets: tuple[int, ...]) -> list[Batch]:
    """The sequences of each bucket, padded to its length; no bucket is empty."""
    lengths = np.array([len(x) for x in sequences.xs])
    bounds = (0, *buckets)
    batches = []
    for above, most in zip(bounds[:-1], buckets, strict=True):
        (rows,) = np.nonzero((lengths > above) & (lengths <= most))
        if len(rows):
            chosen = [sequences.xs[row] for row in rows]
            xs, counted = rnnjax.pad_sequences(chosen, most)
            batches.append(Batch(xs, counted, sequences.labels[rows]))
    return batches


def bounds_of(sequences: timeseries.Sequences, count: int) -> tuple[int, ...]:
    """Lengths that divide the sequences into buckets of about the same size."""
    lengths = np.array([len(x) for x in sequences.xs])
    shares = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
    return tuple(sorted({int(length) for length in shares}))


def scaled(data: timeseries.Data) -> timeseries.Data:
    """The data with features of mean 0 and deviation 1 over all training steps."""
    steps = np.concatenate(data.train.xs)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0) + 1e-6

    def scale(part):
        return part._replace(xs=[(x - mean) / deviation for x in part.xs])

    return data._replace(train=scale(data.train), score=scale(data.score))


@rnnjax.constructor
def encoder(
    features: int, hidden: int, *, layers: int = 2, dropout: float = 0.3
) -> rnnjax.Cell:
    """Bidirectional layers with dropout before each."""
    sizes = [features] + [2 * hidden] * (layers - 1)
    parts = []
    for i, size in enumerate(sizes):
        parts.append(rnnjax.dropout(dropout if i else dropout / 3, per="sequence"))
        parts.append(rnnjax.bidirectional(rnnjax.lstm(size, hidden)))
    return rnnjax.stack(*parts)


def logits_of(cell: rnnjax.Cell, params: Params, batch: Batch, key: Array | None):
    """Logits ``(b, classes)``, read where each direction ends."""
    carry, _ = rnnjax.unroll(
        cell, params.cell, batch.xs, lengths=batch.lengths, key=key
    )
    forward, backward = carry[-1]
    ends = jnp.concatenate([forward.h, backward.h], axis=-1)
    return ends @ params.dense.w + params.dense.b


def loss_of(cell: rnnjax.Cell):
    def loss(params, batch, key):
        logits = logits_of(cell, params, batch, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        accuracy = jnp.mean(logits.argmax(axis=-1) == batch.labels)
        return losses.mean(), {"accuracy": accuracy}

    return loss


def bucket_epoch(train, sizes: list[int]):
    """One compiled epoch over all buckets, one after another.

    ``train`` is compiled for the shape of each. Metrics are means over all sequences.
    """
    weights = np.array(sizes) / sum(sizes)

    def run(state, batches):
        found = []
        for batch in batches:
            state, metrics = train(state, batch)
            found.append(metrics)
        return state, jax.tree.map(lambda *m: jnp.dot(weights, jnp.stack(m)), *found)

    return jax.jit(run, donate_argnums=0)


def confusion(labels: np.ndarray, read: np.ndarray, classes: int) -> np.ndarray:
    """How often each label was read as each class: ``counts[label, read]``."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, read), 1)
    return counts


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, help="folder with NAME_TRAIN.ts and NAME_TEST.ts")
    add("--hidden", type=command.positive, default=64, help="units in each direction")
    add("--layers", type=command.positive, default=2)
    add("--dropout", type=command.share, default=0.3)
    add(
        "--buckets", type=command.positive, default=4, help="how many lengths to pad to"
    )
    add("--epochs", type=command.positive, default=60)
    add("--batch-size", type=command.positive, default=16)
    add("--lr", type=command.nonnegative, default=5e-3, help="peak of the cycle")
    command.add_run(
        parser,
        "runs/ragged",
        plot="write pictures to --out",
        quick="3 epochs of a small model",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.hidden = min(options.epochs, 3), min(options.hidden, 32)
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    command.check_out(options)
    print(training.environment())
    with command.refusals(OSError, ValueError):
        data = scaled(timeseries.load(options.data_dir))
    size, classes = data.train.xs[0].shape[1], len(data.classes)
    lengths = [len(x) for part in (data.train, data.score) for x in part.xs]
    print(
        f"data {data.source}: {len(data.train.xs)} sequences to train on, "
        f"{len(data.score.xs)} ({data.scored_on}) to score on, {min(lengths)} to "
        f"{max(lengths)} steps of {size} features, {classes} classes"
    )

    bounds = bounds_of(data.train, options.buckets)
    batches = bucketed(data.train, bounds)
    few = min(len(batch.labels) for batch in batches)
    if few < options.batch_size:
        command.refuse(
            f"--batch-size is {options.batch_size}, and one bucket has only {few} "
            f"sequences; write --batch-size {few} at most, or fewer --buckets"
        )
    # A sequence to score may be longer than all that are trained on.
    scored = bucketed(data.score, tuple(sorted({*bounds, max(lengths)})))
    spent = sum(batch.xs.shape[0] * batch.xs.shape[1] for batch in batches)
    real = sum(len(x) for x in data.train.xs)
    longest = max(len(x) for x in data.train.xs) * len(data.train.xs)
    print(
        f"buckets {', '.join(map(str, bounds))}: {100 * (1 - real / spent):.1f} % of "
        f"the steps are padding; in one bucket {100 * (1 - real / longest):.1f} %"
    )
    cell = encoder(size, options.hidden, layers=options.layers, dropout=options.dropout)
    key_cell, key_dense, key_train = jax.random.split(jax.random.key(options.seed), 3)
    dense = rnnjax.dense(2 * options.hidden, classes)
    params = Params(cell.init(key_cell), dense.init(key_dense))
    print(f"model {cell} · dense · {training.parameter_count(params)} parameters")

    def apply(params, batch):
        return logits_of(cell, params, batch, None)

    def read(params):
        found = [np.asarray(training.predict(apply, params, b)) for b in scored]
        return np.concatenate([logits.argmax(axis=-1) for logits in found])

    labels = np.concatenate([batch.labels for batch in scored])
    name = f"{data.scored_on}_accuracy"

    def evaluate(params):
        return {name: np.mean(read(params) == labels)}

    updates = sum(len(b.labels) // options.batch_size for b in batches) * options.epochs
    schedule = optax.cosine_onecycle_schedule(updates, options.lr)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1)
    )
    train = training.epoch(loss_of(cell), optimizer, batch_size=options.batch_size)
    state = training.init(params, optimizer, key_train)
    names = ("hidden", "layers", "dropout", "buckets", "epochs", "batch_size", "lr")
    config = {n: getattr(options, n) for n in (*names, "seed")}
    config["data"] = f"{data.source}, {real} steps"
    state, history = command.begin(options, state, config)
    state, history = training.fit(
        bucket_epoch(train, [len(batch.labels) for batch in batches]),
        state,
        batches,
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        overwrite=options.overwrite,
    )

    found = read(state.params)
    counts = confusion(labels, found, classes)
    for label, row in zip(data.classes, counts, strict=True):
        read_as = {data.classes[i]: int(n) for i, n in enumerate(row) if n}
        right = f"{read_as.pop(label, 0)}/{row.sum()} right"
        wrong = [f"{n} as {other}" for other, n in read_as.items()]
        print(f"class {label}: {', '.join([right, *wrong])}")
    if options.plot:
        plot(options.out, history, data, counts)
    print(
        f"final {name} {np.mean(found == labels):.4f}  "
        f"errors {np.sum(found != labels)}/{len(labels)}  epochs {len(history)}  "
        f"training {sum(record['seconds'] for record in history):.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


def plot(out: Path, history, data: timeseries.Data, counts: np.ndarray) -> None:
    """Draw ``curves.png``, and ``confusion.png`` with a row for each true class."""
    from matplotlib.figure import Figure

    rnnjax.plot.curves(history).savefig(out / "curves.png")
    size = 2.2 + 0.38 * len(counts)
    figure = Figure(figsize=(size, size - 0.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(counts))
    axes.set(xlabel="read as", ylabel="class", xticks=ticks, yticks=ticks)
    axes.set_xticklabels(data.classes)
    axes.set_yticklabels(data.classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, count, ha="center", va="center", color=color, fontsize=9)
    right = np.trace(counts)
    title = f"{right} of {counts.sum()} ({data.scored_on}) read correctly"
    axes.set_title(title, fontsize=10)
    figure.savefig(out / "confusion.png")
    print(f"wrote {out / 'curves.png'} and {out / 'confusion.png'}")


if __name__ == "__main__":
    command.run(parse, main)
