"""Pictures of what a cell does and how training went; they need matplotlib.

Every function returns a `matplotlib.figure.Figure`, which notebooks show and whose
``savefig`` writes a file. Nothing here touches ``pyplot`` or its backends, and
matplotlib is imported by the first call only.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rnnjax.analysis.tracing import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_METRICS = ("epoch", "seconds")


def states(
    trace: Trace,
    names: Sequence[str] | None = None,
    *,
    steps: Sequence[str] | None = None,
    most: int = 64,
) -> "Figure":
    """Gates and states over time: a heat map for each, units downwards.

    Values between 0 and 1, such as those of gates, run from white to blue; others from
    red over white, which is zero, to blue. Their scale ends where 95 % of them lie, or
    a few large ones would leave the others pale.

    Args:
      trace: what `rnnjax.trace` returns, of one sequence. Of a batch pass one by
        ``jax.tree.map(lambda a: a[0], trace)``; nothing tells it from a sequence.
      names: which of its values, in this order; all if left out.
      steps: a text for each time step, for example the characters of a text.
      most: units that are drawn; the first so many of each.

    Raises:
      KeyError: for a name that the trace has not.
      ValueError: for no value at all, and for another number of texts than steps.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> carry = cell.initial_carry(params)
    >>> found = rnnjax.trace(cell, params, carry, jnp.ones((20, 3)))
    >>> figure = rnnjax.plot.states(found, ["f", "c"])
    >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
    ['f', 'c']
    """
    chosen = {name: trace[name] for name in (trace.names if names is None else names)}
    values = {
        name: np.asarray(value, np.float64).reshape(len(value), -1)[:, :most].T
        for name, value in chosen.items()
    }
    if not values:
        raise ValueError(
            f"names is {names}; expected one or more values of the trace, which has "
            f"{trace.names}. Leave names out for all of them."
        )
    count = next(iter(values.values())).shape[1]
    if steps is not None and len(steps) != count:
        raise ValueError(
            f"steps has {len(steps)} texts; expected {count}, one for each step."
        )
    rows = [min(max(len(value) / 12, 0.5), 2.4) for value in values.values()]
    figure = _figure(
        min(max(count * 0.13, 5.0), 14.0) + 1.4, sum(rows) + 0.35 * len(rows) + 0.5
    )
    panels = figure.subplots(
        len(values), 1, sharex=True, squeeze=False, height_ratios=rows
    )[:, 0]
    for axes, (name, value) in zip(panels, values.items(), strict=True):
        gate = value.min() >= 0 and value.max() <= 1
        limit = 1.0 if gate else _limit(np.abs(value))
        image = axes.imshow(
            value,
            aspect="auto",
            interpolation="nearest",
            cmap="Blues" if gate else "RdBu",
            vmin=0.0 if gate else -limit,
            vmax=limit,
        )
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_yticks([0, len(value) - 1] if len(value) > 1 else [0])
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", length=0 if steps is not None else 3)
        ends = "neither" if gate else "both"
        bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.03, extend=ends)
        ticks = [0, 1] if gate else [-limit, 0, limit]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
        bar.ax.tick_params(labelsize=7)
    below = panels[-1]
    if steps is None:
        below.set_xlabel("step", fontsize=9)
    else:
        below.set_xticks(range(count), [_visible(step) for step in steps])
        below.tick_params(axis="x", labelfontfamily="monospace")
    return figure


def gradient_norms(gradients: Mapping[str, Any]) -> "Figure":
    """How strongly a loss pulls at the carry of every step, on a logarithmic scale.

    Args:
      gradients: what `rnnjax.carry_gradients` returns, by the label of its line.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def gradients(cell):
    ...     params = cell.init(jax.random.key(0))
    ...     carry = cell.initial_carry(params)
    ...     return rnnjax.carry_gradients(
    ...         cell, params, carry, jnp.ones((20, 3)), lambda ys: ys[-1].sum())
    >>> figure = rnnjax.plot.gradient_norms(
    ...     {"gru": gradients(rnnjax.gru(3, 8)),
    ...      "elman": gradients(rnnjax.elman(3, 8))})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['gru', 'elman']
    """
    figure = _figure(6.4, 3.4)
    axes = figure.subplots()
    for label, gradient in gradients.items():
        squares = [
            np.square(np.asarray(a, np.float64)).reshape(len(a), -1).sum(axis=1)
            for a in jax.tree.leaves(gradient)
        ]
        axes.plot(np.sqrt(sum(squares)), label=label)
    axes.set(xlabel="step", ylabel="norm of the gradient for its carry", yscale="log")
    _finished(axes, legend=True)
    return figure


def phase_portrait(carries: Any, points: Any = None) -> "Figure":
    """Trajectories of a state and its fixed points, in the plane of most variance.

    The plane is that of the first two principal components of all states. Stable
    points are filled, saddles and unstable ones are crosses, coloured by the number of
    directions that grow.

    Args:
      carries: what `rnnjax.dynamics.trajectory` returns under `jax.vmap`, sequences and
        time on the first two axes of each leaf.
      points: what `rnnjax.dynamics.fixed_points` returns.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(2, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> xs = jax.random.normal(jax.random.key(1), (4, 20, 2))
    >>> carries = jax.vmap(rnnjax.dynamics.trajectory, (None, None, None, 0))(
    ...     cell, params, jnp.zeros(8), xs)
    >>> points = rnnjax.dynamics.fixed_points(
    ...     cell, params, carries.reshape(-1, 8), jnp.zeros(2))
    >>> figure = rnnjax.plot.phase_portrait(carries, points)
    >>> len(figure.axes[0].lines) >= 4
    True
    """
    runs = _states(carries, 2)
    rows = runs.reshape(-1, runs.shape[-1])
    middle = rows.mean(0)
    basis = np.linalg.svd(rows - middle, full_matrices=False)[2][:2].T
    figure = _figure(5.4, 4.6)
    axes = figure.subplots()
    for run in (runs - middle) @ basis:
        axes.plot(*run.T, color="0.75", linewidth=0.6, zorder=1)
    if points is not None:
        at = (_states(points.carry, 1) - middle) @ basis
        stable = points.growing == 0
        axes.scatter(*at[stable].T, color="black", zorder=3, label="stable")
        others = axes.scatter(
            *at[~stable].T,
            c=points.growing[~stable],
            marker="x",
            cmap="plasma",
            zorder=2,
            label="saddle or unstable",
        )
        if not stable.all():
            found = np.unique(points.growing[~stable])
            bar = figure.colorbar(others, ax=axes, fraction=0.03, ticks=found)
            bar.set_label("growing directions", fontsize=8)
    axes.set(xlabel="first principal component", ylabel="second")
    _finished(axes, legend=points is not None)
    return figure


def spectrum(eigenvalues: Any) -> "Figure":
    """Eigenvalues of a step beside the unit circle: those outside it grow.

    Args:
      eigenvalues: of one Jacobian or several, such as those of
        `rnnjax.dynamics.fixed_points`, or ``jnp.linalg.eigvals`` of a Jacobian.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(2, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> near = rnnjax.dynamics.linearize(cell, params, jnp.zeros(8), jnp.zeros(2))
    >>> figure = rnnjax.plot.spectrum(jnp.linalg.eigvals(near.by_state))
    >>> figure.axes[0].get_xlabel()
    'real part'
    """
    values = np.asarray(eigenvalues).reshape(-1)
    figure = _figure(4.2, 4.2)
    axes = figure.subplots()
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.6", linewidth=0.8)
    axes.scatter(np.real(values), np.imag(values), s=12)
    axes.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    _finished(axes, legend=False)
    return figure


def _states(carries: Any, axes: int) -> np.ndarray:
    """A carry's leaves side by side, after that many axes of several carries."""
    leaves = [np.asarray(a, np.float64) for a in jax.tree.leaves(carries)]
    if not leaves or min(a.ndim for a in leaves) < axes:
        raise ValueError(
            f"carries has leaves of shapes {[a.shape for a in leaves]}; expected "
            "sequences and time on their first two axes. Write jax.vmap(rnnjax."
            "dynamics.trajectory, (None, None, None, 0)), or add the axis of sequences "
            "to a single one by jax.tree.map(lambda a: a[None], carries)."
        )
    flat = [a.reshape(*a.shape[:axes], -1) for a in leaves]
    return np.concatenate(flat, axis=-1)


def curves(
    runs: str | os.PathLike[str] | Sequence[dict[str, Any]] | Mapping[str, Any],
    names: Iterable[str] | None = None,
) -> "Figure":
    """Training curves from ``metrics.jsonl``: a panel for each kind of metric.

    Metrics whose names end alike share a panel, such as ``"accuracy"`` and
    ``"test_accuracy"``. A panel whose values span more than a factor of ten is
    logarithmic.

    Args:
      runs: the file, the folder that `rnnjax.training.fit` wrote it to, or the history
        that it returned. Several runs, by the label of their lines, as a dict.
      names: which metrics; all but the epoch and the seconds if left out.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a history without epochs, a file that is no log, or a name that
        no run has.

    >>> import rnnjax
    >>> history = [{"epoch": 1, "loss": 2.0, "accuracy": 0.3, "test_accuracy": 0.2},
    ...            {"epoch": 2, "loss": 0.1, "accuracy": 0.9, "test_accuracy": 0.8}]
    >>> figure = rnnjax.plot.curves(history)
    >>> [axes.get_ylabel() for axes in figure.axes], figure.axes[0].get_yscale()
    (['loss', 'accuracy'], 'log')
    """
    several = runs if isinstance(runs, Mapping) else {"": runs}
    histories = {label: _history(run) for label, run in several.items()}
    found = list(dict.fromkeys(n for h in histories.values() for r in h for n in r))
    logged = [name for name in found if name not in _NO_METRICS]
    wanted = logged if names is None else list(names)
    lacking = [name for name in wanted if name not in found]
    if lacking or not wanted:
        raise ValueError(
            f"names is {wanted}; expected some of {found}, what the runs have logged."
        )
    panels: dict[str, list[str]] = {}
    for name in sorted(wanted, key=lambda name: (len(name), wanted.index(name))):
        home = next((p for p in panels if name.endswith(f"_{p}")), name)
        panels.setdefault(home, []).append(name)
    panels = dict(sorted(panels.items(), key=lambda item: wanted.index(item[1][0])))
    across = min(len(panels), 3)
    down = math.ceil(len(panels) / across)
    figure = _figure(4.2 * across, 3.2 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
        values = []
        for label, history in histories.items():
            for name in members:
                rows = [r for r in history if name in r]
                ys = [row[name] for row in rows]
                part = name.removesuffix(title).rstrip("_") or "training"
                both = [label, part] if len(members) > 1 else [label]
                text = ", ".join(filter(None, both))
                marker = "o" if len(ys) < 12 else ""
                axes.plot(
                    [r["epoch"] for r in rows], ys, label=text, marker=marker, ms=3
                )
                values += ys
        low, high = min(values), max(values)
        scale = "log" if low > 0 and high > 10 * low else "linear"
        axes.set(xlabel="epoch", ylabel=title.replace("_", " "), yscale=scale)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _finished(axes, legend=len(members) > 1 or len(histories) > 1)
    return figure


def _history(run: Any) -> list[dict[str, Any]]:
    if not isinstance(run, str | os.PathLike):
        history = list(run)
    else:
        path = Path(run)
        path = path / "metrics.jsonl" if path.is_dir() else path
        try:
            history = [json.loads(line) for line in path.read_text().splitlines()]
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is no log of a run ({error}); expected a JSON object a line. "
                "Write the metrics.jsonl of rnnjax.training.fit."
            ) from error
    if not history:
        raise ValueError(
            f"runs has {run!r}, a history of no epochs; expected at least one. Train "
            "first, with rnnjax.training.fit."
        )
    for row in history:
        if not isinstance(row, dict) or "epoch" not in row:
            raise ValueError(
                f"runs holds {row!r}; expected an epoch and its metrics. Write "
                "{'epoch': 1, 'loss': 2.0}, as rnnjax.training.fit does."
            )
    return history


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'rnnjax.plot needs matplotlib. Write pip install "rnnjax[plot]".'
        ) from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _finished(axes: Any, *, legend: bool) -> None:
    axes.grid(linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def _limit(sizes: np.ndarray) -> float:
    sizes = sizes[np.isfinite(sizes)]
    if not sizes.size:
        return 1.0
    return float(np.quantile(sizes, 0.95)) or float(sizes.max()) or 1.0


def _visible(text: str) -> str:
    return {"\n": "⏎", " ": "␣", "\t": "⇥"}.get(text, text)
