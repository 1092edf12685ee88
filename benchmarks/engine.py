"""The native engine beside `scan.default` and beside the LSTM's own kernel.

``python -m benchmarks.engine`` prints milliseconds and ratios, forward and with
backward, of an LSTM and of other cells in float32. What is compared runs in turns, so
that other work on the machine meets all of it.
"""

import sys

import jax
import jax.numpy as jnp

import rnnjax
from benchmarks import turns
from rnnjax import kernels, scan

# Batch, steps, inputs and units; --quick takes the first.
SIZES = [
    (16, 200, 16, 64),
    (128, 28, 28, 128),
    (64, 100, 128, 256),
    (1, 1000, 64, 64),
    (16, 1000, 16, 64),
]
CELLS = {
    "lstm": rnnjax.lstm,
    "mgu": rnnjax.mgu,
    "layer_norm_gru": rnnjax.layer_norm_gru,
    "ugrnn": rnnjax.ugrnn,
    "indrnn": rnnjax.indrnn,
    "min_gru": rnnjax.min_gru,
}


def runs(make, traversal, size):
    """The compiled forward pass and gradient of a cell, as calls."""
    batch, time_steps, inputs, units = size
    cell = make(inputs, units, traversal=traversal)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (batch, time_steps, inputs))

    def forward(params, xs):
        carry = cell.initial_carry(params)
        return jax.vmap(lambda xs: cell.unroll(params, carry, xs)[1])(xs)

    def loss(params, xs):
        return jnp.square(forward(params, xs)).sum()

    return [
        lambda f=f: jax.block_until_ready(f(params, xs))
        for f in (jax.jit(forward), jax.jit(jax.grad(loss)))
    ]


def rows(quick):
    """Each row: cell, size, times of the engine and the other, their ratios."""
    for size in SIZES[: 1 if quick else None]:
        for name, make in CELLS.items():
            others = {"scan": scan.default}
            if name == "lstm":
                others["kernel"] = kernels.lstm
            walks = {"engine": kernels.engine, **others}
            made = {walk: runs(make, walks[walk], size) for walk in walks}
            cost = size[0] * size[1] * size[3]
            rounds = 3 if quick else max(5, min(41, 20_000_000 // cost))
            times = []
            for calls in zip(*made.values(), strict=True):
                taken = [1e3 * seconds for seconds in turns.medians(calls, rounds)]
                times.append(dict(zip(walks, taken, strict=True)))
            for other in others:
                pairs = [(t[other], t["engine"]) for t in times]
                yield name, size, other, pairs


def main(arguments):
    """Print the table."""
    print("| B, T, I, H | cell | other | engine ms | other ms | engine is faster |")
    print("|---|---|---|---|---|---|")
    for name, size, other, pairs in rows("--quick" in arguments):
        own = " / ".join(f"{engine:.3g}" for _, engine in pairs)
        theirs = " / ".join(f"{time:.3g}" for time, _ in pairs)
        ratios = " / ".join(f"{time / engine:.2f}" for time, engine in pairs)
        place = ", ".join(map(str, size))
        print(
            f"| {place} | {name} | {other} | {own} | {theirs} | {ratios} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
