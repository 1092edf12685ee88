"""``examples/ragged.py`` and ``examples/forecast.py``, and the data that they read."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_examples import load_example, number, run

import rnnjax

timeseries = sys.modules["timeseries"] = load_example("timeseries")
ragged, forecast = load_example("ragged"), load_example("forecast")

pytestmark = pytest.mark.float32


# Ragged sequences.


TS = """# a comment
@problemName Made
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true low high
@data
1,2,3:4,5,6:low

7.5,-8:9e1,10:high
"""


def test_ts_files(tmp_path):
    path = tmp_path / "Made_TRAIN.ts"
    path.write_text(TS)
    xs, labels = timeseries.read_ts(path)
    assert labels == ["low", "high"]
    np.testing.assert_array_equal(xs[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(xs[1], np.array([[7.5, 90], [-8, 10]]))
    assert xs[0].dtype == np.float32


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("@timeStamps false", "@timeStamps true", "@timestamps true; expected false"),
        ("@missing false", "@missing true", "@missing true; expected false"),
        ("@classLabel true low high", "@classLabel false", "no @classLabel"),
        ("@data\n", "", "line 9, stands in front of @data"),
        ("4,5,6", "4,5", "line 10, is damaged"),
        ("4,5,6", "4,x,6", "line 10, is damaged"),
        ("4,5,6", "4,?,6", "line 10, is damaged"),
        ("4,5,6", "4,nan,6", "line 10, has 2 dimensions, or numbers"),
        (":4,5,6", "", "line 10, has 1 dimensions"),
        (TS.partition("@data\n")[2], "", "no sequences"),
    ],
)
def test_damaged_ts_files(old, new, sentence, tmp_path):
    path = tmp_path / "Made_TRAIN.ts"
    assert old in TS
    path.write_text(TS.replace(old, new, 1))
    with pytest.raises(ValueError, match=sentence):
        timeseries.read_ts(path)


def write_ts(folder):
    """Noise of many lengths around a level that is the class."""
    draw = np.random.default_rng(0)
    head = TS.partition("1,2,3")[0].replace("low high", "a b c")
    for part, count in (("TRAIN", 60), ("TEST", 30)):
        rows = []
        for i in range(count):
            x = draw.normal(size=(2, draw.integers(7, 30))) + i % 3
            values = (",".join(f"{v:.4f}" for v in row) for row in x)
            rows.append(":".join([*values, "abc"[i % 3]]))
        (folder / f"Made_{part}.ts").write_text(head + "\n".join(rows) + "\n")


def test_ragged_reads_ts_files_and_learns(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_ts(tmp_path)
    arguments = ["--data-dir", tmp_path, "--out", tmp_path, "--hidden", 8, "--plot"]
    arguments += ["--batch-size", 5, "--epochs", 6, "--layers", 1]
    assert ragged.main(list(map(str, arguments))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "60 sequences to train on, 30 (test) to score on, 7 to 29 steps" in lines[1]
    assert number("final test_accuracy", lines) > 0.9
    rows = [line for line in lines if line.startswith("class ")]
    assert [line.split(":")[0] for line in rows] == ["class a", "class b", "class c"]
    right = sum(int(line.split()[2].split("/")[0]) for line in rows)
    assert f"errors {30 - right}/30" in lines[-1]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert ragged.main([*map(str, arguments), "--resume"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1].split("training")[0]
        == (lines[-1].split("training")[0])
    )


def test_ragged_quick_on_the_digits_of_scikit_learn(tmp_path):
    pytest.importorskip("sklearn")
    lines = run("ragged", "--quick", "--plot", "--out", tmp_path)
    assert "1438 sequences to train on, 359 (holdout) to score on" in lines[1]
    assert "12 to 29 steps of 4 features, 10 classes" in lines[1]
    assert number("final holdout_accuracy", lines) > 0.5
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.npz", "metrics.jsonl", "curves.png", "confusion.png")
    }


def test_buckets_hold_every_sequence_once_and_little_padding():
    draw = np.random.default_rng(0)
    xs = [np.full((length, 1), i) for i, length in enumerate(draw.integers(7, 30, 50))]
    sequences = timeseries.Sequences(xs, np.arange(50, dtype=np.int32))
    bounds = ragged.bounds_of(sequences, 4)
    assert len(bounds) == 4
    seen = []
    for batch, above, most in zip(
        ragged.bucketed(sequences, bounds), (0, *bounds), bounds, strict=False
    ):
        assert batch.xs.shape[1] == most
        assert ((batch.lengths > above) & (batch.lengths <= most)).all()
        for x, length, label in zip(*batch, strict=True):
            np.testing.assert_array_equal(x[:length], xs[label])
            assert not x[length:].any()
        seen += batch.labels.tolist()
    assert sorted(seen) == list(range(50))


def test_confusion_counts_pairs():
    counts = ragged.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_ragged_refuses_in_a_sentence(tmp_path, capsys, monkeypatch):
    assert ragged.main(["--data-dir", str(tmp_path)]) == 2
    assert "has 0 files NAME_TRAIN.ts" in capsys.readouterr().err
    write_ts(tmp_path)
    assert ragged.main(["--data-dir", str(tmp_path), "--batch-size", "50"]) == 2
    assert "--batch-size" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert ragged.main([]) == 2
    assert "pip install" in capsys.readouterr().err


# Sunspots.


def test_forecast_quick(tmp_path):
    pytest.importorskip("statsmodels")
    lines = run("forecast", "--quick", "--plot", "--out", tmp_path)
    assert "sunspots of 1700 to 2008" in lines[1]
    finals = [line.split() for line in lines if line.startswith("final ")]
    names = [words[1] for words in finals[:3]]
    assert names == ["persistence", "AR(23)", "encoder-decoder"]
    persistence, linear, ours = (float(words[3]) for words in finals[:3])
    _, values = forecast.sunspots()
    errors = [values[t : t + 11] - values[t - 1] for t in range(221, len(values) - 10)]
    assert persistence == pytest.approx(np.sqrt(np.mean(np.square(errors))), abs=0.01)
    assert linear < persistence
    assert ours < persistence
    assert (tmp_path / "forecast.png").stat().st_size > 1000


def test_the_autoregression_is_that_of_statsmodels():
    autoreg = pytest.importorskip("statsmodels.tsa.ar_model").AutoReg
    _, values = forecast.sunspots()
    found, order = forecast.autoregression(values, 221, 5, np.array([221, 250]))
    fitted = autoreg(values[:221], lags=order).fit()
    np.testing.assert_allclose(found[0], fitted.predict(221, 225))
    later = autoreg(values[:250], lags=order).predict(fitted.params, 250, 254)
    np.testing.assert_allclose(found[1], later)


def test_windows_of_the_series_and_their_scale():
    past, future = forecast.windows(np.arange(10.0), 4, 3)
    assert past[0].tolist() == [0, 1, 2, 3]
    assert (future[:, 0] == past[:, -1] + 1).all()
    assert future[-1].tolist() == [7, 8, 9]
    values = np.array([0.0, 3.0, 190.2])
    np.testing.assert_allclose(forecast.unscaled(forecast.scaled(values)), values)
    assert (forecast.unscaled(np.array([-5.0])) == 0).all()


def test_a_forecast_feeds_on_its_own_predictions():
    encoder = rnnjax.lstm(1, 4)
    decoder = rnnjax.stack(rnnjax.lstm(1, 4), rnnjax.dense(4, 1))
    model = forecast.Model(encoder, decoder, 3)
    params = forecast.init(model, jax.random.key(0))
    past = jnp.array([0.3, -0.2, 0.5])
    start = encoder.initial_carry(params.encoder)
    carry, _ = encoder.unroll(params.encoder, start, past[:, None])
    carry, value, expected = (carry, ()), past[-1:], []
    for _ in range(3):
        carry, change = decoder.step(params.decoder, carry, value)
        value = value + change
        expected.append(float(value[0]))
    found = forecast.forecast(model, params, past, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
