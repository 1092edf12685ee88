"""What kernels take of a GPU, and what a step launches and moves there, without one.

    pip install -e ".[aot]"
    JAX_PLATFORMS=cpu python -m benchmarks.resources

compiles for an H100 and prints two Markdown tables. The first has the registers and the
shared memory of the Pallas kernels; registers are those that NVIDIA's assembler gives,
ptxas. The second has what the loops over time launch and move in each step. Nothing is
run, and nothing is timed.
"""

import argparse
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import rnnjax
from benchmarks import ahead_of_time, hlo, topologies
from benchmarks.ahead_of_time import Size
from rnnjax import scan
from rnnjax.kernels import equations, pallas, reference
from rnnjax.kernels.equations import Equations

CELLS = {"lstm": equations.LSTM, "gru": equations.GRU}
UNITS = (64, 128, 256)
DTYPES = (jnp.float32, jnp.bfloat16)
LOOP_UNITS = (64, 256, 1024)
EXAMPLES, STEPS = 16, 32
# So that also what does not fit gets as far as the compiler.
ANY = sys.maxsize

# XLA's defaults, which the flags of a test run may have changed.
OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}

_GPU = topologies.H100["gpu_device_info"]


class Kernel(NamedTuple):
    """What one kernel takes of a multiprocessor.

    Attributes:
      name: of the function in `rnnjax.kernels.pallas`.
      threads: of a block.
      registers: of a thread.
      spilled: bytes of a thread that are written to memory for want of registers.
      shared: bytes of shared memory, of a block.
    """

    name: str
    threads: int
    registers: int
    spilled: int
    shared: int

    @property
    def blocks(self) -> int:
        """How many blocks one multiprocessor holds at a time."""
        # Registers are given to a warp in portions of 256, and every block has 1 KiB
        # of shared memory that belongs to the system.
        registers = -(-self.registers // 8) * 8 * self.threads
        return min(
            _GPU["registers_per_core_limit"] // registers,
            _GPU["shared_memory_per_core"] // (self.shared + 1024),
            _GPU["threads_per_core_limit"] // self.threads,
        )

    @property
    def occupancy(self) -> float:
        """The share of the threads that a multiprocessor could hold."""
        return self.blocks * self.threads / _GPU["threads_per_core_limit"]


class TooLarge(RuntimeError):
    """A kernel asks for more shared memory than there is."""


def assembler() -> str | None:
    """NVIDIA's assembler: from the package nvidia-cuda-nvcc, or from CUDA itself."""
    spec = util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for f in folders for path in Path(f).glob("cu*/bin/ptxas")]
    return str(found[0]) if found else shutil.which("ptxas")


def missing() -> str:
    """What is not installed, as a sentence; empty if all is there."""
    if why := topologies.missing():
        return why
    return "" if assembler() else 'no ptxas: pip install -e ".[aot]"'


def kernels(
    cell: Equations, hidden_size: int, dtype: Any, *, signals: bool = False
) -> list[Kernel]:
    """The kernels of a layer, forward and backward, compiled for an H100.

    ``signals`` are a mask and resets.

    Raises:
      TooLarge: the compiler refuses one.
    """
    operands = _operands(cell, hidden_size, dtype, signals)
    run = functools.partial(pallas.value, cell=cell, residuals=True, within=ANY)
    ys, *rest = jax.eval_shape(
        functools.partial(reference.value, cell=cell, residuals=True), *operands
    )
    last, (saved, *before) = rest[: cell.carries], rest[cell.carries :]
    at = reference.name_operands(cell, operands)
    known = (saved, *before[: cell.reads], at.w_hh, at.mask, at.reset)
    back = functools.partial(pallas.cotangent, cell=cell, within=ANY)
    return [*_compile(run, operands), *_compile(back, (*known, ys, *last))]


def _operands(
    cell: Equations, h: int, dtype: Any, signals: bool
) -> list[jax.ShapeDtypeStruct]:
    """Those of the value primitive."""
    k, rows = cell.columns * h, (EXAMPLES, STEPS)
    weights = [(h, k), (h, k), (k,), *([] if cell.joined else [(h,)])]
    carry = [(EXAMPLES, h)] * cell.carries
    floats = [(*rows, h), *weights, *carry]
    flags = [jax.ShapeDtypeStruct(rows if signals else (0,), bool)] * 2
    restart = carry if signals else [(0,)] * cell.carries

    def arrays(shapes):
        return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]

    return [*arrays(floats), *flags, *arrays(restart)]


def _compile(function: Callable[..., Any], operands: Any) -> list[Kernel]:
    mesh = topologies.mesh("cuda", 1)
    place = NamedSharding(mesh, PartitionSpec())
    placed = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in operands]
    # Pallas asks which device it is for while a kernel is lowered.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = jax.jit(function).trace(*placed)
        lowered = traced.lower(lowering_platforms=("cuda",))
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = {"xla_dump_to": folder, "xla_dump_emitter_re": ".*"}
            lowered.compile(written | OPTIMISED)
        except jax.errors.JaxRuntimeError as error:
            raise TooLarge(str(error)) from None
        return list(_found(Path(folder)))


_LAUNCH = re.compile(
    r"(_forward|_backward) grid: .* threads: \[(\d+),.* shared_memory: (\d+) bytes"
)


def _found(folder: Path) -> Iterator[Kernel]:
    """Read what the compiler has written down of its kernels."""
    (launches,) = folder.glob("*.thunk_sequence.txt")
    found = {name: rest for name, *rest in _LAUNCH.findall(launches.read_text())}
    for code in folder.glob("*.ptx"):
        entry = re.search(r"\.entry (_forward|_backward)\(", code.read_text())
        if entry:
            threads, shared = map(int, found[entry[1]])
            yield Kernel(entry[1][1:], threads, *_assembled(code), shared)


def _assembled(code: Path) -> tuple[int, int]:
    """Registers of a thread, and the bytes that it spills."""
    tool = assembler()
    assert tool is not None
    command = [tool, "-v", "-arch", "sm_90a", str(code), "-o", str(code) + ".cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    assert registers is not None
    assert spilled is not None
    return int(registers[1]), int(spilled[1])


def kernels_table() -> str:
    """The kernels of all sizes as Markdown."""
    limit = _GPU["shared_memory_per_block_optin"] // 1024
    lines = [
        "| cell | units | dtype | kernel | threads | registers | spilled, bytes "
        "| shared, KiB | blocks | occupancy |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, cell in CELLS.items():
        for units in UNITS:
            for dtype in DTYPES:
                head = f"| {name} | {units} | {jnp.dtype(dtype).name} |"
                try:
                    lines += [
                        f"{head} {at.name} | {at.threads} | {at.registers} | "
                        f"{at.spilled} | {at.shared / 1024:.1f} | {at.blocks} | "
                        f"{at.occupancy:.0%} |"
                        for at in kernels(cell, units, dtype)
                    ]
                except TooLarge as error:
                    asked = re.search(r"requested (\d+)", str(error))
                    asked = int(asked[1]) / 1024 if asked else float("nan")
                    lines.append(
                        f"{head} none | - | - | - | {asked:.1f} of {limit} | 0 | - |"
                    )
    return "\n".join(lines)


class Step(NamedTuple):
    """What a step of a loop over time does: how many kernels, and how many bytes."""

    launches: int
    bytes: int


def steps(program: ahead_of_time.Program) -> list[Step]:
    """The loops of a program that has been compiled for an H100, in their order."""
    mesh = topologies.mesh("cuda", 1)
    compiled = ahead_of_time.compiled(program, mesh, OPTIMISED)
    read = hlo.read(str(compiled.as_text()))
    return [
        Step(len(hlo.launched(read, hlo.body(loop))), hlo.moved(read, hlo.body(loop)))
        for loop in hlo.loops(read)
    ]


def loops_table() -> str:
    """What every cell's default launches and moves in a step as Markdown."""
    lines = [
        "| cell | units | forward: launches | KB | gradient: launches | KB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for units in LOOP_UNITS:
        size = Size(EXAMPLES, STEPS, units, units)
        for name, cell in {
            "lstm": rnnjax.lstm(units, units),
            "gru": rnnjax.gru(units, units),
            "elman": rnnjax.elman(units, units),
            "mgu": rnnjax.mgu(units, units, traversal=scan.deferred),
        }.items():
            both = (
                ahead_of_time.forward(cell, size),
                ahead_of_time.gradient(cell, size),
            )
            cells = [
                part
                for each in map(steps, both)
                for part in (
                    " + ".join(str(step.launches) for step in each),
                    " + ".join(f"{step.bytes / 1e3:,.0f}" for step in each),
                )
            ]
            lines.append(f"| {name} | {units} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resources",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if why := missing():
        parser.error(why)
    print(f"jax {jax.__version__}, H100, {EXAMPLES} examples.\n\n{kernels_table()}\n")
    print(f"float32, {EXAMPLES} examples.\n\n{loops_table()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
