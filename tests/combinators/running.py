"""One unroll of a cell, for the tables of misuses."""

import jax
import jax.numpy as jnp

TIME, INPUT = 7, 3


def run(cell, xs=None, key=None):
    params = cell.init(jax.random.key(0))
    xs = jnp.ones((TIME, INPUT)) if xs is None else xs
    key = jax.random.key(0) if key is None else key
    return cell.unroll(params, cell.initial_carry(params), xs, key=key)
