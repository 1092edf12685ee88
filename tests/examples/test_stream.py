"""The streaming example: what it prints, what it draws, and the series it makes."""

import re

import jax
import numpy as np
import PIL.Image
import pytest
import stream
from programs import main


def number(pattern, line):
    (found,) = re.findall(rf"{pattern} ([\d.e+-]+)", line)
    return float(found)


@pytest.mark.float32
def test_quick(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    main(stream, "--quick", "--plot", "--out", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device ")
    (ran,) = [line for line in lines if "streams through" in line]
    assert ran.startswith("8 streams through 4 slots")
    assert number("at most", ran) < 1e-5
    timed = [line for line in lines if line.startswith("latency")]
    assert [number("chunk", line) for line in timed[:2]] == [1, 64]
    assert timed[2].startswith("latency of one stream by cell.step: p50 ")
    assert all(0 < number("p50", line) <= number("p99", line) for line in timed)
    (final,) = [line for line in lines if line.startswith("final ")]
    assert number("final rmse", final) < 0.5 * number("repeating the last value", final)
    with PIL.Image.open(tmp_path / "stream.gif") as picture:
        assert getattr(picture, "n_frames", 1) > 5
    try:
        main(stream, "--quick", "--out", tmp_path, "--resume", "--synchronous")
    finally:
        jax.config.update("jax_cpu_enable_async_dispatch", True)
    again = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("epoch") for line in again)
    assert again[-1] == final  # the trained params were saved


def test_too_few_samples_are_refused(capsys):
    with pytest.raises(SystemExit):
        stream.parse(["--samples", "40"])
    assert "--samples is 40; expected 74 or more" in capsys.readouterr().err


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
