"""The engine's benchmark has a row for each cell and what it is compared with."""

import pytest

from benchmarks import engine
from rnnjax.kernels import native


@pytest.mark.float32
@pytest.mark.skipif(not native.available(), reason="no native kernels")
def test_every_cell_has_its_rows(capsys):
    engine.main(["--quick", "--cells", "lstm,cfc"])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["| lstm", "quick", "scan"],
        ["| lstm", "quick", "kernel"],
        ["| lstm", "mean", "scan"],
        ["| cfc", "quick", "scan"],
        ["| cfc", "mean", "scan"],
    ]
