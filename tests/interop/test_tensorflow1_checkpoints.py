"""Checkpoints of real TensorFlow 1 programs, recorded by a script in ../recorded."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import interop

RECORDED = pathlib.Path(__file__).parents[1] / "recorded/checkpoints"
RELU: dict[str, Any] = {"activation": jax.nn.relu}
CLIPS: dict[str, Any] = {"cell_clip": 0.8, "projection_clip": 0.3}


def full(size):
    return rnnjax.full_lstm(size, 3, peepholes=True, projection_size=2, **CLIPS)


def both(cell):
    return rnnjax.bidirectional(cell)


def gru(*sizes):
    return rnnjax.gru(*sizes, reset_after=False)


# The program, what its names start with, the cell, and what no variable tells.
CASES = {
    "basic_lstm": ("rnn/", rnnjax.lstm(2, 3), {}),
    "multi_lstm_with_everything": ("rnn/", rnnjax.stack(full(2), full(2)), CLIPS),
    "lstm_with_relu": (
        "rnn/",
        rnnjax.full_lstm(2, 3, peepholes=True, **RELU),
        {"forget_bias": 0.5} | RELU,
    ),
    "multi_gru_and_rnn": ("rnn/", rnnjax.stack(gru(2, 4), rnnjax.elman(4, 3)), {}),
    "bidirectional_lstm": ("bidirectional_rnn/", both(rnnjax.lstm(2, 3)), {}),
    "stack_bidirectional_gru": (
        "stack_bidirectional_rnn/",
        rnnjax.stack(both(gru(2, 3)), both(gru(6, 3))),
        {},
    ),
}


def read(name):
    recorded = dict(np.load(RECORDED / f"{name}.npz"))
    start = "variable."
    variables = {
        n.removeprefix(start): a for n, a in recorded.items() if n.startswith(start)
    }
    return recorded, variables


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_computes_the_same(name):
    prefix, cell, options = CASES[name]
    recorded, variables = read(name)

    def imported(variables):
        return interop.from_tensorflow1(variables, prefix=prefix, **options)

    found = imported(variables)
    assert found.cell == cell
    assert found.report.verdict == "exact"

    def loss(params, xs):
        ys = rnnjax.unroll(cell, params, xs, lengths=recorded["lengths"])[1]
        return (ys * recorded["weight"]).sum(), ys

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (of_params, of_xs), ys = gradient(found.params, jnp.asarray(recorded["xs"]))
    np.testing.assert_allclose(ys, recorded["ys"], atol=1e-5)
    np.testing.assert_allclose(of_xs, recorded["grad.xs"], atol=1e-5)
    # Along a random direction of each variable, and what becomes of it in our params.
    rng, of_params = np.random.default_rng(0), jax.tree.map(np.asarray, of_params)
    trained = [n for n in variables if f"grad.{n}" in recorded]
    assert len(trained) >= 2
    for variable in trained:
        direction = rng.normal(size=variables[variable].shape)
        moved = imported(variables | {variable: variables[variable] + direction})
        products = jax.tree.map(
            lambda g, a, b: (g * (np.asarray(a) - np.asarray(b))).sum(),
            of_params,
            moved.params,
            found.params,
        )
        along = (recorded[f"grad.{variable}"] * direction).sum()
        np.testing.assert_allclose(
            sum(jax.tree.leaves(products)), along, atol=1e-5, err_msg=variable
        )


@pytest.mark.parametrize("name", CASES)
def test_an_import_exported_is_the_checkpoint_again(name):
    prefix, cell, options = CASES[name]
    recorded, variables = read(name)
    params = interop.from_tensorflow1(variables, prefix=prefix, **options).params
    bias = options.get("forget_bias", 1.0)
    exported = interop.to_tensorflow1(cell, params, forget_bias=bias)
    trained = {n: a for n, a in variables.items() if f"grad.{n}" in recorded}
    assert exported.arrays.keys() == trained.keys()
    for variable, array in trained.items():
        np.testing.assert_allclose(exported.arrays[variable], array, atol=1e-12)
    assert exported.report.verdict == "exact"
    told = " ".join(exported.report.notes)
    for value in options.values():
        assert getattr(value, "__name__", str(value)) in told


def test_every_recorded_checkpoint_is_compared():
    assert {path.stem for path in RECORDED.glob("*.npz")} == set(CASES)


def test_cudnn_compatible_cells_have_no_forget_bias_and_reset_after():
    _, variables = read("basic_lstm")
    compatible = {
        n.replace("basic_lstm", "cudnn_compatible_lstm"): a
        for n, a in variables.items()
    }
    plain = interop.from_tensorflow1(variables, prefix="rnn/", forget_bias=0.0)
    found = interop.from_tensorflow1(compatible, prefix="rnn/")
    jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)

    cell = rnnjax.gru(2, 3)
    params = cell.init(jax.random.key(0))
    params = params._replace(b_hn=jnp.arange(3.0), b=jnp.arange(9.0))
    exported = interop.to_tensorflow1(cell, params)
    assert "rnn/cudnn_compatible_gru_cell/gates/kernel" in exported.arrays
    back = interop.from_tensorflow1(exported.arrays)
    assert back.cell == cell
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
