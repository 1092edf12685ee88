"""Project inside the loop."""

from jax import lax

from rnnjax.signals import gated
from rnnjax.traversals import sums


def walk(project, step, params, carry, xs):
    """What `fused` does, without masks and resets."""

    def both(params, carry, x):
        return step(params, carry, project(params, x))

    narrowed, params = sums.in_dtypes_of(params, both), sums.wide(params)
    return lax.scan(lambda c, x: narrowed(params, c, x), carry, xs)


@gated
def fused(project, step, params, carry, xs):
    """Project inside the loop: one `jax.lax.scan` that keeps only what it needs.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> rnnjax.scan.fused(
    ...     lambda rate, x: rate * x, lambda rate, c, z: (c + z, c + z),
    ...     2.0, 0.0, jnp.arange(4.0))
    (Array(12., dtype=float32), Array([ 0.,  2.,  6., 12.], dtype=float32))
    """
    return walk(project, step, params, carry, xs)
