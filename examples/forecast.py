"""Forecast a series eleven steps ahead, with an encoder and a decoder.

    python examples/forecast.py --plot
    python examples/forecast.py --series mackey-glass --dropout 0

The first series has the sunspots of each year; the second is chaotic and made here.
One LSTM reads the last years. Another starts from its carry and predicts the years to
come; each prediction is its next input. Several such models, drawn from different keys,
are trained side by side by `jax.vmap`, and their mean is the forecast. It is compared
with persistence, which repeats the last year, and with an autoregression by
statsmodels, which has as many lags as Akaike's criterion chooses. All three know only
the years up to --split, and then make a forecast in each of the years after it.

A linear model is the right choice for the sunspots: 221 years hold few cycles to learn
from, the later ones rise higher than any of them, and it scales with its input.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from stream import mackey_glass

import rnnjax
from rnnjax import training


class Series(NamedTuple):
    """Values at equal steps of time, and what networks see instead of them."""

    times: np.ndarray
    values: np.ndarray
    unit: str
    split: int
    least: float
    scaled: Callable[[Any], Any]
    unscaled: Callable[[Any], np.ndarray]


class Windows(NamedTuple):
    """``past: (n, window)`` and ``future: (n, horizon)``."""

    past: Any
    future: Any


class Params(NamedTuple):
    """What is trained."""

    encoder: Any
    decoder: Any


class Model(NamedTuple):
    """The cell that reads and the one that predicts; they have the same carry."""

    encoder: rnnjax.Cell
    decoder: rnnjax.Cell
    horizon: int


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """The years, and the mean number of sunspots in each."""
    try:
        from statsmodels.datasets import sunspots
    except ImportError as error:
        raise FileNotFoundError(
            "no series: statsmodels is not installed. Write pip install "
            '"rnnjax[examples]".'
        ) from error
    table: Any = sunspots.load_pandas().data
    return table["YEAR"].to_numpy(int), table["SUNACTIVITY"].to_numpy(float)


def load(name: str) -> Series:
    """The series of that name."""
    if name == "sunspots":
        return Series(*sunspots(), "years", 1920, 0.0, scaled, unscaled)
    (values,) = mackey_glass(1, 1200, seed=0).astype(float)
    times = np.arange(1, len(values) + 1)
    return Series(times, values, "steps", 800, -np.inf, np.asarray, np.asarray)


def scaled(values: Any) -> Any:
    """Scaled roots, which vary as much at a maximum as at a minimum."""
    return np.sqrt(values) / 5 - 1.2


def unscaled(values: Any) -> np.ndarray:
    """The inverse of `scaled`, with nothing below zero."""
    return (5 * np.maximum(np.asarray(values, float) + 1.2, 0)) ** 2


def windows(values: np.ndarray, window: int, horizon: int) -> Windows:
    """All windows of a series, and the values that follow each."""
    found = np.lib.stride_tricks.sliding_window_view(values, window + horizon)
    return Windows(found[:, :window], found[:, window:])


def init(model: Model, key: Array) -> Params:
    key_encoder, key_decoder = jax.random.split(key)
    return Params(model.encoder.init(key_encoder), model.decoder.init(key_decoder))


def forecast(model: Model, params: Params, past: Array, key: Array | None) -> Array:
    """The values ``(horizon,)`` predicted after one window ``(window,)``."""
    carry, _ = model.encoder.unroll(
        params.encoder,
        model.encoder.initial_carry(params.encoder),
        past[:, None],
        key=key,
    )

    def follow(t, carry, change, value):
        value = value + change
        return rnnjax.Next(value, carry, value, jnp.array(False), value)

    last = past[-1:]
    given = (model.decoder, params.decoder, (carry, ()), last, follow, last)
    return rnnjax.raw_unroll(*given, steps=model.horizon).emits[:, 0]


def ensemble_loss(model: Model):
    """The sum over the members, so that each gets its own gradient."""

    def member(params, batch, key):
        keys = jax.random.split(key, len(batch.past))
        found = jax.vmap(lambda past, key: forecast(model, params, past, key))(
            batch.past, keys
        )
        return jnp.mean((found - batch.future) ** 2)

    def loss(params, batch, key):
        keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
        losses = jax.vmap(member, (0, None, 0))(params, batch, keys)
        return losses.sum(), {"mse": losses.mean()}

    return loss


def autoregression(values: np.ndarray, known: int, horizon: int, origins: np.ndarray):
    """Forecasts ``(n, horizon)`` by an AR fitted to the known values, and its order."""
    from statsmodels.tsa.ar_model import AutoReg, ar_select_order

    order = max(ar_select_order(values[:known], maxlag=24, ic="aic").ar_lags or [1])
    constant, *weights = AutoReg(values[:known], lags=order).fit().params
    found = np.empty((len(origins), horizon))
    for row, origin in zip(found, origins, strict=True):
        past = list(values[:origin])
        for step in range(horizon):
            past.append(constant + np.dot(weights, past[: -order - 1 : -1]))
            row[step] = past[-1]
    return found, order


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root mean squared errors ``(horizon,)``, one for each year ahead."""
    return np.sqrt(np.mean((found - truth) ** 2, axis=0))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--series", choices=("sunspots", "mackey-glass"), default="sunspots")
    add("--split", type=int, help="the last year (1920) or step (800) to train on")
    add("--last", type=int, help="forget all years after this one")
    add("--window", type=command.positive, default=33, help="how many years are read")
    add("--horizon", type=command.positive, default=11, help="how many are forecast")
    add("--hidden", type=command.positive, default=24)
    add("--dropout", type=command.share, default=0.5, help="of the encoder's state")
    add("--members", type=command.positive, default=8)
    add("--epochs", type=command.positive, default=60)
    add("--batch-size", type=command.positive, default=32)
    add("--lr", type=command.nonnegative, default=1e-2, help="peak of the cycle")
    command.add_run(
        parser,
        "runs/forecast",
        plot="write a picture to --out",
        quick="5 epochs of 2 members",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.members = min(options.epochs, 5), 2
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    command.check_out(options)
    print(training.environment())
    with command.refusals(OSError):
        series = load(options.series)
    if options.split is None:
        options.split = series.split
    if options.last is not None:
        kept = series.times <= options.last
        series = series._replace(times=series.times[kept], values=series.values[kept])
    years, values = series.times, series.values
    window, horizon = options.window, options.horizon
    known = int(np.sum(years <= options.split))
    examples = known - window - horizon + 1
    origins = np.arange(known, len(values) - horizon + 1)
    if examples < options.batch_size or not len(origins):
        command.refuse(
            f"--split {options.split} leaves {max(examples, 0)} windows to train on "
            f"and {len(origins)} to score on; at least {options.batch_size} and 1 are "
            "needed. Write another year, or a smaller --window or --batch-size"
        )
    print(
        f"data {options.series} of {years[0]} to {years[-1]}: {examples} windows of "
        f"{window} {series.unit} to train on, {len(origins)} to score on, {horizon} "
        f"{series.unit} ahead"
    )

    train = windows(series.scaled(values[:known]).astype(np.float32), window, horizon)
    score = windows(values[known - window :], window, horizon)
    encoder = rnnjax.with_dropout(
        rnnjax.lstm(1, options.hidden), state=options.dropout, per="sequence"
    )
    decoder = rnnjax.stack(
        rnnjax.lstm(1, options.hidden), rnnjax.dense(options.hidden, 1)
    )
    model = Model(encoder, decoder, horizon)
    key_init, key_train = jax.random.split(jax.random.key(options.seed))
    params = jax.vmap(lambda key: init(model, key))(
        jax.random.split(key_init, options.members)
    )
    count = training.parameter_count(params) // options.members
    print(f"model {options.members} times {encoder} to {decoder}, {count} parameters")

    def apply(params, past):
        def one(past):
            return jax.vmap(lambda p: forecast(model, p, past, None))(params)

        return jax.vmap(one)(past)

    past = jnp.asarray(series.scaled(score.past), jnp.float32)

    def read(params):
        # The mean of roots, squared, would be low wherever the members disagree.
        return series.unscaled(training.predict(apply, params, past)).mean(axis=1)

    def evaluate(params):
        return {"test_rmse": np.sqrt(np.mean((read(params) - score.future) ** 2))}

    updates = examples // options.batch_size * options.epochs
    schedule = optax.cosine_onecycle_schedule(updates, options.lr)
    optimizer = optax.adamw(schedule, weight_decay=0.05)
    state = training.init(params, optimizer, key_train)
    names = ("series", "split", "last", "window", "horizon", "hidden", "dropout")
    names += ("members", "epochs", "batch_size", "lr", "seed")
    config = {name: getattr(options, name) for name in names}
    state, history = command.begin(options, state, config)
    state, history = training.fit(
        training.epoch(ensemble_loss(model), optimizer, batch_size=options.batch_size),
        state,
        train,
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        overwrite=options.overwrite,
    )

    linear, order = autoregression(values, known, horizon, origins)
    found = {
        "persistence": np.repeat(score.past[:, -1:], horizon, axis=1),
        f"AR({order})": np.maximum(linear, series.least),
        "encoder-decoder": read(state.params),
    }
    ahead = "".join(f"{year:9}" for year in range(1, horizon + 1))
    print(f"root mean squared error, {series.unit} ahead{ahead}")
    for name, forecasts in found.items():
        row = "".join(f"{e:9.3g}" for e in errors(forecasts, score.future))
        print(f"{name:36}{row}")
    if options.plot:
        plot(options.out / "forecast.png", series, known, found, score.future)
    for name, forecasts in found.items():
        rmse = np.sqrt(np.mean((forecasts - score.future) ** 2))
        print(f"final {name}  test_rmse {rmse:.4g}")
    print(
        f"final training {sum(record['seconds'] for record in history):.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


def plot(path: Path, data: Series, known: int, found, truth: np.ndarray) -> None:
    """Draw eight forecasts of each kind, and their error for each step ahead."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=120, layout="constrained")
    series, by_year = figure.subplots(1, 2, width_ratios=[2.2, 1])
    horizon = truth.shape[1]
    years, origins = data.times, range(0, min(len(truth), 8 * horizon), horizon)
    shown = slice(known - 12, known + 8 * horizon)
    series.plot(years[shown], data.values[shown], color="black", linewidth=1)
    for color, (name, forecasts) in zip(("C7", "C1", "C0"), found.items(), strict=True):
        for row in origins:
            ahead = years[known + row : known + row + horizon]
            label = name if row == 0 else None
            series.plot(ahead, forecasts[row], color=color, linewidth=1.6, label=label)
        steps = np.arange(1, horizon + 1)
        by_year.plot(steps, errors(forecasts, truth), color=color, marker="o", ms=3)
    for row in origins:
        series.axvline(years[known + row] - 0.5, color="0.85", linewidth=0.8, zorder=0)
    title = f"forecasts of {horizon} {data.unit}, made at each line"
    series.set(xlabel=data.unit[:-1], title=title)
    series.legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
    low, high = min(data.values.min(), 0), data.values.max()
    series.set_ylim(low, high + 0.2 * (high - low))
    by_year.set(xlabel=f"{data.unit} ahead", title="root mean squared error")
    by_year.set_ylim(bottom=0)
    for axes in (series, by_year):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    command.run(parse, main)
