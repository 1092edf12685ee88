"""The three primitives as `jax.lax.scan`: what every other lowering has to equal.

They run wherever no kernel does, and they are what higher derivatives differentiate.
Arrays are batch-major, ``xs: (b, t, i)``. An absent mask or reset has shape ``(0,)``,
and so have the carries that belong to an absent reset.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax.kernels.equations import Arrays, Equations


class ValueOperands(NamedTuple):
    """What the value primitive takes, and in which order.

    In this and the next, ``Any`` is an array, its abstract value or its tangent.
    """

    xs: Any
    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any
    carry: tuple[Any, ...]
    mask: Any
    reset: Any
    reset_carry: tuple[Any, ...]


class Residuals(NamedTuple):
    """What the tangent and cotangent primitives know of the forward pass."""

    gates: Any
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
    xs, w_ih, w_hh, b_ih, *rest = operands
    b_hh = None if cell.joined else rest.pop(0)
    n = cell.carries
    carry, (mask, reset), reset_carry = rest[:n], rest[n : n + 2], rest[n + 2 :]
    return ValueOperands(
        xs, w_ih, w_hh, b_ih, b_hh, tuple(carry), mask, reset, tuple(reset_carry)
    )


def split_residuals(
    cell: Equations, operands: Sequence[Any]
) -> tuple[Residuals, tuple]:
    """Name the residuals and leave the linear operands, the flat rest, as they are."""
    gates, *rest = operands
    n = cell.reads
    previous, (w_hh, mask, reset), linear = rest[:n], rest[n : n + 3], rest[n + 3 :]
    return Residuals(gates, tuple(previous), w_hh, mask, reset), tuple(linear)


def name_tangents(cell: Equations, operands: Sequence[Any]) -> Tangents:
    """Name the flat linear operands of the tangent primitive."""
    parts, n = (1 if cell.joined else 2), cell.carries
    apart = (operands[:parts], operands[parts : parts + n], operands[-n:])
    return Tangents(*map(tuple, apart))


def join(cell: Equations, a: Any, u: Any) -> Arrays:
    """The pre-activations a cell reads: one sum, or the two parts apart."""
    return (a + u,) if cell.joined else (a, u)


def value(
    *operands: Array, cell: Equations, residuals: bool, hoist: bool = False
) -> list[Array]:
    """``(ys, *carry)``, then ``(gates, *carry before each step)`` if asked for.

    ``hoist`` takes the product with the inputs out of the loop.
    """
    at = name_operands(cell, operands)

    def project(x):
        return x @ at.w_ih + at.b_ih

    def step(before, z):
        a, u = z if hoist else project(z), before[-1] @ at.w_hh
        u = u if at.b_hh is None else u + at.b_hh
        gates, after = cell.activate(join(cell, a, u), before)
        return after, (gates, *before) if residuals else ()

    zs = project(at.xs) if hoist else at.xs
    last, ys, kept = _walk(step, at.carry, zs, at.mask, at.reset, at.reset_carry)
    return [ys, *last, *kept]


def tangent(*operands: Array, cell: Equations) -> list[Array]:
    """``(d_ys, *d_carry)``, linear in the operands after the residuals."""
    known, linear = split_residuals(cell, operands)
    d_preactivations, d_carry, d_reset_carry = name_tangents(cell, linear)

    def step(d_before, at):
        gates, previous, (*apart, dz) = at
        dz = dz + d_before[-1] @ known.w_hh
        return cell.linearize(gates, previous, (*apart, dz), d_before), ()

    inputs = (known.gates, known.previous, d_preactivations)
    last, ys, _ = _walk(step, d_carry, inputs, known.mask, known.reset, d_reset_carry)
    return [ys, *last]


def cotangent(*operands: Array, cell: Equations) -> list[Array]:
    """The transpose of `tangent`: what reaches each of its linear operands.

    Transposed as a whole, the scan of `tangent` would become two: one loop over all
    steps for its coefficients, and the one backwards. Here each step is transposed.
    """
    known, (d_ys, *d_last) = split_residuals(cell, operands)
    parts = 2 - cell.joined
    absent = known.reset.ndim == 1
    nothing = tuple(map(jnp.zeros_like, d_last))

    def body(d, at):
        (d_after, d_restart), (valid, restart, gates, previous, d_y) = d, at

        def push(*linear):
            (*apart, dz), d_before = linear[:parts], linear[parts:]
            dz = dz + d_before[-1] @ known.w_hh
            return cell.linearize(gates, previous, (*apart, dz), d_before)

        d_carry = (*d_after[:-1], d_after[-1] + d_y)
        part = jax.ShapeDtypeStruct((d_y.shape[0], known.w_hh.shape[1]), d_y.dtype)
        pull = jax.linear_transpose(push, *[part] * parts, *nothing)
        d_linear = pull(d_carry)
        d_parts, d_before = tuple(d_linear[:parts]), tuple(d_linear[parts:])
        if valid is not None:
            d_parts = _select(valid, d_parts, tuple(map(jnp.zeros_like, d_parts)))
            d_before = _select(valid, d_before, d_after)
        if restart is not None:
            restart = restart if valid is None else restart & valid
            from_restart = _select(restart, d_before, nothing)
            d_restart = tuple(map(jnp.add, d_restart, from_restart))
            d_before = _select(restart, nothing, d_before)
        return (d_before, d_restart), d_parts

    flags = _columns(known.mask, known.reset)
    inputs = _swap((*flags, known.gates, known.previous, d_ys))
    start = (tuple(d_last), () if absent else nothing)
    (d_carry, d_restart), d_parts = lax.scan(body, start, inputs, reverse=True)
    if absent:
        d_restart = [jnp.zeros(0, d_ys.dtype)] * cell.carries
    return [*_swap(d_parts), *d_carry, *d_restart]


def _walk(
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
        before = carry if restart is None else _select(restart, reset_carry, carry)
        after, kept = step(before, at)
        y = after[-1]
        if valid is not None:
            # A padded step does nothing at all: its reset does not count either.
            after = _select(valid, after, carry)
            y = jnp.where(valid, y, jnp.zeros_like(y))
        return after, (y, kept)

    last, out = lax.scan(body, carry, _swap((*_columns(mask, reset), inputs)))
    ys, kept = _swap(out)
    return last, ys, kept


def _columns(*flags: Array) -> list[Array | None]:
    return [None if flag.ndim == 1 else flag[..., None] for flag in flags]


def _select(where: Array, one: Arrays, other: Arrays) -> Arrays:
    return tuple(jnp.where(where, a, b) for a, b in zip(one, other, strict=True))


def _swap(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)
