"""Project inside the loop."""

from jax import lax

from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def fused(project, step, params, carry, xs):
    """Project inside the loop: one `jax.lax.scan` that keeps only what it needs.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> rnnjax.scan.fused(
    ...     lambda rate, x: rate * x, lambda rate, c, z: (c + z, c + z),
    ...     2.0, 0.0, jnp.arange(4.0))
    (Array(12., dtype=float32), Array([ 0.,  2.,  6., 12.], dtype=float32))
    """
    both, params = sums.joined(project, step, params)
    return lax.scan(lambda c, x: both(params, c, x), carry, xs)
