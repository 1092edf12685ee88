"""Project before the loop."""

import jax
from jax import lax

from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def hoisted(project, step, params, carry, xs):
    """Project all time steps in one product before the loop.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.hoisted)
    """
    zs = jax.vmap(project, in_axes=(None, 0))(params, xs)
    step, params = sums.in_dtypes_of(params, step), sums.wide(params)
    return lax.scan(lambda c, z: step(params, c, z), carry, zs)
