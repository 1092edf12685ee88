"""Walks in parallel have no loop over time, whoever compiles them."""

import pytest

import rnnjax
from benchmarks import ahead_of_time, hlo, topologies, walks
from rnnjax import scan

if why := topologies.missing():
    pytest.skip(why, allow_module_level=True)

pytestmark = pytest.mark.float32
SIZE = ahead_of_time.Size(batch=8, time=256, input_size=8, hidden_size=64)


@pytest.mark.parametrize("platform", topologies.NAMES)
def test_a_prefix_scan_is_no_loop(platform):
    cell = rnnjax.min_gru(8, 64, traversal=scan.associative)
    program = ahead_of_time.gradient(cell, SIZE)
    made = ahead_of_time.compiled(program, topologies.mesh(platform, 1))
    assert ahead_of_time.figures(made).loops == 0
    # On a TPU it is a kernel each way.
    read = hlo.read(str(made.as_text()))
    assert len(hlo.kernels(read)) == (2 if platform == "tpu" else 0)


@pytest.mark.parametrize(("time", "units"), [(1000, 64), (20, 5000)])
def test_a_tpus_kernel_is_compiled_for_all_sizes(time, units):
    """Many blocks of time, and many tiles of units."""
    size = ahead_of_time.Size(batch=2, time=time, input_size=8, hidden_size=units)
    cell = rnnjax.min_gru(8, units, traversal=scan.associative)
    program = ahead_of_time.gradient(cell, size)
    made = ahead_of_time.compiled(program, topologies.mesh("tpu", 1))
    assert len(hlo.kernels(hlo.read(str(made.as_text())))) == 2


def test_a_tpus_kernels_are_divided_over_chips():
    cell = rnnjax.min_gru(8, 64, traversal=scan.associative)
    program = ahead_of_time.gradient(cell, SIZE)
    read = hlo.read(
        str(ahead_of_time.compiled(program, topologies.mesh("tpu", 4)).as_text())
    )
    assert len(hlo.kernels(read)) == 2
    assert {kind for kind, _ in hlo.collectives(read)} == {"all-reduce"}


def test_the_command_prints_a_row_for_each_walk(capsys):
    assert walks.main(["1,16,4", "--platform", "tpu"]) == 0
    rows = [r for r in capsys.readouterr().out.splitlines() if "| v5e |" in r]
    assert len(rows) == 4 + 5
