"""Project before the loop."""

from jax import lax

from rnnjax.checks import time_steps
from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def hoisted(project, step, params, carry, xs):
    """Project all time steps in one product before the loop.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.hoisted)
    """
    zs = sums.at_all_times(project, params, time_steps(xs), xs)
    step, params = sums.in_dtypes_of(params, step), sums.wide(params)
    return lax.scan(lambda c, z: step(params, c, z), carry, zs)
