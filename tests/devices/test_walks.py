"""Walks in parallel have no loop over time, whoever compiles them."""

import pytest

import rnnjax
from benchmarks import ahead_of_time, topologies, walks
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


def test_the_command_prints_a_row_for_each_walk(capsys):
    assert walks.main(["1,16,4", "--platform", "tpu"]) == 0
    rows = [r for r in capsys.readouterr().out.splitlines() if "| v5e |" in r]
    assert len(rows) == 4 + 5
