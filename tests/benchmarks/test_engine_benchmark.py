"""The engine's benchmark has a row for each cell and what it is compared with."""

import pytest

from benchmarks import engine
from rnnjax.kernels import native


@pytest.mark.float32
@pytest.mark.skipif(not native.available(), reason="no native kernels")
def test_every_cell_has_its_rows_and_means(capsys):
    engine.main(["--quick", "--cells", "lstm,cfc"])
    rows, means = (
        [[word.strip() for word in line.split("|")[1:-1]] for line in lines[2:]]
        for lines in map(str.splitlines, capsys.readouterr().out.split("\n\n"))
    )
    assert [(name, walk, other) for name, _, walk, _, other, *_ in rows] == [
        ("lstm", "engine", "scan"),
        ("lstm", "engine", "kernel"),
        ("lstm", "kernel", "scan"),
        ("cfc", "engine", "scan"),
    ]
    counts = {tuple(names): int(row) for *names, _, _, row in means}
    assert counts["engine", "scan", "all"] == counts["engine", "scan", "quick"] == 2
    assert counts["kernel", "scan", "lstm"] == 1
    # A mean of one row is its ratio.
    assert [row[-1] for row in rows] == [
        mean for *names, mean, _, _ in means if names[2] in ("lstm", "cfc")
    ]
