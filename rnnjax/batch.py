"""Batches, lengths and sizes: the everyday functions around a cell."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, guards, scan, signals
from rnnjax.cell import Carry, Cell, Keys, Params, Reset


def unroll(
    cell: Cell,
    params: Params,
    xs: Any,
    *,
    carry: Carry | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | Reset | None = None,
    key: Array | Keys | None = None,
) -> tuple[Carry, Any]:
    """Run a cell over a batch of padded sequences, as ``dynamic_rnn`` once did.

    Args:
      cell: any cell.
      params: its parameters, shared by the batch.
      xs: ``(b, t, ...)``, batch first, then time. For time-major data write
        ``jnp.swapaxes(xs, 0, 1)``, or ``jax.vmap(cell.unroll, in_axes=(None, 0, 1))``.
      carry: the carry of every example, each leaf ``(b, ...)``; by default the initial
        one. Pass the returned carry in again to go on with the next chunk.
      lengths: ``(b,)`` integers from 0 to t, the steps of each example that count.
        Padding gives zeros, holds the carry and may contain anything, NaN included.
        Under ``jit`` their values cannot be checked: more than t counts as t.
      mask: ``(b, t)`` bool, the steps that count, for gaps that lengths cannot express;
        with both, a step counts only if both say so.
      reset: ``(b, t)`` bool, the steps before which an example starts afresh, or a
        `Reset` whose leaves all have a leading batch axis.
      key: a typed key, or `Keys`, for dropout and the like; it is split into one for
        each example.

    Returns:
      ``(carry, ys)``: the carry after each example's last valid step, leaves
      ``(b, ...)``, and the outputs ``(b, t, ...)``, zero at padding.

    Raises:
      ValueError, TypeError: for arguments whose shape, dtype or value do not fit.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(5, 8)
    >>> params = cell.init(jax.random.key(0))
    >>> xs = jnp.ones((3, 25, 5))
    >>> carry, ys = rnnjax.unroll(cell, params, xs, lengths=jnp.array([5, 10, 25]))
    >>> ys.shape, bool((ys[0, 4] == carry.h[0]).all()), bool((ys[0, 5:] == 0).all())
    ((3, 25, 8), True, True)
    """
    checks.model(cell, params)
    batch, time = _batch_and_time(xs)
    start = jax.eval_shape(cell.initial_carry, params)
    expected = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((batch, *s.shape), s.dtype), start
    )
    if carry is not None:
        carry = checks.carry(carry, expected)
    if mask is not None:
        mask = checks.flags("mask", mask, (batch, time))
    if lengths is not None:
        lengths = checks.lengths(lengths, batch, time)
        counted = jnp.arange(time, dtype=lengths.dtype) < lengths[:, None]
        mask = counted if mask is None else mask & counted
    if reset is not None:
        reset = checks.reset(reset, expected, (batch, time))
    keys = None
    if key is not None:
        keys = jax.tree.map(lambda k: jax.random.split(k, batch), checks.noise_key(key))

    def one(carry, xs, mask, reset, key):
        if carry is None:
            carry = cell.initial_carry(params)
        done = cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)
        return guards.returned("unroll", done, carry)  # a cell by hand has no guard

    try:
        return jax.vmap(one)(carry, xs, mask, reset, keys)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"This was in rnnjax.unroll, whose xs is (batch, time, ...); it read a "
            f"batch of {batch} sequences of {time} steps."
        )
        raise


def static_unroll(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    mask: Array | None = None,
    reset: Array | Reset | None = None,
) -> tuple[Carry, Any]:
    """Run one sequence in a Python loop over ``cell.step``, to see every step.

    It equals ``cell.unroll`` without a key. Outside ``jit``, prints and debuggers show
    numbers; inside, the loop is written out and compile time grows with ``t``.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = rnnjax.static_unroll(
    ...     cell, params, cell.initial_carry(params), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """
    checks.model(cell, params)
    start = cell.initial_carry(params)
    carry, mask, reset = signals.read(start, carry, xs, mask, reset)
    xs = jax.tree.map(jnp.asarray, xs)

    def step(params, carry, x):
        return guards.returned("step", cell.step(params, carry, x), carry)

    return scan.static(
        lambda params, x: x, step, params, carry, xs, mask=mask, reset=reset
    )


def carry_spec(cell: Cell, dtype: Any = None) -> Carry:
    """Shapes and dtypes of a cell's carry, as `jax.ShapeDtypeStruct` leaves.

    Args:
      cell: any cell.
      dtype: the dtype of floating params; by default what ``cell.init`` draws.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.carry_spec(rnnjax.lstm(3, 5), jnp.bfloat16).h
    ShapeDtypeStruct(shape=(5,), dtype=bfloat16)
    """
    params = _params_spec(cell, dtype)
    return jax.eval_shape(cell.initial_carry, params)


def output_spec(cell: Cell, x: Any, dtype: Any = None) -> Any:
    """Shape and dtype of the output for one input ``x`` of one time step.

    Args:
      cell: any cell, even one without a ``step``.
      x: an input, or a `jax.ShapeDtypeStruct` in its place.
      dtype: the dtype of floating params; by default what ``cell.init`` draws.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.dense(5, 2))
    >>> rnnjax.output_spec(cell, jnp.zeros(3)).shape
    (2,)
    """
    params = _params_spec(cell, dtype)

    def one_step(params, x):
        xs = jax.tree.map(lambda a: jnp.asarray(a)[None], x)
        _, ys = cell.unroll(params, cell.initial_carry(params), xs)
        return jax.tree.map(lambda y: y[0], ys)

    try:
        return jax.eval_shape(one_step, params, x)
    except (TypeError, ValueError) as error:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        error.add_note(
            f"x is taken as one input of one time step, without batch and time; it has "
            f"{' and '.join(map(str, shapes))}, and xs above is x with a time axis of "
            "length 1."
        )
        raise


def _params_spec(cell: Cell, dtype: Any) -> Params:
    def cast(s):
        floating = jnp.issubdtype(s.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(s.shape, dtype) if floating else s

    params = jax.eval_shape(checks.cell("cell", cell).init, jax.random.key(0))
    return params if dtype is None else jax.tree.map(cast, params)


def _batch_and_time(xs: Any) -> tuple[int, int]:
    checks.arrays("xs", xs)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(xs)]
    leading = {shape[:2] for shape in shapes}
    if len(leading) != 1 or len(shapes[0]) < 2:
        raise ValueError(
            f"xs has leaves of shapes {shapes}; expected (batch, time, ...), the same "
            "batch and time for all. Write xs[None] for a single sequence."
        )
    ((batch, time),) = leading
    if not batch or not time:
        raise ValueError(
            f"xs has shape {shapes[0]}, nothing to run over; expected at least one "
            "example and one time step. Write lengths=0 for an empty sequence."
        )
    return batch, time
