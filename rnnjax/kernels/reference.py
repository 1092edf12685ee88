"""The three primitives as `jax.lax.scan`: what every other lowering has to equal.

They run wherever no kernel does, and they are what higher derivatives differentiate.
Arrays are batch-major, ``xs: (b, t, i)``. An absent mask or reset has shape ``(0,)``,
and so have the carries that belong to an absent reset. What ``xs`` holds where the mask
is false is never to matter, even if it is not a number.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import signals
from rnnjax.kernels.equations import Arrays, Equations
from rnnjax.kernels.steps import (
    advance,
    apart,
    cut,
    pull,
    recur,
    retreat,
    together,
    zeros,
)


class ValueOperands(NamedTuple):
    """What the value primitive takes, and in which order.

    In this and the next, ``Any`` is an array, its abstract value or its tangent.
    """

    xs: Any
    w_ih: Any
    w_hh: Any
    b: Any
    b_hn: Any
    carry: tuple[Any, ...]
    mask: Any
    reset: Any
    reset_carry: tuple[Any, ...]


class Residuals(NamedTuple):
    """The residuals as the tangent and cotangent primitives take them."""

    saved: Any
    previous: tuple[Any, ...]
    w_hh: Any
    mask: Any
    reset: Any


class Tangents(NamedTuple):
    """What the tangent primitive is linear in, and the cotangent primitive returns."""

    preactivations: tuple[Any, ...]
    carry: tuple[Any, ...]
    reset_carry: tuple[Any, ...]


def name_operands(cell: Equations, operands: Sequence[Any]) -> ValueOperands:
    """Name the flat operands of the value primitive."""
    xs, w_ih, w_hh, b, *rest = operands
    b_hn = None if cell.joined else rest.pop(0)
    n = cell.carries
    carry, (mask, reset), reset_carry = rest[:n], rest[n : n + 2], rest[n + 2 :]
    return ValueOperands(
        xs, w_ih, w_hh, b, b_hn, tuple(carry), mask, reset, tuple(reset_carry)
    )


def without_padding(at: ValueOperands) -> ValueOperands:
    """The same with zeros for padded inputs, for what multiplies all of them at once.

    A kernel that passes over padded steps needs no such copy.
    """
    if at.mask.ndim == 1:
        return at
    return at._replace(xs=signals.zero_padding(at.xs, at.mask))


def split_residuals(
    cell: Equations, operands: Sequence[Any]
) -> tuple[Residuals, tuple]:
    """Name the residuals and leave the linear operands, the flat rest, as they are."""
    saved, *rest = operands
    n = cell.reads
    previous, (w_hh, mask, reset), linear = rest[:n], rest[n : n + 3], rest[n + 3 :]
    return Residuals(saved, tuple(previous), w_hh, mask, reset), tuple(linear)


def name_tangents(cell: Equations, operands: Sequence[Any]) -> Tangents:
    """Name the flat linear operands of the tangent primitive."""
    parts, n = (1 if cell.joined else 2), cell.carries
    apart = (operands[:parts], operands[parts : parts + n], operands[-n:])
    return Tangents(*map(tuple, apart))


def value(
    *operands: Array, cell: Equations, residuals: bool, hoist: bool = False
) -> list[Array]:
    """``(ys, *carry)``, then ``(saved, *carry before each step)`` with ``residuals``.

    ``hoist`` takes the product with the inputs out of the loop.
    """
    at = without_padding(name_operands(cell, operands))

    def project(x):
        return x @ at.w_ih + at.b

    def step(before, z):
        a = apart(z if hoist else project(z), cell.columns)
        u = recur(cell, jnp.matmul, weights, a, before[-1])
        if at.b_hn is not None:
            u = (*u[:-1], u[-1] + at.b_hn)
        saved, after = cell.activate(a, u, before)
        return after, (together(saved), *before) if residuals else ()

    weights = cut(cell, at.w_hh)
    zs = project(at.xs) if hoist else at.xs
    flags = at.mask, at.reset
    last, ys, found = _walk(cell, step, at.carry, zs, *flags, at.reset_carry)
    return [ys, *last, *found]


def _pull(
    cell: Equations, saved: Array, previous: Arrays, w_hh: Array, d_carry: Arrays
) -> tuple[tuple[Arrays, ...], Arrays]:
    transposed = tuple(w.T for w in cut(cell, w_hh))
    values = apart(saved, cell.saved)
    return pull(cell, jnp.matmul, transposed, values, previous, d_carry)


def tangent(*operands: Array, cell: Equations) -> list[Array]:
    """``(d_ys, *d_carry)``, linear in the operands after the residuals.

    A cell states the transpose of its derivative; here each step is turned back.
    """
    known, linear = split_residuals(cell, operands)
    d_preactivations, d_carry, d_reset_carry = name_tangents(cell, linear)

    def step(d_before, at):
        saved, previous, d_parts = at

        def back(d_carry):
            return _pull(cell, saved, previous, known.w_hh, d_carry)

        d_columns = tuple(apart(d, cell.columns) for d in d_parts)
        (d_after,) = jax.linear_transpose(back, d_before)((d_columns, d_before))
        return d_after, ()

    inputs = (known.saved, known.previous, d_preactivations)
    flags = known.mask, known.reset
    last, ys, _ = _walk(cell, step, d_carry, inputs, *flags, d_reset_carry)
    return [ys, *last]


def cotangent(*operands: Array, cell: Equations) -> list[Array]:
    """The transpose of `tangent`: what reaches each of its linear operands."""
    known, (d_ys, *d_last) = split_residuals(cell, operands)
    d_last = tuple(d_last)
    absent = known.reset.ndim == 1

    def body(d, at):
        (d_after, d_restart), (valid, restart, saved, previous, d_y) = d, at

        def back(d_carry):
            return _pull(cell, saved, previous, known.w_hh, d_carry)

        d_before, d_restart, d_parts = retreat(
            back, d_after, d_restart, d_y, valid, restart
        )
        return (d_before, d_restart), tuple(map(together, d_parts))

    flags = _beside_units(known.mask, known.reset)
    inputs = _swap((*flags, known.saved, known.previous, d_ys))
    start = (d_last, () if absent else zeros(d_last))
    (d_carry, d_restart), d_parts = lax.scan(
        body, start, inputs, reverse=not cell.reverse
    )
    if absent:
        d_restart = [jnp.zeros(0, d_ys.dtype)] * cell.carries
    return [*_swap(d_parts), *d_carry, *d_restart]


def _walk(
    cell: Equations,
    step: Callable[[Arrays, Any], tuple[Arrays, Any]],
    carry: Arrays,
    inputs: Any,
    mask: Array,
    reset: Array,
    reset_carry: Arrays,
) -> tuple[Arrays, Array, Any]:
    """Scan over axis 1, holding the carry where masked, replacing it where reset."""

    def body(carry, at):
        valid, restart, at = at
        after, y, residuals = advance(
            lambda before: step(before, at), carry, valid, restart, reset_carry
        )
        return after, (y, residuals)

    inputs = _swap((*_beside_units(mask, reset), inputs))
    last, out = lax.scan(body, carry, inputs, reverse=cell.reverse)
    ys, residuals = _swap(out)
    return last, ys, residuals


def _beside_units(*flags: Array) -> list[Array | None]:
    return [None if flag.ndim == 1 else flag[..., None] for flag in flags]


def _swap(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)
