"""The streaming example: what it prints, what it draws, and the series it makes."""

import importlib.util
import pathlib
import re

import numpy as np
import PIL.Image
import pytest

PATH = pathlib.Path(__file__).parents[2] / "examples/stream.py"
SPEC = importlib.util.spec_from_file_location("stream", PATH)
assert SPEC is not None
assert SPEC.loader is not None
stream = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stream)


def number(pattern, line):
    (found,) = re.findall(rf"{pattern} ([\d.e+-]+)", line)
    return float(found)


@pytest.mark.float32
def test_quick(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert stream.main(["--quick", "--plot", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device ")
    (ran,) = [line for line in lines if "streams through" in line]
    assert ran.startswith("8 streams through 4 slots")
    assert number("at most", ran) < 1e-5
    timed = [line for line in lines if line.startswith("latency")]
    assert [number("chunk", line) for line in timed] == [1, 64]
    assert all(0 < number("p50", line) <= number("p99", line) for line in timed)
    (final,) = [line for line in lines if line.startswith("final ")]
    assert number("final rmse", final) < 0.5 * number("value instead", final)
    with PIL.Image.open(tmp_path / "stream.gif") as picture:
        assert getattr(picture, "n_frames", 1) > 5


def test_too_few_samples_are_refused(capsys):
    with pytest.raises(SystemExit):
        stream.main(["--samples", "40"])
    assert "--samples 74 at least" in capsys.readouterr().err


def test_series_keep_their_equation():
    series = stream.mackey_glass(2, 400, seed=0)
    assert np.abs(series.mean(axis=1)).max() < 0.2
    assert np.abs(series.std(axis=1) - 1).max() < 0.2
    x = 0.93 + 0.23 * series.astype(float)
    change = (x[:, 38:] - x[:, 36:-2])[:, :300] / 2
    late, now = x[:, 20:320], x[:, 37:337]
    expected = 0.2 * late / (1 + late**10) - 0.1 * now
    np.testing.assert_allclose(change, expected, atol=0.02)
    assert np.abs(series[0] - series[1]).max() > 1
