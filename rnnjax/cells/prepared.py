"""A recurrence whose steps read something that is made of the params once."""

from collections.abc import Callable
from typing import Any

from rnnjax import checks, scan, signals
from rnnjax.builder import recurrence
from rnnjax.cell import Carry, Cell, InitFn, Params


def prepared(
    init: InitFn,
    prepare: Callable[[Params], Any],
    zero: Callable[[Any], Carry],
    project: signals.Project,
    step: signals.Step,
    input_shape: tuple[int, ...] | None,
    traversal: scan.Traversal,
    carry_dtype: Any,
) -> Cell:
    """Like `rnnjax.recurrence`, with ``prepare(params)`` in place of the params.

    ``project`` and ``step`` get what ``prepare`` returned, a pytree of arrays. It is
    called once for a sequence, before time is walked, so that a matrix exponential is
    neither taken nor transposed at each step. ``zero(dtype)`` is the first carry.

    >>> import jax.numpy as jnp
    >>> from rnnjax import scan
    >>> from rnnjax.cells.prepared import prepared
    >>> cell = prepared(
    ...     lambda key: jnp.zeros(2), jnp.exp, lambda dtype: jnp.zeros(2, dtype),
    ...     lambda rate, x: x, lambda rate, c, x: (rate * c + x, c),
    ...     (2,), scan.fused, None)
    >>> cell.unroll(jnp.zeros(2), jnp.zeros(2), jnp.ones((3, 2)))[0]
    Array([3., 3.], dtype=float32)
    """
    if carry_dtype is not None:
        carry_dtype = checks.floating("carry_dtype", carry_dtype)

    def read(params):
        # Cast first: 0.999, an eigenvalue, is no number in bfloat16.
        return prepare(
            params if carry_dtype is None else checks.cast(params, carry_dtype)
        )

    cell = recurrence(
        lambda key: read(init(key)),
        lambda params: zero(checks.float_dtype(params)),
        project,
        step,
        input_shape,
        traversal,
    )

    def initial_carry(params):
        return zero(carry_dtype or checks.float_dtype(params))

    def one_step(params, carry, x):
        return cell.step(read(params), carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        return cell.unroll(read(params), carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init, initial_carry, one_step, unroll)
