"""What one step of a walk costs on a TPU, by its compiler: the scan and the kernel.

    pip install -e ".[aot]"
    JAX_PLATFORMS=cpu python -m benchmarks.tpu_steps

compiles an LSTM's value and cotangent for a v5e, each as the reference's scan and as
the kernel, and prints a Markdown table. Nothing is run, and nothing is timed. Of the
scan the compiler estimates the cycles of every fusion in the loop. Of the kernel it
writes down the schedule, in bundles of instructions: a core starts at most one a cycle.
"""

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import hlo, topologies
from rnnjax.kernels import pallas_tpu, reference
from rnnjax.kernels.equations import ELMAN_TANH, GRU, GRU_BEFORE, LSTM

BATCH, TIME, INPUT = 256, 100, 128
UNITS = (128, 256, 512, 1024)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_IN_THE_INNER_LOOP = re.compile(r"^\s*0x[0-9a-f]+.*?: >> ", re.MULTILINE)


class Step(NamedTuple):
    """One step of all examples.

    Attributes:
      fusions: how many programs the scan runs one after another.
      cycles: what the compiler estimates for them.
      product: the cycles of those that multiply.
      bundles: of the kernel, for all of its tiles.
      moved: bytes that come to the kernel or leave it.
    """

    fusions: int
    cycles: int
    product: int
    bundles: int
    moved: float


def passes(units: int) -> Iterator[tuple[str, list, Callable, Callable]]:
    """The name of a pass, its operands, the scan and the kernel."""
    place = NamedSharding(topologies.mesh("tpu", 1), PartitionSpec())

    def of(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    k, state, steps = 4 * units, of(BATCH, units), of(BATCH, TIME, units)
    flags, w_hh = [of(0, dtype=jnp.bool_)] * 2, of(units, k)
    start = [of(BATCH, TIME, INPUT), of(INPUT, k), w_hh, of(k), state, state]
    back = [of(BATCH, TIME, k), steps, w_hh, *flags, steps, state, state]
    value = {"cell": LSTM, "residuals": True}
    yield (
        "forward",
        [*start, *flags, of(0), of(0)],
        functools.partial(reference.value, hoist=True, **value),
        functools.partial(pallas_tpu.value, **value),
    )
    yield (
        "backward",
        back,
        functools.partial(reference.cotangent, cell=LSTM),
        functools.partial(pallas_tpu.cotangent, cell=LSTM),
    )


def compiled(function, operands) -> hlo.Program:
    """The program for a v5e."""
    with jax.sharding.use_abstract_mesh(topologies.abstract(topologies.mesh("tpu", 1))):
        lowered = jax.jit(function).trace(*operands).lower(lowering_platforms=("tpu",))
    return hlo.read(str(lowered.compile().as_text()))


def step(scan, kernel, operands, schedules: Path) -> Step:
    """Compile both, and read what is to be told of them."""
    program = compiled(scan, operands)
    fusions = [
        (int(found[1]), bool(hlo.products(hlo.inside(program, at))))
        for at in hlo.innermost(program)
        if at.opcode == "fusion" and (found := _CYCLES.search(at.attributes))
    ]
    program = compiled(kernel, operands)
    (call,) = hlo.kernels(program)
    given = set(re.findall(r"%([\w.-]+)", call.operands))
    arrays = [at.shapes for at in hlo.everything(program) if at.name in given]
    moved = sum(shape.bytes for shapes in (*arrays, call.shapes) for shape in shapes)
    last = max(schedules.glob(f"*-{call.name}-[0-9]*-final_bundles.txt"))
    bundles = len(_IN_THE_INNER_LOOP.findall(last.read_text()))
    tiles = BATCH // pallas_tpu.ROWS
    return Step(
        fusions=len(fusions),
        cycles=sum(cycles for cycles, _ in fusions),
        product=sum(cycles for cycles, multiplies in fusions if multiplies),
        bundles=tiles * bundles,
        moved=moved / TIME,
    )


def limits() -> str:
    """The most units that a kernel has, by the VMEM of a core, as Markdown."""
    rows = {"LSTM": (LSTM,), "GRU": (GRU, GRU_BEFORE), "Elman": (ELMAN_TANH,)}
    lines = ["| VMEM of a core | " + " | ".join(rows) + " |", "|---" * 4 + "|"]
    for size in (16, 64, 128):
        most = (
            " / ".join(
                f"{min(pallas_tpu.most_units(c, dtype, size * 2**20) for c in cells):,}"
                for dtype in (jnp.float32, jnp.bfloat16)
            )
            for cells in rows.values()
        )
        lines.append(f"| {size} MiB | " + " | ".join(most) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    print(
        f"jax {jax.__version__}, v5e, float32, B {BATCH}, T {TIME}, I {INPUT}.\n\n"
        "| H | pass | scan, fusions | scan, cycles | of the product | kernel, bundles "
        "| kernel, MB |\n|---:|---|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        # libtpu reads it once, when the first program is compiled.
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        )
        for units in UNITS:
            for name, operands, scan, kernel in passes(units):
                at = step(scan, kernel, operands, Path(folder))
                print(
                    f"| {units:,} | {name} | {at.fusions} | {at.cycles:,} "
                    f"| {at.product:,} | {at.bundles:,} | {at.moved / 1e6:.2f} |",
                    flush=True,
                )
    print(f"\n{limits()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
