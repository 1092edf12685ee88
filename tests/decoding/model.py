"""A small decoder over four tokens, which the tests of this folder share."""

import jax

import rnnjax

VOCABULARY, END, STEPS = 4, 2, 5
CELL = rnnjax.stack(
    rnnjax.embedding(VOCABULARY, 3), rnnjax.gru(3, 6), rnnjax.dense(6, VOCABULARY)
)
KEY = jax.random.key(0)
unroll, step = jax.jit(CELL.unroll), jax.jit(CELL.step)
