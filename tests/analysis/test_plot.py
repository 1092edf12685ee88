"""Pictures show the numbers that went in; gradients of the carry are as by hand."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import plot

pytest.importorskip("matplotlib")

CELL = rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.gru(5, 4))
PARAMS = CELL.init(jax.random.key(0))
XS = np.random.default_rng(0).normal(size=(7, 3))


def zeros(params):
    return jnp.zeros_like(params)


def numbers(line):
    """Both coordinates of a line's points."""
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def traced():
    return rnnjax.trace(CELL, PARAMS, CELL.initial_carry(PARAMS), XS)


def images(figure):
    """Title, values and limits of each heat map."""
    found = {}
    for axes in figure.axes:
        if title := axes.get_title(loc="left"):
            (image,) = axes.images
            found[title] = (image.get_array(), image.get_clim())
    return found


def drawn(figure, path):
    figure.savefig(path / "figure.png")
    return (path / "figure.png").stat().st_size > 1000


def test_states_are_those_of_the_trace(tmp_path):
    trace = traced()
    figure = plot.states(trace)
    found = images(figure)
    assert tuple(found) == trace.names
    for name, value in trace.items():
        shown, limits = found[name]
        np.testing.assert_allclose(shown, value.T, rtol=1e-6)
        assert shown.shape == (value.shape[1], 7)
        if name.split(".")[1] in "ifozr":
            assert limits == (0, 1)
        else:
            assert limits[0] == -limits[1]
            assert np.mean(np.abs(shown) <= limits[1]) == pytest.approx(0.95, abs=0.03)
    assert drawn(figure, tmp_path)


def test_states_chosen_labelled_and_cut(tmp_path):
    figure = plot.states(traced(), ["1.h", "0.f"], steps=list("ab\nc de"), most=2)
    found = images(figure)
    assert [(name, shown.shape) for name, (shown, _) in found.items()] == [
        ("1.h", (2, 7)),
        ("0.f", (2, 7)),
    ]
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["a", "b", "⏎", "c", "␣", "d", "e"]
    assert drawn(figure, tmp_path)


def test_values_that_are_mostly_or_wholly_zero_have_a_scale(tmp_path):
    def of(value):
        trace = rnnjax.Trace(("c",), (jnp.asarray(value),))
        figure = plot.states(trace)
        assert drawn(figure, tmp_path)
        return images(figure)["c"][1]

    mostly = np.zeros((40, 2))
    assert of(mostly) == (0, 1)
    mostly[3, 1] = -7
    assert of(mostly) == (-7, 7)
    mostly[30:] = np.nan  # as after a state has grown without bounds
    assert of(mostly) == (-7, 7)
    assert of(np.full((4, 2), np.nan)) == (-1, 1)


def test_values_of_one_number_a_step():
    def step(params, h, z):
        h = jnp.tanh(h + z.sum())
        rnnjax.observe(h=h)
        return h, h

    cell = rnnjax.recurrence(lambda key: jnp.zeros(()), zeros, lambda p, x: x + p, step)
    params = cell.init(jax.random.key(0))
    trace = rnnjax.trace(cell, params, cell.initial_carry(params), XS)
    ((shown, _),) = images(plot.states(trace)).values()
    np.testing.assert_allclose(shown, trace["h"][None])


def test_a_constructor_of_ones_own_is_traced_through():
    @rnnjax.constructor
    def encoder(size):
        return rnnjax.stack(rnnjax.lstm(3, size), rnnjax.gru(size, 4))

    carry = CELL.initial_carry(PARAMS)
    found = rnnjax.trace(encoder(5), PARAMS, carry, XS)
    assert found.names == traced().names
    for one, other in zip(found.arrays, traced().arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_states_refuse_what_does_not_fit():
    with pytest.raises(KeyError, match=r"2\.h"):
        plot.states(traced(), ["2.h"])
    with pytest.raises(ValueError, match="steps has 3 texts; expected 7"):
        plot.states(traced(), steps=list("abc"))
    with pytest.raises(ValueError, match="one or more values"):
        plot.states(traced(), [])


# Gradients.


def test_gradient_norms_are_over_the_whole_carry(tmp_path):
    gradient = rnnjax.LSTMCarry(c=jnp.full((4, 3, 1), 2.0), h=jnp.full((4, 2), 1.0))
    figure = plot.gradient_norms({"a": gradient, "b": np.ones((4, 9))})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    np.testing.assert_allclose(numbers(lines[0])[1], np.sqrt(4 * 3 + 2))
    np.testing.assert_allclose(numbers(lines[1])[1], 3)
    assert drawn(figure, tmp_path)


# Curves.


HISTORY = [
    {
        "epoch": epoch,
        "loss": 10.0**-epoch,
        "accuracy": 0.5 + 0.1 * epoch,
        "test_accuracy": 0.5 + 0.05 * epoch,
        "seconds": 1.0,
    }
    for epoch in (1, 2, 3)
]


def write_log(folder):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in HISTORY))
    return path


def test_curves_from_a_history_a_file_and_a_folder(tmp_path):
    path = write_log(tmp_path)
    for source in (HISTORY, path, str(path), tmp_path):
        figure = plot.curves(source)
        loss, accuracy = figure.axes
        assert (loss.get_ylabel(), loss.get_yscale()) == ("loss", "log")
        assert (accuracy.get_ylabel(), accuracy.get_yscale()) == ("accuracy", "linear")
        assert [line.get_label() for line in accuracy.lines] == ["training", "test"]
        for line, name in zip(
            accuracy.lines, ("accuracy", "test_accuracy"), strict=True
        ):
            values = [record[name] for record in HISTORY]
            assert numbers(line) == ([1, 2, 3], values)
    assert drawn(figure, tmp_path)


def test_curves_of_several_runs_and_chosen_metrics(tmp_path):
    other = [record | {"loss": 1.0, "new": 1.0} for record in HISTORY[:2]]
    figure = plot.curves({"one": HISTORY, "two": other}, ["loss"])
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["one", "two"]
    assert [len(numbers(line)[0]) for line in axes.lines] == [3, 2]
    figure = plot.curves({"one": HISTORY, "two": other})
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert labels == ["one, training", "one, test", "two, training", "two, test"]
    assert [line.get_label() for line in figure.axes[2].lines] == ["one", "two"]
    assert [len(numbers(line)[0]) for line in figure.axes[2].lines] == [0, 2]
    assert drawn(figure, tmp_path)


def test_curves_refuse_what_is_no_log(tmp_path):
    with pytest.raises(FileNotFoundError):
        plot.curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="history of no epochs"):
        plot.curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("epoch 1\n")
    with pytest.raises(ValueError, match="no log of a run"):
        plot.curves(tmp_path)
    with pytest.raises(ValueError, match="recall"):
        plot.curves(HISTORY, ["recall"])
    for row in ({"loss": 1.0}, 3):
        with pytest.raises(ValueError, match="an epoch and its metrics"):
            plot.curves([row])  # pyright: ignore[reportArgumentType]


# Matplotlib is for those who draw.


def test_the_package_does_without_matplotlib():
    code = "import sys, rnnjax; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install \"rnnjax\[plot\]\""):
        plot.curves(HISTORY)


def two_runs():
    """A straight line and its shadow: all variance is along (3, 4)."""
    along = np.linspace(-1, 1, 9)[:, None] * np.array([3.0, 4.0, 0.0])
    return np.stack([along, along + np.array([0.4, -0.3, 0.0])])


def test_a_phase_portrait_is_the_plane_of_most_variance(tmp_path):
    runs = two_runs()
    figure = plot.phase_portrait({"c": runs[..., :1], "h": runs[..., 1:]})
    lines = [np.stack(line.get_data(), -1) for line in figure.axes[0].lines]
    assert len(lines) == 2
    np.testing.assert_allclose(np.ptp(lines[0], axis=0), [10, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs((lines[1] - lines[0])[:, 1]), 0.5, atol=1e-9)
    assert drawn(figure, tmp_path)


def test_a_phase_portrait_shows_points_by_kind(tmp_path):
    eigenvalues = np.array([[0.5, 0.1, 0.0], [1.5, 0.1, 0.0], [2.0, 1.1, 0.0]])
    at = two_runs()[0, :3]
    rest = np.zeros((3, 3, 3)), eigenvalues, np.ones(3), 0
    points = rnnjax.dynamics.FixedPoints(at, np.zeros(3), *rest)
    figure = plot.phase_portrait(two_runs(), points)
    stable, others = figure.axes[0].collections
    assert [np.shape(c.get_offsets()) for c in (stable, others)] == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(np.asarray(others.get_array()), [1, 2])
    assert drawn(figure, tmp_path)


def test_a_phase_portrait_says_what_it_takes():
    with pytest.raises(ValueError, match="sequences and time on their first two axes"):
        plot.phase_portrait(np.zeros(3))


def test_a_spectrum_shows_all_eigenvalues(tmp_path):
    values = np.array([[0.5 + 0.5j, 0.5 - 0.5j], [1.2, -0.1]])
    figure = plot.spectrum(values)
    (shown,) = figure.axes[0].collections
    found = np.asarray(shown.get_offsets()) @ np.array([1, 1j])
    np.testing.assert_allclose(np.asarray(found), values.reshape(-1))
    assert drawn(figure, tmp_path)
