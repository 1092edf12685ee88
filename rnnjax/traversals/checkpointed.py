"""Keep a few carries and recompute between them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def checkpointed(project, step, params, carry, xs):
    r"""Keep the carry at :math:`\sqrt t` places and recompute between them.

    Memory for the backward pass falls from :math:`O(t)` to :math:`O(\sqrt t)` steps, at
    the price of one more forward pass.

    Reference: Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost,
    2016, arXiv:1604.06174.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.checkpointed)
    """
    time = jax.tree.leaves(xs)[0].shape[0]
    length = math.isqrt(time - 1) + 1
    segments = time // length
    both, params = sums.joined(project, step, params)

    # Inside a scan there is nothing for the barrier of prevent_cse to keep apart.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def segment(params, carry, part):
        return lax.scan(lambda c, x: both(params, c, x), carry, part)

    def fold(a):
        return a[: segments * length].reshape(segments, length, *a.shape[1:])

    carry, ys = lax.scan(
        lambda c, part: segment(params, c, part), carry, jax.tree.map(fold, xs)
    )
    ys = jax.tree.map(lambda a: a.reshape(segments * length, *a.shape[2:]), ys)
    if segments * length == time:
        return carry, ys
    tail = jax.tree.map(lambda a: a[segments * length :], xs)
    carry, last = segment(params, carry, tail)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, last)
