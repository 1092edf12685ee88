"""``examples/forecast.py``: its forecasts, and those that it is compared with."""

import re

import forecast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import refusal, run

import rnnjax

pytestmark = pytest.mark.float32


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


def test_a_network_is_the_better_one_where_a_series_is_not_linear(tmp_path):
    pytest.importorskip("statsmodels")
    given = ("--series", "mackey-glass", "--dropout", 0)
    lines = run("forecast", *given, "--quick", "--out", tmp_path)
    assert "mackey-glass of 1 to 1200" in lines[1]
    rmse = [float(line.split()[3]) for line in lines if " test_rmse " in line]
    persistence, linear, ours = rmse[-3:]
    assert ours < linear < persistence


def test_years_that_leave_nothing_are_refused(tmp_path, capsys):
    pytest.importorskip("statsmodels")
    for given in (["--split", 1750], ["--split", 2005], ["--last", 1600]):
        said = refusal(forecast, capsys, *given, "--out", tmp_path)
        assert re.search(r"leaves \d+ windows to train on and \d+ to score on", said)


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
