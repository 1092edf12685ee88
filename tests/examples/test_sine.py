import numpy as np
import pytest
import sine
from programs import main, number, refusal, run

pytestmark = pytest.mark.float32


def test_sine_quick(tmp_path):
    lines = run("sine", "--quick", "--plot", "--out", tmp_path)
    assert lines[0].startswith("device ")
    assert "10990 windows" in lines[1]
    assert "1090 to test on" in lines[1]
    finals = [line for line in lines if line.startswith("final ")]
    assert [line.split()[1] for line in finals] == ["one", "stacked", "dense"]
    assert lines[-3:] == finals
    naive = number("the last value: test_mse", lines)
    assert naive == pytest.approx(0.5 * (10 / 1099) ** 2, rel=0.1)
    assert number("test_mse", finals[2:]) < naive
    assert (tmp_path / "forecast.png").stat().st_size > 1000
    for name in ("one", "stacked", "dense"):
        assert (tmp_path / name / "checkpoint.npz").is_file()


def test_sine_goes_on_with_models_that_it_has_begun(tmp_path, capsys):
    """One may be complete, one stopped, and one never started."""
    main(sine, "--model", "one", "--epochs", 3, "--out", tmp_path)
    main(sine, "--model", "stacked", "--epochs", 1, "--out", tmp_path)
    capsys.readouterr()
    main(sine, "--epochs", 3, "--out", tmp_path, "--resume")
    lines = capsys.readouterr().out.splitlines()
    going = [line for line in lines if line.startswith("going on")]
    assert [line.split()[-1] for line in going] == ["3", "1"]
    epochs = [line.split()[1] for line in lines if line.startswith("epoch ")]
    assert epochs == ["2/3", "3/3", "1/3", "2/3", "3/3"]


def test_sine_extends_a_constant_rate_and_no_cycle(tmp_path, capsys):
    for model in ("stacked", "dense"):
        main(sine, "--model", model, "--epochs", 1, "--out", tmp_path)
    capsys.readouterr()
    more = ["--epochs", 2, "--out", tmp_path, "--resume"]
    main(sine, "--model", "stacked", *more)
    assert "epoch 2/2" in capsys.readouterr().out
    said = refusal(sine, capsys, "--model", "dense", *more)
    assert "epochs=1; this one has epochs=2" in said
    assert "one cycle" in said


def test_sine_windows_are_followed_by_their_value():
    xs, ys = sine.windows(np.arange(20.0))
    assert (xs[:, :, 0] == np.arange(10)[:, None] + np.arange(10)).all()
    assert (ys[:, 0] == np.arange(10, 20)).all()
