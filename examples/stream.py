"""Forecast sensors that come and go while they run: many streams in one batch.

    python examples/stream.py --plot

Each sensor is a chaotic Mackey-Glass series, and the task is its value six steps ahead.
An LSTM is trained on such series. Then `rnnjax.streaming` runs it on streams that join
and leave, and the time of each call is measured: of one step, and of a chunk of steps.
"""

import argparse
import os
import sys
import time
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnnjax
from rnnjax import streaming, training

AHEAD = 6
WARM_UP = 30  # steps before the first forecast that counts


def mackey_glass(series: int, steps: int, seed: int) -> np.ndarray:
    """Series ``(series, steps)`` of mean 0 and deviation 1, with different starts.

    dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), Mackey and Glass 1977,
    doi:10.1126/science.267326; Euler steps of 0.1, one in ten of them kept.
    """
    delay, skipped = 170, 3000
    draw = np.random.default_rng(seed)
    x = np.empty((delay + skipped + 10 * steps, series))
    x[:delay] = draw.uniform(0.4, 1.3, (1, series))
    for t in range(delay, len(x)):
        late = x[t - delay]
        x[t] = x[t - 1] + 0.1 * (0.2 * late / (1 + late**10) - 0.1 * x[t - 1])
    kept = x[delay + skipped :: 10].T
    return ((kept - 0.93) / 0.23).astype(np.float32)


def cell_of(hidden: int) -> rnnjax.Cell:
    """A cell whose output is the change in six steps, to be added to the input."""
    return rnnjax.stack(rnnjax.lstm(1, hidden), rnnjax.dense(hidden, 1))


def errors(forecasts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The errors of forecasts ``(n,)``, one made at each of the values ``(n,)``."""
    return forecasts[WARM_UP:-AHEAD] - values[WARM_UP + AHEAD :]


def train(options: argparse.Namespace, cell: rnnjax.Cell) -> tuple[Any, float]:
    """Params, and the seconds it took to train them."""
    data = mackey_glass(256, 200, options.seed)[..., None]
    key_init, key_train = jax.random.split(jax.random.key(options.seed))
    updates = options.epochs * (len(data) // 32)
    schedule = optax.cosine_onecycle_schedule(updates, 1e-2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params, batch, key):
        _, changes = rnnjax.unroll(cell, params, batch)
        forecasts = batch[:, :-AHEAD] + changes[:, :-AHEAD]
        return jnp.mean((forecasts - batch[:, AHEAD:])[:, WARM_UP:] ** 2), {}

    state = training.init(cell.init(key_init), optimizer, key_train)
    config = {name: getattr(options, name) for name in ("hidden", "epochs", "seed")}
    state, history = command.begin(options, state, config)
    state, history = training.fit(
        training.epoch(loss, optimizer, batch_size=32),
        state,
        data,
        epochs=options.epochs,
        out=options.out,
        config=config,
        history=history,
        overwrite=options.overwrite,
    )
    return state.params, sum(record["seconds"] for record in history)


def visits(options: argparse.Namespace) -> list[tuple[int, np.ndarray]]:
    """For each sensor the chunk at which it joins, and the values that it brings."""
    draw = np.random.default_rng(options.seed + 1)
    count = 2 * options.streams  # so that each slot is used twice
    values = mackey_glass(count, options.samples, options.seed + 1)
    lengths = draw.integers(options.samples // 2, options.samples + 1, count)
    per_visit = -(-options.samples // options.chunk)
    begins = draw.integers(0, per_visit, count) + per_visit * np.repeat(
        [0, 2], options.streams
    )
    order = np.argsort(begins, kind="stable")
    return [(int(begins[i]), values[i, : lengths[i]]) for i in order]


def run(cell, params, options, coming):
    """Run all visits, a chunk at a time; yields the clock and the forecasts so far.

    A sensor takes a slot, brings its chunks, and leaves.
    """
    streams = streaming.init(cell, params, options.streams)
    waiting, here = list(enumerate(coming)), {}
    forecasts = [[] for _ in coming]
    clock = 0
    while waiting or here:
        while waiting and waiting[0][1][0] <= clock and len(here) < options.streams:
            number, (_, values) = waiting.pop(0)
            streams, slot = streaming.join(streams)
            here[slot] = number, values
        now = {
            slot: values[: options.chunk, None] for slot, (_, values) in here.items()
        }
        if now:
            streams, changes = streaming.feed(
                cell, params, streams, now, chunk=options.chunk
            )
            for slot, (number, values) in list(here.items()):
                forecasts[number].extend((now[slot] + changes[slot])[:, 0])
                here[slot] = number, values[options.chunk :]
                if not len(here[slot][1]):
                    streams = streaming.leave(streams, slot)
                    del here[slot]
        clock += 1
        yield clock, forecasts


def latency(cell, params, options, chunk: int, calls: int) -> np.ndarray:
    """The seconds of each call, from samples in NumPy to outputs in NumPy."""
    streams = streaming.init(cell, params, options.streams)
    for _ in range(options.streams):
        streams, _ = streaming.join(streams)
    values = mackey_glass(options.streams, chunk, options.seed)[..., None]
    taken = []
    for _ in range(calls + 10):
        began = time.perf_counter()
        streams, ys = streaming.advance(cell, params, streams, values)
        np.asarray(ys)
        taken.append(time.perf_counter() - began)
    return np.array(taken[10:])  # the first ones compile


def latency_alone(cell, params, calls: int) -> np.ndarray:
    """The seconds of each call of the cell's own step, for one stream without slots."""
    step, carry = jax.jit(cell.step), cell.initial_carry(params)
    values = mackey_glass(1, calls + 10, 0)[0]
    taken = []
    for x in values:
        began = time.perf_counter()
        carry, y = step(params, carry, x[None])
        np.asarray(y)
        taken.append(time.perf_counter() - began)
    return np.array(taken[10:])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--hidden", type=command.positive, default=32, help="units of the LSTM")
    add("--epochs", type=command.positive, default=60)
    add("--streams", type=command.positive, default=4, help="how many run at a time")
    add("--samples", type=command.positive, default=1000, help="most of one stream")
    add("--chunk", type=command.positive, default=64, help="steps in one call")
    add("--calls", type=command.positive, default=2000, help="calls that are timed")
    add(
        "--synchronous",
        action="store_true",
        help="compute where the call is made: each call is faster, training is not",
    )
    command.add_run(
        parser,
        "runs/stream",
        plot="show the forecasts as they are made: in a window if there is a screen, "
        "otherwise as stream.gif in --out",
        quick="10 epochs, 200 samples, 200 calls",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs = min(options.epochs, 10)
        options.samples = min(options.samples, 200)
        options.calls = min(options.calls, 200)
    fewest = 2 * (WARM_UP + AHEAD + 1)
    if options.samples < fewest:
        parser.error(
            f"--samples is {options.samples}; expected {fewest} or more, so that half "
            "of them last through the warm-up"
        )
    return options


def main(options: argparse.Namespace) -> None:
    command.check_out(options)
    if options.synchronous:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    print(training.environment())
    cell = cell_of(options.hidden)
    print(f"data Mackey-Glass series, to be forecast {AHEAD} steps ahead")
    params, seconds = train(options, cell)

    coming = visits(options)
    steps = run(cell, params, options, coming)
    if options.plot:
        forecasts = plot(options, coming, steps)
    else:
        *_, (_, forecasts) = steps
    found = [
        errors(np.array(one), values)
        for one, (_, values) in zip(forecasts, coming, strict=True)
    ]
    naive = [errors(values, values) for _, values in coming]
    difference = 0.0  # from what each would be if it had been run by itself
    for one, (_, values) in zip(forecasts, coming, strict=True):
        carry = cell.initial_carry(params)
        _, changes = cell.unroll(params, carry, jnp.asarray(values)[:, None])
        alone = values + np.asarray(changes)[:, 0]
        difference = max(difference, float(np.abs(np.array(one) - alone).max()))
    print(
        f"{len(coming)} streams through {options.streams} slots, "
        f"{sum(len(values) for _, values in coming)} samples in chunks of "
        f"{options.chunk}: at most {difference:.1e} from running each alone"
    )
    for chunk in sorted({1, options.chunk}):
        taken = 1e6 * latency(cell, params, options, chunk, options.calls)
        half, most = np.percentile(taken, [50, 99])
        print(
            f"latency of {options.streams} streams, chunk {chunk}: p50 {half:.1f} us, "
            f"p99 {most:.1f} us, {half / chunk / options.streams:.2f} us a sample"
        )
    half, most = np.percentile(
        1e6 * latency_alone(cell, params, options.calls), [50, 99]
    )
    print(f"latency of one stream by cell.step: p50 {half:.1f} us, p99 {most:.1f} us")
    scores = [np.sqrt(np.mean(np.concatenate(e) ** 2)) for e in (found, naive)]
    print(
        f"final rmse {scores[0]:.4f}  repeating the last value {scores[1]:.4f}  "
        f"training {seconds:.1f} s"
    )


def plot(options: argparse.Namespace, coming, steps) -> list[list[float]]:
    """Draw the first visits as they run, each forecast at the time it was made for."""
    import matplotlib

    if not os.environ.get("DISPLAY") and sys.platform == "linux":
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    shown = min(4, options.streams, len(coming))
    figure, axes = plt.subplots(
        shown, 1, figsize=(8, 1.5 * shown + 0.5), squeeze=False, layout="constrained"
    )
    lines = []
    for axis, (_, values) in zip(axes[:, 0], coming, strict=False):
        axis.set(xlim=(0, len(values) + AHEAD), ylim=(-3, 3))
        (true,) = axis.plot([], [], color="black", lw=1, label="series")
        (made,) = axis.plot([], [], color="C1", lw=1, label=f"{AHEAD} steps before")
        lines.append((true, made))
    axes[0, 0].legend(loc="upper right", ncols=2)
    axes[-1, 0].set_xlabel("sample")
    last: list[list[float]] = []

    def draw(step):
        clock, forecasts = step
        last[:] = forecasts
        figure.suptitle(f"chunk {clock}")
        for (true, made), one, (_, values) in zip(
            lines, forecasts, coming, strict=False
        ):
            true.set_data(np.arange(len(one)), values[: len(one)])
            made.set_data(np.arange(len(one)) + AHEAD, one)
        return [line for pair in lines for line in pair]

    moving = FuncAnimation(
        figure,
        draw,
        frames=steps,
        init_func=lambda: [],
        interval=50,
        repeat=False,
        cache_frame_data=False,
        save_count=10**6,
    )
    if matplotlib.get_backend().lower() == "agg":
        path = options.out / "stream.gif"
        moving.save(path, writer=PillowWriter(fps=10), dpi=60)
        print(f"wrote {path}")
    else:
        plt.show()
    plt.close(figure)
    for step in steps:  # a window that was closed early
        draw(step)
    return last


if __name__ == "__main__":
    command.run(parse, main)
