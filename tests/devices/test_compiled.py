"""What the compilers of a TPU v5e and an H100 make of the cells, on one chip or four.

Nothing runs. All that is asserted is read from the optimised program: its loops, what
the chips exchange, the products and copies inside of loops, its memory.
"""

import math
from typing import Any

import jax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import rnnjax
from benchmarks import ahead_of_time, hlo, topologies
from benchmarks.ahead_of_time import CHIPS, Size
from rnnjax import scan
from rnnjax.kernels import equations

WHY = topologies.missing()
pytestmark = [pytest.mark.float32, pytest.mark.skipif(bool(WHY), reason=WHY)]

# A product is known by its shape: no axis is as long as the batch of one chip or of
# four, nor is the number of parts into which the compiler for GPUs cuts a long sum.
SIZE = Size(batch=160, time=60, input_size=384, hidden_size=128)
# Small programs never leave the memory on a TPU's chip; these do.
LARGE = SIZE._replace(batch=320, time=100)
# The suite compiles with few optimisations, which are the matter here.
OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
# Forward and, with gradient, backward. On a TPU some are kernels, see below.
LOOPS = {
    "lstm forward": 1,
    "lstm gradient": 2,
    "gru forward": 1,
    "gru gradient": 2,
    "elman forward": 1,
    "elman gradient": 2,
    "mgu forward": 1,
    # The second one computes the derivatives of every step from what the first kept.
    "mgu gradient": 3,
    "bidirectional forward": 2,
    "bidirectional gradient": 4,
    "epoch": 3,  # over batches, and the two of an LSTM
}
KERNELS = {
    "lstm forward": 1,
    "lstm gradient": 2,
    "gru forward": 1,
    "gru gradient": 2,
    "elman forward": 1,
    "elman gradient": 2,
    "bidirectional forward": 2,
    "bidirectional gradient": 4,
    "epoch": 2,
}
# How much more the temporaries may take than theory needs. A GPU gets the arrays of all
# steps twice, with batch and with time as the first axis, and a loop's copies of them.
MARGIN = {"tpu": 1.25, "cuda": 2.0}


def of_kernel(cell):
    """Numbers for each unit, step and example that must exist at once, both ways.

    Forward these are the projected inputs and the outputs; the way back needs what is
    saved and the carries before each step, gives the gradients of the pre-activations,
    and begins with the outputs and their gradients.
    """
    gradients = cell.columns * (1 if cell.joined else 2)
    return cell.columns + 1, cell.saved + cell.carries + gradients + 2


NUMBERS = {
    "lstm": of_kernel(equations.LSTM),
    "gru": of_kernel(equations.GRU),
    "elman": of_kernel(equations.ELMAN_TANH),
    # Two columns; the way back needs both, both gates, h, and the rest as above.
    "mgu": (2 + 1, 2 + 2 + 1 + 2 + 2),
}
# The batch is taken from the data, and the LSTM has its gradient.
NUMBERS["epoch"] = (0, SIZE.input_size // SIZE.hidden_size + NUMBERS["lstm"][1])
NUMBERS["bidirectional"] = (
    NUMBERS["lstm"][0] + NUMBERS["gru"][0],
    NUMBERS["lstm"][1] + NUMBERS["gru"][1],
)


def theory(name, size, chips):
    """Bytes on each chip."""
    cell, *kind = name.split()
    numbers = NUMBERS[cell][kind != ["forward"]]
    return 4 * size.batch * size.time * size.hidden_size * numbers / chips


def make(program, mesh):
    """What the program does, and the bytes of its temporaries."""
    done = ahead_of_time.compiled(program, mesh, OPTIONS)
    memory: Any = done.memory_analysis()
    return hlo.read(str(done.as_text())), memory.temp_size_in_bytes


def of_no_example(products, batch):
    """Products without an axis for the examples, such as a gradient of weights."""
    return [shape for shape in products if batch not in shape.dims]


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("chips", CHIPS)
@pytest.mark.parametrize("platform", topologies.NAMES)
def test_loops_exchanges_and_memory(platform, chips, name):
    mesh = topologies.mesh(platform, chips)
    program = dict(ahead_of_time.programs(SIZE, mesh))[name]
    read, taken = make(program, mesh)
    kernels = KERNELS.get(name, 0) if platform == "tpu" else 0
    assert len(hlo.kernels(read)) == kernels
    assert len(hlo.loops(read)) == LOOPS[name] - kernels

    # In a loop over time are the products with the recurrent weights, and no other.
    # Those of the MGU are two.
    over_time = LOOPS[name] - kernels - (name == "epoch")
    in_time = hlo.innermost(read) if over_time else []
    products = hlo.products(in_time)
    assert len(products) == over_time * (2 if name.startswith("mgu") else 1)
    assert of_no_example(products, SIZE.batch // chips) == []

    # Nor is there a copy of all steps in it, not even one in bfloat16.
    all_steps = 2 * SIZE.batch // chips * SIZE.time * SIZE.hidden_size
    assert hlo.copies(in_time, all_steps) == []

    exchanges = hlo.collectives(read)
    if chips == 1 or name.endswith("forward"):
        assert exchanges == []
    else:
        ((kind, shapes),) = exchanges
        assert kind == "all-reduce"
        assert sum(shape.size for shape in shapes) == summed(name, program)

    assert taken <= MARGIN[platform] * theory(name, SIZE, chips)


def summed(name, program):
    """Numbers that the chips add up: the gradients, and the loss."""
    params = program.arguments[0]
    params = params.params if name == "epoch" else params
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    # The GRU's second bias is that of its last column, and has the sums of all three.
    beside = 2 * SIZE.hidden_size if name.split()[0] in ("gru", "bidirectional") else 0
    return weights + beside + 1


UNITS = (64, 128, 256, 512, 1024)


@pytest.mark.drawn(0.13)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", ["lstm", "gru", "elman"])
def test_a_tpus_kernels_at_every_size(name, units, dtype):
    size = Size(batch=200, time=50, input_size=128, hidden_size=units)
    program = ahead_of_time.gradient(ahead_of_time.cells(size)[name], size)
    params, xs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, dtype), program.arguments
    )
    read, taken = make(
        program._replace(arguments=(params, xs)), topologies.mesh("tpu", 1)
    )
    assert len(hlo.kernels(read)) == 2
    assert hlo.loops(read) == []
    # In the memory of a TPU units come in 128s.
    padded = size._replace(hidden_size=max(units, 128))
    assert taken <= MARGIN["tpu"] * theory(f"{name} gradient", padded, 1)


def in_shard_map(gradient, mesh):
    def of_part(params, xs):
        params = jax.lax.pcast(params, "data", to="varying")
        return jax.lax.pmean(gradient(params, xs), "data")

    split = (PartitionSpec(), PartitionSpec("data"))
    return jax.shard_map(of_part, mesh=mesh, in_specs=split, out_specs=PartitionSpec())


@pytest.mark.parametrize(
    ("way", "batch", "kernels"),
    [("mesh", 16, 2), ("types", 16, 2), ("shard_map", 16, 2), ("mesh", 6, 0)],
)
def test_a_tpus_kernels_on_every_kind_of_mesh(way, batch, kernels):
    """Rows that the chips do not divide are walked by the scan, whole or in parts."""
    kind = AxisType.Explicit if way == "types" else AxisType.Auto
    mesh = Mesh(topologies.mesh("tpu", 4).devices, ("data",), axis_types=(kind,))
    size = Size(batch=batch, time=20, input_size=8, hidden_size=16)
    program = ahead_of_time.gradient(rnnjax.elman(*size[2:]), size)
    rows = PartitionSpec("data" if kernels else None)
    shapes = [
        jax.tree.map(
            lambda a, at=at: jax.ShapeDtypeStruct(
                a.shape, a.dtype, sharding=NamedSharding(mesh, at)
            ),
            tree,
        )
        for tree, at in zip(program.arguments, (PartitionSpec(), rows), strict=True)
    ]
    run = program.function
    run = in_shard_map(run, mesh) if way == "shard_map" else run
    with jax.set_mesh(mesh):
        lowered = jax.jit(run).trace(*shapes).lower(lowering_platforms=("tpu",))
        read = hlo.read(str(lowered.compile().as_text()))
    assert len(hlo.kernels(read)) == kernels
    assert {name for name, _ in hlo.collectives(read)} <= {"all-reduce"}


def test_a_tpus_kernels_where_integers_have_64_bits():
    size = Size(batch=12, time=20, input_size=8, hidden_size=16)
    with jax.enable_x64(True):
        program = ahead_of_time.gradient(rnnjax.elman(*size[2:]), size)
        params, xs = program.arguments
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, xs.dtype), params)
        program = program._replace(arguments=(params, xs))
        read, _ = make(program, topologies.mesh("tpu", 1))
    assert len(hlo.kernels(read)) == 2


@pytest.mark.parametrize("name", ["lstm gradient", "mgu gradient"])
def test_memory_of_a_tpu_beyond_the_chip(name):
    mesh = topologies.mesh("tpu", 1)
    _, taken = make(dict(ahead_of_time.programs(LARGE, mesh))[name], mesh)
    assert 0 < taken <= MARGIN["tpu"] * theory(name, LARGE, 1)


@pytest.mark.parametrize("platform", topologies.NAMES)
def test_a_gradient_of_weights_in_the_loop_would_be_seen(platform):
    cell = rnnjax.lstm(*SIZE[2:], traversal=scan.fused)
    read, _ = make(ahead_of_time.gradient(cell, SIZE), topologies.mesh(platform, 1))
    assert of_no_example(hlo.products(hlo.innermost(read)), SIZE.batch)


@pytest.mark.parametrize("platform", topologies.NAMES)
def test_a_gathered_batch_would_be_seen(platform):
    program = ahead_of_time.forward(rnnjax.elman(*SIZE[2:]), SIZE)
    program = program._replace(results_split=(False, False))
    read, _ = make(program, topologies.mesh(platform, 4))
    assert {kind for kind, _ in hlo.collectives(read)} == {"all-gather"}
