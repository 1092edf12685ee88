r"""A linear recurrence as a JAX primitive, and the rules by which JAX transforms it.

.. math:: h_t = a_t h_{t-1} + b_t, \qquad g_t = a_{t+1}^T g_{t+1} + b_t

from a state of zero; the second, in reverse, is the transpose of the first in b. So
these two are all that derivatives of any order need: the tangent of either is the same
recurrence of :math:`db_t + da_t h_{t-1}`, and what is kept are a and h. In place of a
prefix scan a platform may have a kernel, see `rnnjax.kernels.linear`.

The batch is an explicit axis, and `jax.vmap` is folded into it. Coefficients that are
the same for all rows have one.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnjax import meshes
from rnnjax.programs import compiled, mapped_size
from rnnjax.traversals import linear

solver_p = Primitive("linear_recurrence")


def recurrence(a: Array, b: Array, start: Array) -> Array:
    """All states, ``(t, *units, m)``, after ``start: (*units, m)``.

    Coefficients are those of `rnnjax.traversals.linear`.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import solver
    >>> a, b = jnp.full((4, 1, 1), 2.0), jnp.ones((4, 1))
    >>> solver.recurrence(a, b, jnp.ones(1))[:, 0]
    Array([ 3.,  7., 15., 31.], dtype=float32)
    """
    return states(a, b.at[0].add(linear.times(a[0], start)))


def states(a: Array, b: Array) -> Array:
    """The same after a state of zero.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import solver
    >>> solver.states(jnp.full((3, 1, 1), 2.0), jnp.ones((3, 1)))[:, 0]
    Array([1., 3., 7.], dtype=float32)
    """
    time, *_, m = b.shape
    units = b.size // max(time * m, 1)
    a, b = meshes.varying((a, b))
    rows = a.reshape(1, time, units, m, m), b.reshape(1, time, units, m)
    return solver_p.bind(*rows, reverse=False).reshape(b.shape)


def prefix(a: Array, b: Array, *, reverse: bool) -> Array:
    """What the primitive computes, by prefix scans: ``(n, t, u, m)``.

    Args:
      a: the coefficients ``(n, t, u, m, m)``, or ``(1, t, u, m, m)`` for all rows.
      b: what is added, ``(n, t, u, m)``.
      reverse: walk from the last step to the first, with transposed coefficients.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import solver
    >>> a, b = jnp.full((1, 3, 1, 1, 1), 2.0), jnp.ones((2, 3, 1, 1))
    >>> solver.prefix(a, b, reverse=True)[1].ravel()
    Array([7., 3., 1.], dtype=float32)
    """
    walk = functools.partial(linear.back, linear.prefix)
    one = walk if reverse else linear.prefix
    if len(a) == len(b):
        return jax.vmap(one)(a, b)
    return jax.vmap(one, (None, 0))(a[0], b)


def _jvp(
    primals: Sequence, tangents: Sequence, *, reverse: bool
) -> tuple[Array, Array]:
    (a, b), (d_a, d_b) = primals, tangents
    h = solver_p.bind(a, b, reverse=reverse)
    if type(d_a) is not ad.Zero:
        if reverse:
            moved = linear.times(d_a[:, 1:].mT, h[:, 1:])
            moved = jnp.pad(moved, ((0, 0), (0, 1), (0, 0), (0, 0)))
        else:
            moved = linear.times(d_a[:, 1:], h[:, :-1])
            moved = jnp.pad(moved, ((0, 0), (1, 0), (0, 0), (0, 0)))
        d_b = moved if type(d_b) is ad.Zero else d_b + moved
    return h, solver_p.bind(a, d_b, reverse=reverse)


def _transpose(cotangent: Any, a: Any, b: Any, *, reverse: bool) -> list[Any]:
    """In b alone: the tangent rule leaves nothing else linear."""
    return [
        None,
        solver_p.bind(a, ad.instantiate_zeros(cotangent), reverse=not reverse),
    ]


def _batch(
    operands: Sequence[Array], dims: Sequence[int | None], *, reverse: bool
) -> tuple[Array, int]:
    size = mapped_size(operands, dims)
    a, b = (
        None if dim is None else jnp.moveaxis(operand, dim, 0)
        for operand, dim in zip(operands, dims, strict=True)
    )
    if b is None:
        b = jnp.broadcast_to(operands[1], (size, *operands[1].shape))
    rows = b.shape[1]
    if a is None and len(operands[0]) == 1:
        a = operands[0]
    else:
        if a is None:
            a = jnp.broadcast_to(operands[0], (size, *operands[0].shape))
        a = jnp.broadcast_to(a, (size, rows, *a.shape[2:]))
        a = a.reshape(size * rows, *a.shape[2:])
    b = b.reshape(size * rows, *b.shape[2:])
    if len(a) == len(b):
        a, b = meshes.rows_alike([a, b], ())
    h = solver_p.bind(a, b, reverse=reverse)
    return h.reshape(size, rows, *h.shape[1:]), 0


solver_p.def_impl(compiled(solver_p))
solver_p.def_abstract_eval(lambda a, b, reverse: b.update(shape=b.shape))
ad.primitive_jvps[solver_p] = _jvp
ad.primitive_transposes[solver_p] = _transpose
batching.primitive_batchers[solver_p] = _batch
mlir.register_lowering(solver_p, mlir.lower_fun(prefix, multiple_results=False))
