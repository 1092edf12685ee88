"""Gradients on the way by rnnjax, for `benchmarks.online`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from rnnjax import cells, online

PACKAGES = ("rnnjax", "jax", "jaxlib")

RULES = {
    "e_prop": online.e_prop(),
    "units": online.units(),
    "snap": online.snap(1),
    "rtrl": online.rtrl(),
}


def indrnn(inputs: int, units: int) -> rnnjax.Cell:
    """As braintrace's cells are, with a smooth activation."""
    return rnnjax.indrnn(inputs, units, activation=jnp.tanh)


CELLS = {
    "elman": (rnnjax.elman, cells.ElmanParams),
    "lstm": (rnnjax.lstm, cells.LSTMParams),
    "gru": (rnnjax.gru, cells.GRUParams),
    "min_gru": (rnnjax.min_gru, cells.MinimalParams),
    "indrnn": (indrnn, cells.IndependentParams),
}


def prepare(
    cell: str, rule: str, params: dict[str, np.ndarray]
) -> Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]:
    """A compiled ``(xs, weights) -> (ys, gradients of (ys * weights).sum())``."""
    make, kind = CELLS[cell]
    held = jax.tree.map(jnp.asarray, kind(**params))

    @jax.jit
    def run(xs, weights):
        learner = online.learner(make(xs.shape[1], weights.shape[1]), RULES[rule])

        def step(carried, given):
            state, total = carried
            x, weight = given
            y, pull, state = learner.step(held, state, x)
            return (state, jax.tree.map(jnp.add, total, pull(weight))), y

        start = learner.init(held, xs[0]), jax.tree.map(jnp.zeros_like, held)
        (_, total), ys = jax.lax.scan(step, start, (xs, weights))
        return ys, total._asdict()

    return run
