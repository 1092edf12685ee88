"""The engine's benchmark has a row for each cell and what it is compared with."""

import pytest

from benchmarks import engine
from rnnjax.kernels import native


@pytest.mark.float32
@pytest.mark.skipif(not native.available(), reason="no native kernels")
def test_every_cell_has_its_rows(monkeypatch, capsys):
    monkeypatch.setattr(engine, "SIZES", [(2, 3, 2, 4)])
    monkeypatch.setattr(engine, "CELLS", {"lstm": engine.CELLS["lstm"]})
    engine.main(["--quick"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["scan", "kernel"]
