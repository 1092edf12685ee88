"""The native engine beside `scan.default` and beside the LSTM's own kernel.

``python -m benchmarks.engine`` prints milliseconds and ratios, forward and with
backward, of an LSTM and of other cells in float32. What is compared runs in turns, so
that other work on the machine meets all of it.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp

import rnnjax
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
    """The forward pass and the gradient of a cell, compiled, and their arguments."""
    batch, time_steps, inputs, units = size
    cell = make(inputs, units, traversal=traversal)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (batch, time_steps, inputs))

    def forward(params, xs):
        carry = cell.initial_carry(params)
        return jax.vmap(lambda xs: cell.unroll(params, carry, xs)[1])(xs)

    def loss(params, xs):
        return jnp.square(forward(params, xs)).sum()

    return [jax.jit(forward), jax.jit(jax.grad(loss))], (params, xs)


def median_times(calls, rounds):
    """The median time of each call in milliseconds, all of them in turns."""
    for fun, given in calls:
        jax.block_until_ready(fun(*given))
    times = [[] for _ in calls]
    for _ in range(rounds):
        for kept, (fun, given) in zip(times, calls, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(fun(*given))
            kept.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(kept) for kept in times]


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
            times = {}
            for part in range(2):
                calls = [(funs[part], given) for funs, given in made.values()]
                times[part] = dict(zip(walks, median_times(calls, rounds), strict=True))
            for other in others:
                pairs = [(t[other], t["engine"]) for t in times.values()]
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
