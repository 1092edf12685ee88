"""Classify handwritten digits, read pixel by pixel: 784 time steps of one number.

    python examples/pixels.py --data-dir FOLDER
    python examples/pixels.py --data-dir FOLDER --permuted

The first is known as sequential MNIST. The second reads the pixels in a random order,
the same for all digits, so that what belongs together is far apart. The network is a
stack of residual blocks around a cell, the mean of its outputs over time, and a dense
layer.
"""

import argparse
import time
from collections.abc import Hashable

import command
import digits
import jax
import jax.numpy as jnp
import mnist
import numpy as np
import optax

import rnnjax
from rnnjax import training

CELLS = ("s5", "lru", "rg_lru", "min_gru", "gru", "lem", "cornn")
# What decides how long a state space remembers is trained gently.
TIMESCALES = {"log_decay", "frequency", "log_dt", "eigenvalues", "log_gamma"}


def build(options: argparse.Namespace) -> mnist.Model:
    """A dense layer, the blocks, and the mean of what they put out."""
    size = options.size

    def cell():
        if options.cell == "rg_lru":
            return rnnjax.rg_lru(size)
        if options.cell == "lru":
            # A circle of these angles takes 20 steps or more, a row of pixels 28.
            return rnnjax.lru(
                size,
                options.hidden,
                min_radius=0.9,
                max_radius=0.999,
                max_phase=np.pi / 10,
            )
        return getattr(rnnjax, options.cell)(size, options.hidden)

    blocks = [rnnjax.residual_block(cell(), size) for _ in range(options.blocks)]
    cells = rnnjax.stack(rnnjax.dense(1, size), *blocks)
    return mnist.Model(cells, lambda carry, ys: ys.mean(axis=1), size)


def pixels(images: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Images ``(n, 28, 28)`` as sequences ``(n, 784, 1)`` in that order."""
    return images.reshape(-1, 784, 1)[:, order]


def optimizer_for(options: argparse.Namespace, updates: int):
    """AdamW with a cosine; timescales without decay, at a quarter of the rate."""

    def label(path, _):
        return "slow" if getattr(path[-1], "name", "") in TIMESCALES else "usual"

    def labels(params):
        return jax.tree_util.tree_map_with_path(label, params)

    def schedule(peak):
        return optax.warmup_cosine_decay_schedule(0, peak, updates // 20, updates)

    rules: dict[Hashable, optax.GradientTransformation] = {
        "usual": optax.adamw(schedule(options.lr), weight_decay=0.05),
        "slow": optax.adam(schedule(options.lr / 4)),
    }
    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition(rules, labels))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--permuted", action="store_true", help="read the pixels in a random order")
    add("--cell", choices=CELLS, default="s5")
    add("--size", type=command.positive, default=32, help="features between blocks")
    add("--hidden", type=command.positive, default=32, help="units of a cell")
    add("--blocks", type=command.positive, default=2)
    add("--epochs", type=command.positive, default=4)
    add("--batch-size", type=command.positive, default=50)
    add("--lr", type=command.nonnegative, default=1e-2, help="the peak of the cosine")
    digits.add_folder(parser)
    add("--download", action="store_true", help="fetch MNIST and verify its checksums")
    command.add_run(
        parser,
        "runs/pixels",
        plot="write a picture to --out",
        quick="1 epoch of 100 digits, 1 block of 8 units",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.blocks, options.size, options.hidden = 1, 1, 8, 8
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    command.check_out(options)
    print(training.environment())
    data = digits.read(options, download=options.download, quick=(100, 100))
    print(digits.described(data))
    order = np.arange(784)
    if options.permuted:
        order = np.random.default_rng(0).permutation(order)
    train = data.train._replace(images=pixels(data.train.images, order))
    images = jnp.asarray(pixels(data.score.images, order))

    model = build(options)
    updates = len(train.labels) // options.batch_size * options.epochs
    optimizer = optimizer_for(options, updates)
    keys = jax.random.split(jax.random.key(options.seed), 3)
    dense = rnnjax.dense(options.size, 10).init(keys[1])
    params = mnist.Params(model.cell.init(keys[0]), dense)
    print(f"model {model.cell}, {training.parameter_count(params)} parameters")

    logits, loss = mnist.functions(model)

    def read(params) -> np.ndarray:
        found = training.predict(logits, params, images, batch_size=100)
        return np.asarray(found).argmax(axis=-1)

    def evaluate(params):
        return {
            f"{data.scored_on}_accuracy": np.mean(read(params) == data.score.labels)
        }

    names = ["permuted", "cell", "size", "hidden", "blocks", "epochs", "batch_size"]
    config = {name: getattr(options, name) for name in [*names, "lr", "seed"]}
    config["data"] = digits.fingerprint(data.train)
    state = training.init(params, optimizer, keys[2])
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
    if options.plot:
        path = options.out / "curves.png"
        rnnjax.plot.curves(history).savefig(path)
        print(f"wrote {path}")
    print(digits.final(data, read(state.params), history, began))


if __name__ == "__main__":
    command.run(parse, main)
