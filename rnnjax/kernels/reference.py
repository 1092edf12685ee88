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


def apart(a: Any, count: int) -> Arrays:
    """Blocks of columns, or of saved values, as one array each."""
    return tuple(jnp.split(a, count, axis=-1))


def together(arrays: Arrays) -> Array:
    """The opposite of `apart`."""
    return jnp.concatenate(arrays, axis=-1)


def value(
    *operands: Array, cell: Equations, residuals: bool, hoist: bool = False
) -> list[Array]:
    """``(ys, *carry)``, then ``(saved, *carry before each step)`` with ``residuals``.

    ``hoist`` takes the product with the inputs out of the loop.
    """
    at = name_operands(cell, operands)

    def project(x):
        return x @ at.w_ih + at.b

    def step(before, z):
        a = apart(z if hoist else project(z), cell.columns)
        u = _multiply(cell, a, before[-1], at.w_hh)
        if at.b_hn is not None:
            u = (*u[:-1], u[-1] + at.b_hn)
        saved, after = cell.activate(a, u, before)
        return after, (together(saved), *before) if residuals else ()

    zs = project(at.xs) if hoist else at.xs
    last, ys, found = _walk(step, at.carry, zs, at.mask, at.reset, at.reset_carry)
    return [ys, *last, *found]


def _multiply(cell: Equations, a: Arrays, h: Array, w_hh: Array) -> Arrays:
    """The recurrent product, or both of them."""
    if not cell.gated:
        return apart(h @ w_hh, cell.columns)
    plain, gated = cut(cell, w_hh)
    u = apart(h @ plain, cell.columns - cell.gated)
    r = jax.nn.sigmoid(a[0] + u[0])
    return (*u, *apart((r * h) @ gated, cell.gated))


def cut(cell: Equations, columns: Array) -> tuple[Array, Array]:
    """The columns that multiply ``h``, and the gated ones."""
    first = columns.shape[-1] // cell.columns * (cell.columns - cell.gated)
    return columns[..., :first], columns[..., first:]


def _pull(
    cell: Equations, saved: Array, previous: Arrays, w_hh: Array, d_carry: Arrays
) -> tuple[Arrays, Arrays]:
    """What reaches the pre-activations and the carry before a step, linearly."""
    values = apart(saved, cell.saved)
    d_a, d_u, d_before = cell.differentiate(values, previous, d_carry)
    *d_others, d_h = d_before
    if cell.gated:
        plain, gated = cut(cell, w_hh)
        r, h = values[0], previous[-1]
        d_product = together(d_u[-cell.gated :]) @ gated.T
        d_u = (d_u[0] + d_product * h * r * (1 - r), *d_u[1:])
        d_h = d_h + d_product * r + together(d_u[: -cell.gated]) @ plain.T
    else:
        d_h = d_h + together(d_u) @ w_hh.T
    parts = (d_u,) if cell.joined else (d_a, d_u)
    return tuple(map(together, parts)), (*d_others, d_h)


def tangent(*operands: Array, cell: Equations) -> list[Array]:
    """``(d_ys, *d_carry)``, linear in the operands after the residuals.

    A cell states the transpose of its derivative; here each step is turned back.
    """
    known, linear = split_residuals(cell, operands)
    d_preactivations, d_carry, d_reset_carry = name_tangents(cell, linear)

    def step(d_before, at):
        saved, previous, d_parts = at

        def pull(d_carry):
            return _pull(cell, saved, previous, known.w_hh, d_carry)

        (d_after,) = jax.linear_transpose(pull, d_before)((d_parts, d_before))
        return d_after, ()

    inputs = (known.saved, known.previous, d_preactivations)
    last, ys, _ = _walk(step, d_carry, inputs, known.mask, known.reset, d_reset_carry)
    return [ys, *last]


def cotangent(*operands: Array, cell: Equations) -> list[Array]:
    """The transpose of `tangent`: what reaches each of its linear operands."""
    known, (d_ys, *d_last) = split_residuals(cell, operands)
    absent = known.reset.ndim == 1
    nothing = tuple(map(jnp.zeros_like, d_last))

    def body(d, at):
        (d_after, d_restart), (valid, restart, saved, previous, d_y) = d, at
        d_carry = (*d_after[:-1], d_after[-1] + d_y)
        d_parts, d_before = _pull(cell, saved, previous, known.w_hh, d_carry)
        if valid is not None:
            d_parts = _select(valid, d_parts, tuple(map(jnp.zeros_like, d_parts)))
            d_before = _select(valid, d_before, d_after)
        if restart is not None:
            restart = restart if valid is None else restart & valid
            from_restart = _select(restart, d_before, nothing)
            d_restart = tuple(map(jnp.add, d_restart, from_restart))
            d_before = _select(restart, nothing, d_before)
        return (d_before, d_restart), d_parts

    flags = _beside_units(known.mask, known.reset)
    inputs = _swap((*flags, known.saved, known.previous, d_ys))
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
        after, residuals = step(before, at)
        y = after[-1]
        if valid is not None:
            # A padded step does nothing at all: its reset does not count either.
            after = _select(valid, after, carry)
            y = jnp.where(valid, y, jnp.zeros_like(y))
        return after, (y, residuals)

    last, out = lax.scan(body, carry, _swap((*_beside_units(mask, reset), inputs)))
    ys, residuals = _swap(out)
    return last, ys, residuals


def _beside_units(*flags: Array) -> list[Array | None]:
    return [None if flag.ndim == 1 else flag[..., None] for flag in flags]


def _select(where: Array, one: Arrays, other: Arrays) -> Arrays:
    return tuple(jnp.where(where, a, b) for a, b in zip(one, other, strict=True))


def _swap(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)
