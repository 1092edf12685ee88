r"""Linear recurrences :math:`h_t = a_t h_{t-1} + b_t`, all steps at once.

Coefficients are ``a: (t, *units, m, m)`` and ``b: (t, *units, m)``: units that see only
themselves, each of ``m`` numbers. With ``m = 1`` they are elementwise, and without
units ``a`` is a full matrix for each step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import meshes

# Matrices so small are multiplied element by element: no product of many small matrices
# is as fast.
_SMALL = 4

Solve = Callable[[Array, Array], Array]
"""``(a, b) -> h``, all states after a state of zero."""


def recurrence(solve: Solve, a: Array, b: Array, start: Array) -> Array:
    """All states, ``(t, *units, m)``, after ``start: (*units, m)``.

    The derivatives are those of a linear system: its transpose is the same recurrence
    backwards, so that a and h are all that is kept, whatever ``solve`` computes.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> a, b = jnp.full((4, 1, 1), 2.0), jnp.ones((4, 1))
    >>> linear.recurrence(linear.prefix, a, b, jnp.ones(1))[:, 0]
    Array([ 3.,  7., 15., 31.], dtype=float32)
    """

    def residual(h):
        return h - times(a, after_zero(h))

    b = b.at[0].add(times(a[0], start))
    return lax.custom_linear_solve(
        residual, b, lambda _, b: solve(a, b), lambda _, g: back(solve, a, g)
    )


def back(solve: Solve, a: Array, g: Array) -> Array:
    """The transpose of ``solve`` in b: the same walk from the last step to the first.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> a, g = jnp.full((3, 1, 1), 2.0), jnp.ones((3, 1))
    >>> linear.back(linear.prefix, a, g)[:, 0]
    Array([7., 3., 1.], dtype=float32)
    """
    # What h_t gives to h_{t+1} comes back from there.
    given = after_zero(jnp.flip(a, 0)).mT
    return jnp.flip(solve(given, jnp.flip(g, 0)), 0)


def prefix(a: Array, b: Array) -> Array:
    """By `jax.lax.associative_scan`."""

    def then(first, second):
        (a1, b1), (a2, b2) = first, second
        return times_matrix(a2, a1), times(a2, b1) + b2

    return lax.associative_scan(then, (a, b))[1]


def chunks(a: Array, b: Array, size: int) -> Array:
    """By ``size`` steps in all chunks at once, then the states between chunks."""
    time = len(a)
    count = -(-time // size)
    padding = count * size - time

    def fold(x):
        x = jnp.pad(x, ((0, padding), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(count, size, *x.shape[1:]).swapaxes(0, 1)

    def inside(state, step):
        product, h = state
        a, b = step
        state = times_matrix(a, product), times(a, h) + b
        return state, state

    a, b = fold(a), fold(b)
    first = a[0], b[0]
    _, rest = lax.scan(inside, first, (a[1:], b[1:]))
    products, states = jax.tree.map(
        lambda one, more: jnp.concatenate([one[None], more]), first, rest
    )

    def between(h, chunk):
        product, state = chunk
        return times(product, h) + state, h

    zero = meshes.varying(jnp.zeros_like(states[-1, 0]), states)
    _, before = lax.scan(between, zero, (products[-1], states[-1]))
    h = states + times(products, before[None])
    return h.swapaxes(0, 1).reshape(count * size, *h.shape[2:])[:time]


def after_zero(h: Array) -> Array:
    """What stood one step before: zero before the first.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> linear.after_zero(jnp.array([1, 2, 3]))
    Array([0, 1, 2], dtype=int32)
    """
    return jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])


def columns(change: Callable[[Array], Array], h: Array) -> Array:
    """The matrices ``(*units, m, m)`` of a linear map of ``h: (*units, m)``.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> linear.columns(lambda h: 2 * h, jnp.zeros((5, 2))).shape
    (5, 2, 2)
    """
    one = jnp.eye(h.shape[-1], dtype=h.dtype)

    def column(row):
        return change(meshes.varying(jnp.broadcast_to(row, h.shape), h))

    return jnp.moveaxis(jax.vmap(column)(one), 0, -1)


def times(a: Array, h: Array) -> Array:
    """``a @ h`` of the units of all steps.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> linear.times(jnp.ones((5, 2, 2)), jnp.ones((5, 2))).shape
    (5, 2)
    """
    size = a.shape[-1]
    if size == 1:
        return a[..., 0] * h
    if size <= _SMALL:
        return (a * h[..., None, :]).sum(-1)
    return (a @ h[..., None])[..., 0]


def times_matrix(a: Array, b: Array) -> Array:
    """``a @ b`` of the units of all steps.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import linear
    >>> linear.times_matrix(jnp.ones((5, 2, 2)), jnp.ones((5, 2, 2))).shape
    (5, 2, 2)
    """
    size = a.shape[-1]
    if size == 1:
        return a * b
    if size <= _SMALL:
        return (a[..., None] * b[..., None, :, :]).sum(-2)
    return a @ b
