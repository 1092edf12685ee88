"""How long a training step takes on 1 to 1,024 chips, on paper.

    pip install -e ".[aot]"
    JAX_PLATFORMS=cpu python -m benchmarks.scaling

prints Markdown tables for v5e and H100. What a step computes, moves, launches and
exchanges is what their compilers say; what a chip can do is what its maker publishes.
Nothing is timed. ``docs/many-devices.md`` has the equations and the sources.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import rnnjax
from benchmarks import ahead_of_time, hlo, topologies
from benchmarks.ahead_of_time import Size

LAYERS, UNITS, STEPS = 4, 1024, 256
BATCH = 1024
"""Of all chips together, where they share one; `EACH` where each has its own."""
EACH = 64
CHIPS = (1, 4, 16, 64, 256, 1024)


class Level(NamedTuple):
    """Links that join up to ``chips`` chips, or groups of them.

    Attributes:
      chips: the most that they join.
      bandwidth: bytes a second that a chip sends.
      latency: seconds of one message.
      messages: how many follow one another in an all-reduce of so many.
    """

    chips: int
    bandwidth: float
    latency: float
    messages: Callable[[int], float]


class Chip(NamedTuple):
    """What is published of a chip.

    Attributes:
      flops: of products a second, as it rounds float32 by default.
      bandwidth: bytes a second of its main memory.
      launch: seconds to launch a kernel in a loop.
      exchange: seconds that an exchange takes whatever its size.
      levels: its links, from the inside out.
    """

    flops: float
    bandwidth: float
    launch: float
    exchange: float
    levels: tuple[Level, ...]


def _ring(chips: int) -> float:
    return 2 * (chips - 1)


def _tree(chips: int) -> float:
    return 2 * math.log2(chips)


def _torus(chips: int) -> float:
    """Rings along both axes of a square."""
    return 4 * (math.sqrt(chips) - 1)


MODELS = {
    "tpu": Chip(
        flops=197e12,
        bandwidth=819e9,
        launch=0.0,
        exchange=0.0,
        levels=(
            Level(256, 200e9, 1e-6, _torus),
            Level(2**20, 3.125e9, 10e-6, _tree),
        ),
    ),
    "cuda": Chip(
        flops=494.7e12,
        bandwidth=3.35e12,
        launch=4e-6,
        exchange=8.4e-6,
        levels=(Level(8, 450e9, 3.4e-6, _ring), Level(2**20, 50e9, 8.5e-6, _tree)),
    ),
}


class Line(NamedTuple):
    """A quantity that grows with the batch: ``fixed + each * batch``."""

    fixed: float
    each: float

    def at(self, batch: float) -> float:
        return self.fixed + self.each * batch


class Work(NamedTuple):
    """What one layer does in a training step, forward and backward.

    Attributes:
      time: steps of a sequence.
      flops: outside of the loops over time.
      bytes: outside of the loops over time.
      step_flops: of one step in time.
      step_bytes: of one step in time.
      launches: kernels of one step in time.
      gradients: bytes that all chips add up.
      outputs: bytes of one example that the next layer gets.
    """

    time: int
    flops: Line
    bytes: Line
    step_flops: Line
    step_bytes: Line
    launches: int
    gradients: float
    outputs: float


def layer(chip: Chip, work: Work, batch: float) -> float:
    """Seconds of one layer on one chip."""
    outside = max(
        work.flops.at(batch) / chip.flops, work.bytes.at(batch) / chip.bandwidth
    )
    step = max(
        work.step_flops.at(batch) / chip.flops,
        work.step_bytes.at(batch) / chip.bandwidth,
    )
    return outside + work.time * (step + work.launches * chip.launch)


def exchange(chip: Chip, size: float, chips: int) -> float:
    """Seconds in which so many bytes are added up over all chips.

    Within a level every chip ends up with a part of the sum, which it adds to those of
    the next level; then the parts go back.
    """
    if chips == 1:
        return 0.0
    seconds = chip.exchange
    for level in chip.levels:
        joined = min(chips, level.chips)
        if joined > 1:
            seconds += 2 * (joined - 1) / joined * size / level.bandwidth
            seconds += level.messages(joined) * level.latency
        size, chips = size / joined, chips // joined
    return seconds


def data(chip: Chip, work: Work, batch: float, chips: int) -> float:
    """A training step with ``batch`` examples on each chip, and all layers."""
    compute = LAYERS * layer(chip, work, batch)
    return compute + exchange(chip, LAYERS * work.gradients, chips)


def pipeline(chip: Chip, work: Work, batch: float, chips: int) -> float:
    """The same where each chip has one layer, and time comes in pieces.

    A layer begins with a piece when the one before it has ended the piece, so `LAYERS`
    chips share the examples of as many. The number of pieces is the best one.
    """
    link = chip.levels[0]
    shared = LAYERS * batch
    whole = layer(chip, work, shared)

    def seconds(pieces):
        handed = shared * work.outputs / pieces / link.bandwidth + link.latency
        return (pieces + LAYERS - 1) * (whole / pieces + 2 * handed)

    powers = itertools.takewhile(lambda p: p <= work.time, (2**n for n in range(20)))
    best = min(map(seconds, powers))
    return best + exchange(chip, work.gradients, chips // LAYERS)


def sequence(chip: Chip, work: Work, batch: float, chips: int) -> float:
    """A layer whose time is shared by ``chips`` chips, that of as many batches.

    A chip waits for the carry of the one before it, so what they share comes in pieces
    of the batch. The number of pieces is the best one.
    """

    def seconds(pieces):
        return (pieces + chips - 1) * layer(chip, work, batch * chips / pieces) / chips

    return min(map(seconds, (2**n for n in range(11))))


def from_compiler(platform: str) -> Work:
    """The work of a layer whose inputs are the outputs of another one."""
    cell = rnnjax.lstm(UNITS, UNITS)
    few, many = (_compiled(platform, cell, batch) for batch in (32, 64))

    def line(one, other):
        each = (other - one) / 32
        return Line(one - 32 * each, each)

    # Of the inputs' projection, of both weights' gradients and the inputs'; and in a
    # step of both recurrent products.
    product = 2 * UNITS * 4 * UNITS
    return Work(
        time=STEPS,
        flops=Line(0, 4 * STEPS * product),
        bytes=line(few.outside, many.outside),
        step_flops=Line(0, 2 * product),
        step_bytes=line(few.step, many.step),
        launches=many.launches,
        gradients=_exchanged(platform, cell),
        outputs=4 * STEPS * UNITS,
    )


class _Counted(NamedTuple):
    outside: int
    step: int
    launches: int


def _compiled(platform: str, cell: rnnjax.Cell, batch: int) -> _Counted:
    def loss(params, xs):
        return jnp.square(rnnjax.unroll(cell, params, xs)[1]).mean()

    plain = ahead_of_time.gradient(cell, Size(batch, STEPS, UNITS, UNITS))
    program = plain._replace(function=jax.value_and_grad(loss, (0, 1)))
    made = ahead_of_time.compiled(program, topologies.mesh(platform, 1))
    read = hlo.read(str(made.as_text()))
    bodies = [hlo.body(loop) for loop in hlo.loops(read)]
    return _Counted(
        hlo.moved(read, read.entry),
        sum(hlo.moved(read, body) for body in bodies),
        sum(len(hlo.launched(read, body)) for body in bodies),
    )


def _exchanged(platform: str, cell: rnnjax.Cell) -> int:
    program = ahead_of_time.gradient(cell, Size(32, STEPS, UNITS, UNITS))
    made = ahead_of_time.compiled(program, topologies.mesh(platform, 4))
    found = hlo.collectives(hlo.read(str(made.as_text())))
    return sum(shape.bytes for _, shapes in found for shape in shapes)


def tables(platform: str, chip: Chip, work: Work) -> str:
    """The work of a layer, and a training step on more and more chips, as Markdown."""
    name = topologies.NAMES[platform]

    def mega(line):
        return f"{line.fixed / 1e6:,.1f} + {line.each / 1e6:,.3f} b"

    lines = [
        f"{name}, {LAYERS} LSTMs of {UNITS} units, {STEPS} steps, float32. Of a layer:",
        "",
        "| | in a step in time | outside |",
        "|---|---:|---:|",
        f"| MB moved | {mega(work.step_bytes)} | {mega(work.bytes)} |",
        f"| Mflop | {mega(work.step_flops)} | {mega(work.flops)} |",
        f"| launches | {work.launches} | |",
        f"| MB of gradients | | {work.gradients / 1e6:,.1f} |",
        "",
    ]
    for title, batch in (
        (f"{BATCH} examples for all chips together", lambda n: BATCH / n),
        (f"{EACH} examples for each chip", lambda n: EACH),
    ):
        lines += [
            f"{name}, {title}, milliseconds:",
            "",
            "| chips | examples for each | computing | exchange | efficiency "
            "| layers on chips | time on chips |",
            "|---:|---:|---:|---:|---:|---:|---:|",
        ]
        rate = batch(1) / data(chip, work, batch(1), 1)
        for n in CHIPS:
            b = batch(n)
            both = exchange(chip, LAYERS * work.gradients, n)
            step = data(chip, work, b, n)
            layers = pipeline(chip, work, b, n) if n >= LAYERS else math.nan
            shared = sequence(chip, work, b, 4) if n >= 4 else math.nan
            shared = LAYERS * shared + both
            lines.append(
                f"| {n:,} | {b:,.0f} | {(step - both) * 1e3:,.2f} | {both * 1e3:,.2f} "
                f"| {b / step / rate:.0%} | {_cell(layers)} | {_cell(shared)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:,.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--platform", choices=MODELS, action="append")
    options = parser.parse_args(arguments)
    if why := topologies.missing():
        parser.error(why)
    for platform in options.platform or MODELS:
        work = from_compiler(platform)
        print(tables(platform, MODELS[platform], work), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
