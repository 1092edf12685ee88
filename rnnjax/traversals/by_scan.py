"""The loop of JAX, as it suits the platform."""

import jax

from rnnjax.traversals.deferred import deferred
from rnnjax.traversals.fused import fused


def by_scan(project, step, params, carry, xs, *, mask=None, reset=None):
    """Loop with `jax.lax.scan`: `fused` on a CPU, `deferred` elsewhere.

    It takes every step. ``docs/design.md`` has the figures for this choice.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.scan.by_scan(
    ...     lambda rate, x: rate * x, lambda rate, c, z: (c + z, c + z),
    ...     2.0, 0.0, jnp.arange(4.0))
    (Array(12., dtype=float32), Array([ 0.,  2.,  6., 12.], dtype=float32))
    """
    walk = fused if jax.default_backend() == "cpu" else deferred
    return walk(project, step, params, carry, xs, mask=mask, reset=reset)
