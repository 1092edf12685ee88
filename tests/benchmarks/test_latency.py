"""Steps, walks and learning on the way are timed in processes that take turns."""

import numpy as np
import pytest

from benchmarks import latency, online


@pytest.mark.float32
def test_steps_and_walks_are_timed_by_turns(capsys, monkeypatch):
    monkeypatch.setattr(latency, "STEPS", ("step, synchronous",))
    monkeypatch.setattr(latency, "UNITS", (2,))
    monkeypatch.setattr(latency, "SEQUENCES", [("indrnn", 0, 2)])
    assert latency.main(["--rounds", "1", "--calls", "20"]) == 0
    out = capsys.readouterr().out
    (step,) = (line for line in out.splitlines() if line.startswith("| 2 units |"))
    assert float(step.split("|")[2]) > 0
    (walk,) = (line for line in out.splitlines() if "| indrnn, 2 units, one" in line)
    assert walk.count("/") == len(latency.WALKS)


def test_gradients_on_the_way_that_differ_are_not_timed(tmp_path):
    for name, value in (("one", 1.0), ("other", 1.1)):
        np.savez(tmp_path / f"{name}.npz", ys=np.ones(2), b=np.full(2, value))
    files = tmp_path / "one.npz", tmp_path / "other.npz"
    with pytest.raises(AssertionError, match="rtrl: b differs"):
        online.check(*files, "rtrl")
    online.check(*files, "snap")
