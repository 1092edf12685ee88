"""What the compilers of TPUs and NVIDIA GPUs make of rnnjax, without a chip.

    pip install -e ".[aot]"
    JAX_PLATFORMS=cpu python -m benchmarks.ahead_of_time

compiles each program for one chip and for four, between which the batch is split, and
prints a Markdown table for each platform. Nothing is run, and nothing is timed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import rnnjax
from benchmarks import hlo, topologies
from rnnjax import scan, training

CHIPS = (1, 4)
CLASSES = 10


class Size(NamedTuple):
    """Of every program: examples of a batch, steps, features of an input, units."""

    batch: int
    time: int
    input_size: int
    hidden_size: int


class Program(NamedTuple):
    """A function to compile, its arguments, and what is split between the chips.

    Attributes:
      function: jitted or not.
      arguments: pytrees of shapes.
      split: for each argument, whether axis 0 of its arrays is that of the examples.
        What is not split is on every chip.
      results_split: the same for each result.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    split: tuple[bool, ...]
    results_split: tuple[bool, ...]


def cells(size: Size) -> dict[str, rnnjax.Cell]:
    """The cells that are compiled: three with a kernel, one without, and layers."""
    i, h = size.input_size, size.hidden_size
    return {
        "lstm": rnnjax.lstm(i, h),
        "gru": rnnjax.gru(i, h),
        "elman": rnnjax.elman(i, h),
        # The default on both platforms. It is chosen by what JAX runs on when the
        # program is traced, which is a CPU here.
        "mgu": rnnjax.mgu(i, h, traversal=scan.deferred),
        "bidirectional": rnnjax.stack(
            rnnjax.bidirectional(rnnjax.lstm(i, h), rnnjax.gru(i, h)),
            rnnjax.dense(2 * h, CLASSES),
        ),
    }


def programs(size: Size, mesh: Mesh) -> Iterator[tuple[str, Program]]:
    """Each cell forward and with its gradient, and an epoch of training."""
    for name, cell in cells(size).items():
        ragged = name == "bidirectional"
        yield f"{name} forward", forward(cell, size, ragged=ragged)
        yield f"{name} gradient", gradient(cell, size, ragged=ragged)
    yield "epoch", _epoch(size, mesh)


def forward(cell: rnnjax.Cell, size: Size, *, ragged: bool = False) -> Program:
    """The carry and the outputs of a batch, whose sequences may have lengths."""

    def run(params, xs, lengths=None):
        return rnnjax.unroll(cell, params, xs, lengths=lengths)

    return _of_batch(run, cell, size, ragged, results_split=True)


def gradient(cell: rnnjax.Cell, size: Size, *, ragged: bool = False) -> Program:
    """The mean square of the outputs, and its gradient in the params."""

    def loss(params, xs, lengths=None):
        return jnp.square(rnnjax.unroll(cell, params, xs, lengths=lengths)[1]).mean()

    return _of_batch(jax.value_and_grad(loss), cell, size, ragged, results_split=False)


def _of_batch(
    function: Callable[..., Any],
    cell: rnnjax.Cell,
    size: Size,
    ragged: bool,
    results_split: bool,
) -> Program:
    """A function of params, inputs and, if ragged, lengths, that has two results."""
    given = [
        jax.ShapeDtypeStruct((size.batch, size.time, size.input_size), jnp.float32)
    ]
    if ragged:
        given.append(jax.ShapeDtypeStruct((size.batch,), jnp.int32))
    params = jax.eval_shape(cell.init, jax.random.key(0))
    split = (False, *[True] * len(given))
    return Program(function, (params, *given), split, (results_split,) * 2)


def _epoch(size: Size, mesh: Mesh, batches: int = 4) -> Program:
    """Adam on an LSTM that says a class after the last step."""
    cell = rnnjax.lstm(size.input_size, size.hidden_size)
    read_out = rnnjax.dense(size.hidden_size, CLASSES)

    def loss(params, batch, key):
        xs, classes = batch
        carry, _ = rnnjax.unroll(cell, params[0], xs)
        logits = carry.h @ params[1].w + params[1].b
        given = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
        return given.mean(), {}

    def start(key):
        params = cell.init(key), read_out.init(key)
        return training.init(params, optimizer, key)

    optimizer = optax.adam(1e-3)
    train = training.epoch(loss, optimizer, batch_size=size.batch, mesh=mesh)
    examples = batches * size.batch
    data = (
        jax.ShapeDtypeStruct((examples, size.time, size.input_size), jnp.float32),
        jax.ShapeDtypeStruct((examples,), jnp.int32),
    )
    state = jax.eval_shape(start, jax.random.key(0))
    return Program(train, (state, data), (False, True), (False, False))


def compiled(
    program: Program, mesh: Mesh, options: dict[str, Any] | None = None
) -> jax.stages.Compiled:
    """The program as the compiler of the mesh's chips makes it.

    ``options`` are those of `jax.stages.Lowered.compile`.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_example = NamedSharding(mesh, PartitionSpec("data"))

    def sharding(split):
        return by_example if split else everywhere

    def placed(tree, split):
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding(split)),
            tree,
        )

    run = jax.jit(
        program.function, out_shardings=tuple(map(sharding, program.results_split))
    )
    given = map(placed, program.arguments, program.split)
    # Kernels ask which chip a program is for, and JAX runs on a CPU.
    with jax.sharding.use_abstract_mesh(topologies.abstract(mesh)):
        lowered = run.trace(*given).lower()
    return lowered.compile(options)


class Figures(NamedTuple):
    """What is told of a compiled program, of one chip.

    Attributes:
      loops: how many.
      exchanges: the names of its collectives, and how many of each.
      temporaries: bytes, besides arguments and results.
      accessed: bytes, by the compiler's cost analysis, the body of a loop once; None
        where it has none, as without a GPU.
      flops: by the same.
    """

    loops: int
    exchanges: Counter[str]
    temporaries: int
    accessed: float | None
    flops: float | None


def figures(program: jax.stages.Compiled) -> Figures:
    """Read them from the program."""
    read = hlo.read(str(program.as_text()))
    memory: Any = program.memory_analysis()
    cost = program.cost_analysis() or {}
    return Figures(
        loops=len(hlo.loops(read)),
        exchanges=Counter(name for name, _ in hlo.collectives(read)),
        temporaries=memory.temp_size_in_bytes,
        accessed=cost.get("bytes accessed"),
        flops=cost.get("flops"),
    )


def table(platform: str, size: Size) -> str:
    """The figures of all programs as Markdown."""
    lines = [
        f"jax {jax.__version__}, {topologies.NAMES[platform]}, float32, "
        f"B {size.batch}, T {size.time}, I {size.input_size}, H {size.hidden_size}.",
        "",
        "| program | chips | loops | exchanges | temporaries, MB "
        "| accessed, MB | Mflop |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    meshes = [topologies.mesh(platform, chips) for chips in CHIPS]
    for both in zip(*(programs(size, mesh) for mesh in meshes), strict=True):
        for (name, program), mesh in zip(both, meshes, strict=True):
            at = figures(compiled(program, mesh))
            exchanges = ", ".join(f"{n} {what}" for what, n in at.exchanges.items())
            numbers = (at.temporaries, at.accessed, at.flops)
            lines.append(
                f"| {name} | {mesh.size} | {at.loops} | {exchanges or 'none'} | "
                + " | ".join("-" if n is None else f"{n / 1e6:,.1f}" for n in numbers)
                + " |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ahead_of_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("size", nargs="?", default="256,100,128,512", metavar="B,T,I,H")
    add("--platform", choices=topologies.NAMES, action="append", help="repeatable")
    options = parser.parse_args(arguments)
    if why := topologies.missing():
        parser.error(why)
    size = Size(*map(int, options.size.split(",")))
    for platform in options.platform or topologies.NAMES:
        print(f"\n{table(platform, size)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
