"""Stepping through a cell, for combinators that act between its steps."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.cell import Carry, Cell, Keys, Params, Reset, StepFn
from rnnjax.signals import as_keys, uses_key

Advance: TypeAlias = Callable[[StepFn, Params, Carry, Any], tuple[Carry, Any]]


def walk(
    cell: Cell,
    advance: Advance,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    mask: Array | None = None,
    reset: Reset | None = None,
    key: Array | Keys | None = None,
) -> tuple[Carry, Any]:
    """Unroll a wrapper that changes what goes into or comes out of a cell's steps.

    ``advance(step, params, carry, x)`` is one step of the wrapper with the ``step`` of
    the cell in it. Where the cell draws random numbers its ``step`` is an ``unroll``
    over a single step, as only ``unroll`` takes a key.
    """

    def keyed(params, carry, x):
        (params, keys), (x, t) = params, x
        now = Keys(keys.sequence, jax.random.fold_in(keys.step, t))
        return advance(functools.partial(keyed_step, cell, now), params, carry, x)

    def project(params, x):
        return x

    if key is None or not draws(cell, advance, params, carry, xs, key):
        step = functools.partial(advance, cell.step)
        return scan.default(project, step, params, carry, xs, mask=mask, reset=reset)
    given = ((params, as_keys(key)), carry, (xs, jnp.arange(checks.time_steps(xs))))
    return scan.default(project, keyed, *given, mask=mask, reset=reset)


def draws(
    cell: Cell, advance: Advance, params: Params, carry: Carry, xs: Any, key: Any
) -> bool:
    """Whether a cell that a wrapper steps through does anything with its key."""

    def run(keys, params, carry, x):
        return advance(functools.partial(keyed_step, cell, keys), params, carry, x)

    def first(a):
        return jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a))

    given = (as_keys(key), params, carry)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    return uses_key(run, *shapes, jax.tree.map(first, xs))


def keyed_step(
    cell: Cell, key: Array | Keys, params: Params, carry: Carry, x: Any
) -> tuple[Carry, Any]:
    """A step that draws random numbers: ``unroll`` over a single one."""
    xs = jax.tree.map(lambda a: jnp.asarray(a)[None], x)
    carry, ys = cell.unroll(params, carry, xs, key=key)
    return carry, jax.tree.map(lambda a: a[0], ys)
