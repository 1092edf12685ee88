"""Rows that are drawn by the day all get their turn."""

import drawn
import pytest

ROWS = [f"tests/a.py::test[{n}]" for n in range(200)]


def test_every_row_runs_within_two_months():
    reached = {r for day in range(60) for r in ROWS if drawn.runs(day, r, 0.2)}
    assert reached == set(ROWS)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_day_runs_about_its_share(share):
    counts = [sum(drawn.runs(day, r, share) for r in ROWS) for day in range(30)]
    assert abs(sum(counts) / (30 * len(ROWS)) - share) < 0.03
    assert len(set(counts)) > 1


def test_only_marked_rows_are_left_out(request):
    me = request.node
    assert drawn.split([me] * 3, 0) == ([me] * 3, [])
    assert drawn.split([me] * 3, 0, of_all=0.0) == ([], [me] * 3)
    me.add_marker(pytest.mark.drawn(0.0))
    assert drawn.split([me] * 3, 0) == ([], [me] * 3)
