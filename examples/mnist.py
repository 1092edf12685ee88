"""Classify handwritten digits, read row by row: 28 time steps of 28 pixels.

    python examples/mnist.py --data-dir FOLDER --model lstm --hidden 128 --epochs 10

Models: lstm; and four with the sizes, losses and optimizers of TensorFlow 1's
tutorials: stacked (30 and 10 units), bilstm (10 in each direction), deep-bilstm (30 and
10 in each direction) and static (28 units, unrolled without a loop).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import command
import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from rnnjax import training


class Model(NamedTuple):
    """A cell, what is read from its run, and how many features a dense layer gets.

    With ``dense_size=None`` there is no dense layer: what is read are the logits.
    """

    cell: rnnjax.Cell
    read: Callable[[Any, Array], Array]  # (carry, ys: (b, t, k)) -> (b, features)
    dense_size: int | None


class Params(NamedTuple):
    """What is trained."""

    cell: Any
    dense: rnnjax.DenseParams | None


def build(name: str, hidden: int | None, read_out: str) -> Model:
    """The model of that name, with ``hidden`` units in its first layer."""
    if name == "lstm":
        units = hidden or 128
        return Model(rnnjax.lstm(28, units), lambda carry, ys: carry.h, units)
    if name == "static":
        units = hidden or 28
        cell = rnnjax.lstm(28, units, traversal=rnnjax.scan.static)
        return Model(cell, lambda carry, ys: carry.h, units)
    units = hidden or 30
    if name == "stacked":
        cell = rnnjax.stack(rnnjax.lstm(28, units), rnnjax.lstm(units, 10))
        return Model(cell, lambda carry, ys: carry[-1].h, None)
    if name == "bilstm":
        cell = rnnjax.stack(rnnjax.bidirectional(rnnjax.lstm(28, 10), merge=jnp.add))
    else:
        cell = rnnjax.stack(
            rnnjax.bidirectional(rnnjax.lstm(28, units)),
            rnnjax.bidirectional(rnnjax.lstm(2 * units, 10), merge=jnp.add),
        )
    if read_out == "last":
        return Model(cell, lambda carry, ys: ys[:, -1], None)

    def ends(carry, ys):
        forward, backward = carry[-1]
        return jnp.concatenate([forward.h, backward.h], axis=-1)

    return Model(cell, ends, 20)


def init(model: Model, key: Array) -> Params:
    key_cell, key_dense = jax.random.split(key)
    size = model.dense_size
    dense = None if size is None else rnnjax.dense(size, 10).init(key_dense)
    return Params(model.cell.init(key_cell), dense)


def apply(model: Model, params: Params, images: Array) -> Array:
    """Logits ``(b, 10)`` of images ``(b, 28, 28)``, uint8."""
    rows = images.astype(jnp.float32) / 255
    features = model.read(*rnnjax.unroll(model.cell, params.cell, rows))
    if params.dense is None:
        return features
    return features @ params.dense.w + params.dense.b


def functions(model: Model):
    """``logits(params, images)`` and ``loss(params, batch, key)`` of a model."""

    def logits(params, images):
        return apply(model, params, images)

    def loss(params, batch, key):
        predicted = logits(params, batch.images)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            predicted, batch.labels.astype(jnp.int32)
        )
        accuracy = jnp.mean(predicted.argmax(axis=-1) == batch.labels)
        return losses.mean(), {"accuracy": accuracy}

    return logits, loss


def has_cycle(options: argparse.Namespace) -> bool:
    """Whether the rate goes through one cycle: of our models, not the tutorials'."""
    return options.model == "lstm" or options.read_out == "ends"


def optimizer_for(options: argparse.Namespace, updates: int):
    """One cycle of AdamW for our models, and for the tutorials' what they used."""
    rate = options.lr
    if rate is None:
        rate = 1e-2 if has_cycle(options) else 1e-3
    if options.model == "static":
        return optax.rmsprop(rate, decay=0.9)
    if not has_cycle(options):
        return optax.adam(rate)
    schedule = optax.cosine_onecycle_schedule(updates, rate)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1)
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    models = ["lstm", "stacked", "bilstm", "deep-bilstm", "static"]
    add("--model", choices=models, default="lstm")
    add("--hidden", type=command.positive, help="units of the first layer")
    add(
        "--read-out",
        choices=["last", "ends"],
        default="last",
        help="for bilstm and deep-bilstm. last: the logits are the sum of both "
        "directions at the last row; ends: a dense layer reads each direction where "
        "it ends",
    )
    add("--epochs", type=command.positive, default=10)
    add("--batch-size", type=command.positive, default=128)
    add(
        "--lr",
        type=command.nonnegative,
        help="the peak of the cycle (0.01), or the tutorials' rate (0.001)",
    )
    digits.add_folder(parser)
    add("--download", action="store_true", help="fetch MNIST and verify its checksums")
    command.add_run(
        parser,
        "runs/mnist",
        plot="write pictures to --out",
        quick="at most 2 epochs of 2,000 digits",
    )
    options = parser.parse_args(arguments)
    if options.read_out == "ends" and "bilstm" not in options.model:
        parser.error(
            "--read-out ends is for bilstm and deep-bilstm, which have two ends"
        )
    if options.hidden is not None and options.model == "bilstm":
        parser.error("--hidden is not for bilstm: its 10 units are the 10 classes")
    if options.quick:
        options.epochs = min(options.epochs, 2)
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    command.check_out(options)
    print(training.environment())
    data = digits.read(options, download=options.download)
    train, score = data.train, data.score
    print(digits.described(data))
    model = build(options.model, options.hidden, options.read_out)
    updates = len(train.labels) // options.batch_size * options.epochs
    optimizer = optimizer_for(options, updates)
    key_init, key_train = jax.random.split(jax.random.key(options.seed))
    params = init(model, key_init)
    dense = f" · dense {model.dense_size} to 10" if model.dense_size else ""
    count = training.parameter_count(params)
    print(
        f"model {model.cell}{dense} · {count} parameters · batch {options.batch_size}"
    )

    logits, loss = functions(model)
    images, labels = jnp.asarray(score.images), score.labels

    def evaluate(params):
        read = np.asarray(training.predict(logits, params, images)).argmax(axis=-1)
        return {f"{data.scored_on}_accuracy": np.mean(read == labels)}

    state = training.init(params, optimizer, key_train)
    names = ["model", "hidden", "read_out", "batch_size", "lr", "seed"]
    names += ["epochs"] * has_cycle(options)
    config = {name: getattr(options, name) for name in names}
    config["data"] = digits.fingerprint(train)
    state, history = command.begin(options, state, config)
    state, history = training.fit(
        training.epoch(loss, optimizer, batch_size=options.batch_size),
        state,
        train,
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        overwrite=options.overwrite,
    )

    read = np.asarray(training.predict(logits, state.params, images).argmax(axis=-1))
    if data.unlabelled is not None:
        found = training.predict(logits, state.params, jnp.asarray(data.unlabelled))
        path = options.out / "submission.csv"
        digits.write_submission(path, np.asarray(found.argmax(axis=-1)))
        print(f"wrote {path}, {len(data.unlabelled)} rows")
    if options.plot:
        plot(options.out, history, data.scored_on, score, read)
    print(digits.final(data, read, history, began))


def plot(out: Path, history, scored_on: str, score: digits.Images, read) -> None:
    """Draw ``curves.png``, and ``errors.png`` with digits that were misread."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs = [record["epoch"] for record in history]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    axes[0].plot(epochs, [record["loss"] for record in history], label="training")
    axes[0].set(xlabel="epoch", ylabel="loss", yscale="log")
    for name, label in (("accuracy", "training"), (f"{scored_on}_accuracy", scored_on)):
        axes[1].plot(epochs, [100 * record[name] for record in history], label=label)
    axes[1].set(xlabel="epoch", ylabel="accuracy, %")
    axes[1].legend()
    figure.savefig(out / "curves.png", dpi=120)

    (wrong,) = np.nonzero(read != score.labels)
    figure, axes = plt.subplots(3, 8, figsize=(8, 3.8), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, wrong, strict=False):
        axis.imshow(score.images[i], cmap="gray_r")
        axis.set_title(f"{score.labels[i]} read as {read[i]}", fontsize=8)
    figure.savefig(out / "errors.png", dpi=120)
    plt.close("all")
    print(f"wrote {out / 'curves.png'} and {out / 'errors.png'}")


if __name__ == "__main__":
    command.run(parse, main)
