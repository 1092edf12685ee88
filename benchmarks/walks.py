"""Time and memory of the walks in parallel, each next to the sequential one.

    python -m benchmarks.walks [--rounds 9] [B,T,H ...]

prints two Markdown tables. The first has a cell that is affine in its carry, and next
to our walks `jax.lax.associative_scan` over its coefficients as S5 writes it, and
memax's ``semigroup_scan``, if memax is installed. The second has a GRU by Newton's
method. The milliseconds are medians of alternating rounds, forward / forward and
backward; megabytes are the temporary memory, and Mflop the work, of the compiled
program with the gradient, in which the compiler counts the body of a loop once. What a
walk returns is compared with the sequential one before anything is timed.

With ``--platform tpu`` or ``--platform cuda`` the programs with the gradient are
compiled for a v5e or an H100, in an environment with their compilers (the extra
``aot``) and with ``JAX_PLATFORMS=cpu``. The table has their loops, temporary memory,
and, from the TPU's compiler, bytes and work, the body of a loop once.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import ahead_of_time, topologies, turns
from rnnjax import scan

# batch, time, units
AFFINE = [(1, 256, 64), (1, 4096, 64), (8, 1024, 64), (16, 256, 64)]
NONLINEAR = [(1, 1024, 4), (1, 1024, 16)]
SEQUENTIAL = {"fused": scan.fused, "deferred": scan.deferred}


class Walk(NamedTuple):
    """What it computes: ``(params, xs: (batch, time, 8)) -> ys``."""

    name: str
    run: Callable[[Any, jax.Array], jax.Array]


def unrolled(name: str, cell: rnnjax.Cell) -> Walk:
    """One of our walks."""
    return Walk(name, lambda params, xs: rnnjax.unroll(cell, params, xs)[1])


def _coefficients(params: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Those of a minimal GRU."""
    z, n = jnp.split(xs @ params.w + params.b, 2, -1)
    z = jax.nn.sigmoid(z)
    return 1 - z, z * n


def _operator(first, second):
    return second[0] * first[0], second[0] * first[1] + second[1]


def s5(params: Any, xs: jax.Array) -> jax.Array:
    """The scan as S5 calls it, with JAX's own derivative."""
    scanned = jax.lax.associative_scan(_operator, _coefficients(params, xs), axis=1)
    return scanned[1]


def memax(params: Any, xs: jax.Array) -> jax.Array:
    """The same by memax."""
    scans = importlib.import_module("memax.equinox.scans")

    def one(a, b):
        start = jnp.ones_like(a[0]), jnp.zeros_like(b[0])
        return scans.semigroup_scan(_operator, start, (a, b))[1]

    return jax.vmap(one)(*_coefficients(params, xs))


def affine_cells(size: tuple[int, int, int]) -> dict[str, rnnjax.Cell]:
    """A minimal GRU by each of our walks."""
    _, steps, units = size
    ours = SEQUENTIAL | {
        "associative": scan.associative,
        f"chunked({_root(steps)})": scan.chunked(_root(steps)),
    }
    return {
        name: rnnjax.min_gru(8, units, traversal=walk) for name, walk in ours.items()
    }


def affine_walks(size: tuple[int, int, int]) -> list[Walk]:
    """The walks of a minimal GRU."""
    walks = [unrolled(name, cell) for name, cell in affine_cells(size).items()]
    peers = [Walk("as in S5", s5)]
    if importlib.util.find_spec("memax"):
        peers.append(Walk("memax", memax))
    return walks + peers


def nonlinear_cells(size: tuple[int, int, int]) -> dict[str, rnnjax.Cell]:
    """A GRU by each of our walks."""
    ours = SEQUENTIAL | {
        "newton": scan.newton(),
        "newton, block 16": scan.newton(block=16),
        "newton, diagonal": scan.newton(jacobian="diagonal"),
    }
    return {name: rnnjax.gru(8, size[2], traversal=walk) for name, walk in ours.items()}


def nonlinear_walks(size: tuple[int, int, int]) -> list[Walk]:
    """The walks of a GRU."""
    return [unrolled(name, cell) for name, cell in nonlinear_cells(size).items()]


def _root(steps: int) -> int:
    return max(1, round(steps**0.5))


def measured(walks: list[Walk], params: Any, xs: jax.Array, rounds: int):
    """For each walk: two times in milliseconds, megabytes, and Mflop."""

    def programs(walk):
        def loss(params, xs):
            ys = walk.run(params, xs)
            return jnp.square(ys).mean(), ys

        forward = jax.jit(walk.run)
        both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        return [f.lower(params, xs).compile() for f in (forward, both)]

    compiled = [programs(walk) for walk in walks]
    _agree(walks, [both(params, xs) for _, both in compiled])
    calls = [
        lambda run=run: jax.block_until_ready(run(params, xs))
        for pair in compiled
        for run in pair
    ]
    medians = [1e3 * seconds for seconds in turns.medians(calls, rounds)]
    for pair, (_, both) in zip(
        zip(medians[::2], medians[1::2], strict=True), compiled, strict=True
    ):
        memory: Any = both.memory_analysis()
        cost = both.cost_analysis() or {}
        yield pair, memory.temp_size_in_bytes / 1e6, cost.get("flops", 0) / 1e6


def _agree(walks: list[Walk], results: list[Any]) -> None:
    expected = jax.tree.leaves(results[0])
    for walk, result in zip(walks, results, strict=True):
        for ours, theirs in zip(jax.tree.leaves(result), expected, strict=True):
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-3, atol=1e-4, err_msg=walk.name
            )


def table(cell: str, walks_of, make, sizes, rounds: int) -> None:
    """Print a table of one cell."""
    print(
        f"\n| {cell}: B, T, H | walk | ms | of {next(iter(SEQUENTIAL))} | MB | Mflop |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for size in sizes:
        batch, steps, units = size
        params = make(8, units).init(jax.random.key(0))
        xs = jax.random.normal(jax.random.key(1), (batch, steps, 8))
        walks = walks_of(size)
        first = None
        for walk, (times, megabytes, mflop) in zip(
            walks, measured(walks, params, xs, rounds), strict=True
        ):
            first = first or times
            ms = " / ".join(f"{t:.3g}" for t in times)
            share = " / ".join(
                f"{t / own:.2f}" for t, own in zip(times, first, strict=True)
            )
            row = (f"{batch}, {steps}, {units}", walk.name, ms, share)
            numbers = (f"{megabytes:.2f}", f"{mflop:.2f}")
            print(f"| {' | '.join((*row, *numbers))} |", flush=True)


def ahead_of_time_table(
    cell: str, cells_of, sizes: list[tuple[int, int, int]], platforms: list[str]
) -> None:
    """Print what compilers of other platforms make of the gradients, untimed."""
    print(f"\n| {cell}: B, T, H | chip | walk | loops | MB | accessed, MB | Mflop |")
    print("|---|---|---|---:|---:|---:|---:|")
    for (batch, steps, units), platform in itertools.product(sizes, platforms):
        size = ahead_of_time.Size(batch, steps, 8, units)
        for name, made in cells_of((batch, steps, units)).items():
            program = ahead_of_time.gradient(made, size)
            at = ahead_of_time.figures(
                ahead_of_time.compiled(program, topologies.mesh(platform, 1))
            )
            numbers = (at.temporaries, at.accessed, at.flops)
            row = [f"{batch}, {steps}, {units}", topologies.NAMES[platform], name]
            row += [str(at.loops)]
            row += ["-" if n is None else f"{n / 1e6:,.2f}" for n in numbers]
            print(f"| {' | '.join(row)} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.walks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sizes", nargs="*", metavar="B,T,H")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--platform",
        choices=topologies.NAMES,
        action="append",
        help="compile for it and time nothing; repeatable",
    )
    options = parser.parse_args(arguments)
    sizes: Any = [tuple(map(int, size.split(","))) for size in options.sizes]
    if options.platform:
        if why := topologies.missing():
            parser.error(why)
        print(f"jax {jax.__version__}, float32")
        ways = (sizes or AFFINE[1:3], options.platform)
        ahead_of_time_table("minimal GRU", affine_cells, *ways)
        ways = (sizes or NONLINEAR, options.platform)
        ahead_of_time_table("GRU", nonlinear_cells, *ways)
        return 0
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32; ", end="")
    if importlib.util.find_spec("memax"):
        print(f"memax {importlib.metadata.version('memax')}; ", end="")
    else:
        print("memax is not installed; ", end="")
    print("S5 is on no index, so its call is written here")
    rounds = options.rounds
    table("minimal GRU", affine_walks, rnnjax.min_gru, sizes or AFFINE, rounds)
    table("GRU", nonlinear_walks, rnnjax.gru, sizes or NONLINEAR, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
