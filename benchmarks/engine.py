"""The native engine beside `jax.lax.scan`, and beside the kernels written by hand.

``python -m benchmarks.engine`` prints milliseconds and ratios, forward and with
backward, of all cells in float32, and then the geometric means of the ratios by cell
and by workload. What is compared runs in turns, so that other work on the machine meets
all of it. ``--cells mgu,ltc --workloads A,D`` chooses. ``--keep-memory`` leaves out
what fresh memory costs, see `rnnjax.kernels.keep_memory`. ``--quick`` takes small
sizes, to see that all runs.
"""

import argparse
import collections
import functools
import statistics
import time

import jax
import jax.numpy as jnp

import rnnjax
from benchmarks import turns, workloads
from rnnjax import kernels, scan

# Batch, steps, inputs and units: those of one layer in `benchmarks.compare`.
WORKLOADS = {
    letter: (case.batch, case.time, case.inputs, case.hidden)
    for letter in "ABCDEFG"
    for case in workloads.WORKLOADS[letter].groups(("lstm",), False)[0]
}
QUICK = (2, 5, 4, 4)

# What both times of a call are to take, at most and about.
SECONDS = 1.0


@rnnjax.constructor
def leaky(input_size, hidden_size, *, traversal=scan.default):
    """The cell of twelve lines in the documentation of own cells."""

    def init(key):
        return rnnjax.initializers.recurrent_weights(key, input_size, hidden_size, 1)

    return rnnjax.recurrence(
        init,
        lambda params: jnp.zeros(hidden_size),
        lambda params, x: x @ params[0],
        lambda params, h, z: (h := 0.9 * h + 0.1 * jnp.tanh(z + h @ params[1]),) * 2,
        traversal=traversal,
        input_shape=(input_size,),
    )


# Cells of an input and a hidden size, with what else they ask for.
BY_NAME = {
    "lstm": {},
    "gru": {},
    "elman": {},
    "full_lstm": {"peepholes": True, "projection_size": 32},
    "layer_norm_elman": {},
    "layer_norm_gru": {},
    "mgu": {},
    "ugrnn": {},
    "indrnn": {},
    "indy_lstm": {},
    "indy_gru": {},
    "sru": {},
    "nas": {},
    "phased_lstm": {},
    "glstm": {"groups": 1},
    "grid_lstm": {"layers": 2},
    "min_gru": {},
    "min_lstm": {},
    "lru": {},
    "s5": {},
    "slstm": {},
    "mlstm": {"heads": 2},
    "gated_linear_attention": {"heads": 2},
    "delta_net": {"heads": 2},
    "gated_delta_net": {"heads": 2},
    "cornn": {},
    "antisymmetric_rnn": {},
    "lipschitz_rnn": {},
    "lem": {},
    "echo_state": {},
    "leaky_rnn": {},
    "dale_rnn": {},
    "low_rank_rnn": {"rank": 4},
    "cfc": {},
    "ltc": {},
    "unitary": {},
}
# Those whose inputs are as wide as they are.
OF_ONE_SIZE = ("intersection_rnn", "rg_lru", "s4d", "selective_ssm")
# Those that take the time since the last step beside an input.
TIMED = ("phased_lstm", "cfc", "ltc")

# The kernels of three cells, and what is held against what: how far a kernel written by
# hand leaves the scan behind says what can be asked of the engine.
BY_HAND = {"lstm": kernels.lstm, "gru": kernels.gru, "elman": kernels.elman_tanh}
PAIRS = ("engine", "scan"), ("engine", "kernel"), ("kernel", "scan")

CELLS = {"leaky": leaky} | {
    name: functools.partial(getattr(rnnjax, name), **arguments)
    for name, arguments in (BY_NAME | {key: {} for key in OF_ONE_SIZE}).items()
}


def runs(name, traversal, size):
    """The compiled forward pass and gradient of a cell, as calls."""
    batch, time_steps, inputs, units = size
    sizes = (inputs, units)
    if name in OF_ONE_SIZE:
        inputs, sizes = units, (units,)
    cell = CELLS[name](*sizes, traversal=traversal)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (batch, time_steps, inputs))
    if name in TIMED:
        xs = xs, jnp.ones((batch, time_steps))

    def forward(params, xs):
        carry = cell.initial_carry(params)
        return jax.vmap(lambda xs: cell.unroll(params, carry, xs)[1])(xs)

    def loss(params, xs):
        ys = jax.tree.leaves(forward(params, xs))
        return sum(jnp.square(y).sum() for y in ys)

    return [
        lambda f=f: jax.block_until_ready(f(params, xs))
        for f in (jax.jit(forward), jax.jit(jax.grad(loss)))
    ]


def rounds(calls):
    """As many as fit into `SECONDS`, but three."""
    for call in calls:
        call()
    start = time.perf_counter()
    for call in calls:
        call()
    return max(3, min(41, int(SECONDS / (time.perf_counter() - start))))


def compared(name, size):
    """Milliseconds forward and with backward, by walk."""
    walks = {"engine": scan.default, "scan": scan.by_scan}
    if name in BY_HAND:
        walks["kernel"] = BY_HAND[name]
    made = [runs(name, walk, size) for walk in walks.values()]
    times = [turns.medians(calls, rounds(calls)) for calls in zip(*made, strict=True)]
    return {
        walk: [1e3 * seconds for seconds in pair]
        for walk, pair in zip(walks, zip(*times, strict=True), strict=True)
    }


def pair(numbers, digits):
    """Forward and with backward, in a cell of the table."""
    return " / ".join(f"{number:{digits}}" for number in numbers)


def mean(ratios):
    """The geometric means of pairs, how many are below 1 and of how many."""
    columns = list(zip(*ratios, strict=True))
    below = [sum(ratio < 1 for ratio in column) for column in columns]
    means = pair(map(statistics.geometric_mean, columns), ".2f")
    return f"{means} | {pair(below, 'd')} | {len(ratios)}"


def main(arguments=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.keep_memory and not kernels.keep_memory():
        parser.error(
            "--keep-memory needs a C library that can be told so, as glibc can"
        )
    sizes = {name: WORKLOADS[name] for name in chosen.workloads.split(",")}
    if chosen.quick:
        sizes = {"quick": QUICK}
    faster = collections.defaultdict(list)
    print("| cell | workload | walk | ms | other | ms | faster |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen.cells.split(","):
        for workload, size in sizes.items():
            times = compared(name, size)
            for walk, other in PAIRS:
                if not {walk, other} <= times.keys():
                    continue
                own, theirs = times[walk], times[other]
                ratios = [b / a for a, b in zip(own, theirs, strict=True)]
                row = [walk, pair(own, ".3g"), other, pair(theirs, ".3g")]
                row = [name, workload, *row, pair(ratios, ".2f")]
                print("|", " | ".join(row), "|", flush=True)
                for what in (name, workload, "all"):
                    faster[walk, other, what].append(ratios)
    print("\n| walk | other | of | faster | below 1 | rows |")
    print("|---|---|---|---|---|---|")
    for names, ratios in faster.items():
        print("|", " | ".join(names), "|", mean(ratios), "|")


if __name__ == "__main__":
    main()
