"""Ways around a cell: residuals, highways, skips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from combinators.running import run

import rnnjax
from rnnjax import testing

TIME, INPUT = 7, 3
WRAPPERS = {
    "highway": rnnjax.highway(rnnjax.bidirectional(rnnjax.gru(3, 2)), INPUT, 4),
    "skip-stack": rnnjax.skip_stack(rnnjax.gru(INPUT, 2), rnnjax.lstm(INPUT + 2, 2)),
}


@pytest.mark.parametrize("cell", WRAPPERS.values(), ids=WRAPPERS)
def test_the_contract(cell):
    testing.check_cell(cell, np.ones(INPUT))


def start(cell):
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (TIME, INPUT))
    return params, cell.initial_carry(params), xs


def test_highway_and_skips_by_hand():
    inner = rnnjax.gru(INPUT, 2)
    cell = rnnjax.highway(inner, INPUT, 2)
    params, carry, xs = start(cell)
    gate = 1 / (1 + np.exp(-(xs @ params.w + params.b)))
    plain = inner.unroll(params.cell, carry, xs)[1]
    expected = gate * (xs @ params.w_skip) + (1 - gate) * plain
    np.testing.assert_allclose(cell.unroll(params, carry, xs)[1], expected)
    cells = rnnjax.gru(INPUT, 2), rnnjax.elman(INPUT + 2, 4), rnnjax.gru(INPUT + 4, 1)
    params, carry, xs = start(rnnjax.skip_stack(*cells))
    outputs, seen = [], xs
    for cell, p, c in zip(cells, params, carry, strict=True):
        outputs.append(cell.unroll(p, c, seen)[1])
        seen = jnp.concatenate([xs, outputs[-1]], 1)
    found = rnnjax.skip_stack(*cells).unroll(params, carry, xs)[1]
    np.testing.assert_allclose(found, np.concatenate(outputs, 1))


def test_projected_residual_is_parallel_with_a_sum():
    cell = rnnjax.parallel(rnnjax.gru(3, 4), rnnjax.dense(3, 4), merge=jnp.add)
    params, carry, xs = start(cell)
    expected = rnnjax.gru(3, 4).unroll(params[0], carry[0], xs)[1]
    expected = expected + xs @ params[1].w + params[1].b
    np.testing.assert_allclose(cell.unroll(params, carry, xs)[1], expected)


MISUSE = {
    "highway": (lambda: run(rnnjax.highway(rnnjax.gru(3, 4), 3)), "output_size=4"),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_answered_with_what_to_write(wrong, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        wrong()
