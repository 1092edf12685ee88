"""A loop in Python."""

import jax
import jax.numpy as jnp

from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def static(project, step, params, carry, xs):
    """A Python loop: outside ``jit``, prints and debuggers see every step.

    Compile time grows with the number of steps.

    >>> import rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.static)
    """
    both, params = sums.joined(project, step, params)
    ys = []
    for t in range(jax.tree.leaves(xs)[0].shape[0]):
        x = jax.tree.map(lambda a, t=t: a[t], xs)
        carry, y = both(params, carry, x)
        ys.append(y)
    return carry, jax.tree.map(lambda *steps: jnp.stack(steps), *ys)
