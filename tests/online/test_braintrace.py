"""The rules that braintrace has too give the same numbers; it was recorded."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_online import close, on_the_way

import rnnjax
from rnnjax import cells, online

RECORDED = pathlib.Path(__file__).parents[1] / "recorded"
CELLS = {
    "elman": (rnnjax.elman(2, 3), cells.ElmanParams),
    "lstm": (rnnjax.lstm(2, 3), cells.LSTMParams),
    "gru": (rnnjax.gru(2, 3), cells.GRUParams),
    "min_gru": (rnnjax.min_gru(2, 3), cells.MinimalParams),
    "indrnn": (rnnjax.indrnn(2, 3, activation=jnp.tanh), cells.IndependentParams),
}
RULES = {
    "e_prop": online.e_prop(),
    "snap": online.snap(1),
    "rtrl": online.rtrl(),
    "units": online.units(),
}
CASES = [(cell, rule) for cell in ("elman", "lstm", "gru") for rule in list(RULES)[:3]]
CASES += [("min_gru", "units"), ("indrnn", "units")]


@functools.cache
def recorded(name):
    with np.load(RECORDED / f"braintrace_{name}.npz") as file:
        return {key: jnp.asarray(value) for key, value in file.items()}


def part(stored, kind, prefix):
    return kind(
        **{
            key.removeprefix(prefix): value
            for key, value in stored.items()
            if key.startswith(prefix)
        }
    )


def putting_out_what_was(cell):
    """The output is the state before the step, of which a step makes nothing new."""

    def step(params, carry, x):
        return cell.step(params, carry, x)[0], getattr(carry, "h", carry)

    return rnnjax.Cell(cell.init, cell.initial_carry, step, cell.unroll)


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_gradients_are_those_of_braintrace(name, rule):
    stored, (cell, kind) = recorded(name), CELLS[name]
    params, expected = (
        part(stored, kind, prefix) for prefix in ("params.", f"grad.{rule}.")
    )
    xs, weights = stored["xs"], stored["weights"]
    _, ys = cell.unroll(params, cell.initial_carry(params), xs)
    close(ys, stored["ys"])
    if rule == "snap":
        # There the influence is cut down before the output reads it, here after.
        cell = putting_out_what_was(cell)
        xs = jnp.concatenate([xs, xs[:1]])
        weights = jnp.concatenate([jnp.zeros_like(weights[:1]), weights])
    close(on_the_way(cell, RULES[rule], params, xs, weights), expected)


def test_the_lstm_cell_of_braintrace_counts_what_passes_through_c_twice():
    stored, (cell, kind) = recorded("lstm_cell"), CELLS["lstm"]
    params, theirs = (part(stored, kind, p) for p in ("params.", "grad.e_prop."))
    ours = on_the_way(cell, online.e_prop(), params, stored["xs"], stored["weights"])
    times = jnp.repeat(jnp.array([2.0, 2, 2, 1]), 3)
    close(theirs, jax.tree.map(lambda a: a * times, ours))
