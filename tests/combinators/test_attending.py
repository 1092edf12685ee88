"""Attention over a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import testing

TIME, INPUT = 7, 3
WRAPPERS = {
    "attention": rnnjax.attention(rnnjax.elman(INPUT + 2, 3), INPUT, 2, (5, 2)),
    "attention-luong": rnnjax.attention(
        rnnjax.elman(INPUT + 2, 3), INPUT, 2, (5, 4), score="multiplicative"
    ),
}


@pytest.mark.parametrize("cell", WRAPPERS.values(), ids=WRAPPERS)
def test_the_contract(cell):
    testing.check_cell(cell, np.ones(INPUT))


def start(cell):
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (TIME, INPUT))
    return params, cell.initial_carry(params), xs


def test_attention_does_not_keep_its_memory_for_each_step():
    steps, length = 50, 300
    cell = rnnjax.attention(rnnjax.gru(INPUT + 4, 5), INPUT, 4, (length, 6))
    params, carry, _ = start(cell)
    xs = jnp.ones((steps, INPUT))

    def loss(params):
        return cell.unroll(params, carry, xs)[1].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
    sizes = [
        v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars if v.aval.ndim == 3
    ]
    # The tanh of the additive score is kept (its slope is needed), the memory is not.
    assert steps * length * 6 not in sizes
