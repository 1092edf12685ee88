"""The carry that sequences start with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from combinators.running import run

import rnnjax
from rnnjax import testing

TIME, INPUT = 7, 3
WRAPPERS = {
    "initial-carry": rnnjax.with_initial_carry(
        rnnjax.gru(INPUT, 2), lambda key: jax.random.normal(key, (2,)), jnp.tanh
    ),
}


@pytest.mark.parametrize("cell", WRAPPERS.values(), ids=WRAPPERS)
def test_the_contract(cell):
    testing.check_cell(cell, np.ones(INPUT))


MISUSE = {
    "start": (
        lambda: run(
            rnnjax.with_initial_carry(
                rnnjax.gru(3, 4), lambda key: (), lambda _: jnp.ones(5)
            )
        ),
        "what start returned",
    ),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_answered_with_what_to_write(wrong, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        wrong()
