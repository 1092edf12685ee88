"""The walks agree with each other and with the peers' before they are timed."""

import pytest

from benchmarks import linear, newton, walks


@pytest.mark.float32
def test_every_walk_is_compared_and_has_a_row(capsys):
    assert walks.main(["2,20,3", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    for walk in ("associative", "chunked(4)", "as in S5", "newton, diagonal"):
        (row,) = (line for line in out.splitlines() if f"| {walk} |" in line)
        assert "2, 20, 3" in row


def test_a_walk_that_differs_is_not_timed():
    pair = [walks.Walk(name, lambda params, xs: xs) for name in ("fused", "other")]
    with pytest.raises(AssertionError, match="other"):
        walks._agree(pair, [1.0, 2.0])


def test_the_kalman_form_finds_the_same_states():
    problem = newton.random_network(0.5, 3, 30)
    full, kalman = newton.rounds(problem, {}), newton.kalman_rounds(problem, 1e-9)
    assert full is not None
    assert kalman is not None
    assert full <= kalman < 10
    assert newton.lyapunov(problem) < 0


@pytest.mark.float32
def test_the_speed_of_a_linear_recurrence_is_printed_next_to_a_copy(capsys):
    assert linear.main(["2,20,3", "--rounds", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()[-4:]
    walks_of_rows = [row.split(" | ")[1] for row in rows]
    assert walks_of_rows == ["copy", "forward", "reverse", "prefix"]
    assert rows[0].endswith("| 1.00 |")
