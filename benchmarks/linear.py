"""How near a linear recurrence is to the speed of the memory.

    python -m benchmarks.linear [--rounds 15] [B,T,H ...]

prints a Markdown table: the gigabytes a second of copying an array, by as many threads
as there are cores; of the walk forward and in reverse, which reads two arrays and
writes one; and of the same by prefix scans. The share is that of the copy, in one
process and alternating rounds, of which each figure is the median. The states are
written where what is added stood, so that no new memory is asked for.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks import turns
from rnnjax.kernels import native
from rnnjax.traversals import solver

# batch, time, units: one long sequence, a batch, and what no cache holds.
SIZES = [(1, 65536, 64), (16, 4096, 64), (64, 4096, 128)]


def copying(count: int) -> Callable[[], Any]:
    """Copy so many float32 numbers, each thread its part."""
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    source, target = np.ones(count, np.float32), np.zeros(count, np.float32)
    parts = list(
        zip(
            np.array_split(target, threads),
            np.array_split(source, threads),
            strict=True,
        )
    )
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def walking(
    size: tuple[int, int, int], walk: Callable[..., jax.Array], reverse: bool
) -> Callable[[], Any]:
    """Walk, the states of one round being what is added in the next."""
    batch, steps, units = size
    shape = (batch, steps, units, 1)
    # Small coefficients keep the numbers in range however often it walks.
    a = jax.random.uniform(jax.random.key(0), (*shape, 1), maxval=0.5)
    b = [jax.random.normal(jax.random.key(1), shape)]
    run = (
        jax.jit(functools.partial(walk, reverse=reverse), donate_argnums=1)
        .lower(a, b[0])
        .compile()
    )

    def once():
        b[0] = jax.block_until_ready(run(a, b[0]))

    return once


def measured(size: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Gigabytes a second of each."""
    count = size[0] * size[1] * size[2]
    walk = solver.solver_p.bind
    runs = {
        "copy": (2, copying(count)),
        "forward": (3, walking(size, walk, False)),
        "reverse": (3, walking(size, walk, True)),
        "prefix": (3, walking(size, solver.prefix, False)),
    }
    times = turns.medians([run for _, run in runs.values()], rounds)
    return {
        name: passes * 4 * count / seconds / 1e9
        for (name, (passes, _)), seconds in zip(runs.items(), times, strict=True)
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.linear",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sizes", nargs="*", metavar="B,T,H")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    sizes: Any = [tuple(map(int, size.split(","))) for size in options.sizes]
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, {native.reason()}, float32")
    print("\n| B, T, H | walk | GB/s | of copy |")
    print("|---|---|---:|---:|")
    for size in sizes or SIZES:
        found = measured(size, options.rounds)
        for name, speed in found.items():
            share = speed / found["copy"]
            row = (", ".join(map(str, size)), name, f"{speed:.1f}", f"{share:.2f}")
            print(f"| {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
