"""Sequences that never end: many streams in one batch, a chunk of each at a time.

A batch of fixed size has a slot for each stream. The carry stays on the device, donated
from call to call; which slots are in use is known on the host, where streams come and
go. Every function takes a `Streams` and returns the next one.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax import checks
from rnnjax.batch import unroll
from rnnjax.cell import Carry, Cell, Params


class Streams(NamedTuple):
    """The state of all streams; a pytree, so a checkpoint can hold it.

    ``carry``: on the device, leaves ``(slots, ...)``. ``active: (slots,)`` bool says
    which slots are in use, ``fresh: (slots,)`` bool which start from the initial carry
    at their next step; both are NumPy arrays.
    """

    carry: Carry
    active: np.ndarray
    fresh: np.ndarray


def init(cell: Cell, params: Params, slots: int) -> Streams:
    """Make room for ``slots`` streams, none of them in use yet.

    Args:
      cell: any cell with a ``step``; one that walks backwards needs the future.
      params: its params, shared by all streams.
      slots: how many streams there can be at a time, the size of the batch.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> streams = rnnjax.streaming.init(cell, cell.init(jax.random.key(0)), slots=8)
    >>> streams.carry.shape, int(streams.active.sum())
    ((8, 4), 0)
    """
    checks.model(cell, params)
    checks.size("slots", slots)
    carry = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (slots, *a.shape)), cell.initial_carry(params)
    )
    # Leaves that share a buffer, as the zeros of an LSTM do, cannot both be donated.
    carry = jax.tree.map(jnp.array, carry)
    return Streams(carry, np.zeros(slots, bool), np.zeros(slots, bool))


def join(streams: Streams) -> tuple[Streams, int]:
    """Start a new stream in a free slot: ``(streams, slot)``.

    Raises:
      ValueError: if all slots are in use.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> streams = rnnjax.streaming.init(cell, cell.init(jax.random.key(0)), slots=2)
    >>> streams, first = rnnjax.streaming.join(streams)
    >>> streams, second = rnnjax.streaming.join(streams)
    >>> streams = rnnjax.streaming.leave(streams, first)
    >>> streams, third = rnnjax.streaming.join(streams)
    >>> first, second, third
    (0, 1, 0)
    """
    if streams.active.all():
        raise ValueError(
            f"all {len(streams.active)} slots are in use; expected a free one. Write "
            "rnnjax.streaming.leave(streams, slot) for a stream that has ended, or "
            "init with more slots."
        )
    slot = int(np.argmin(streams.active))
    active, fresh = _with(streams.active, slot, True), _with(streams.fresh, slot, True)
    return Streams(streams.carry, active, fresh), slot


def leave(streams: Streams, slot: int) -> Streams:
    """End a stream and free its slot; the other streams go on.

    Raises:
      ValueError: for a slot that is not in use.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> streams = rnnjax.streaming.init(cell, cell.init(jax.random.key(0)), slots=2)
    >>> streams, slot = rnnjax.streaming.join(streams)
    >>> rnnjax.streaming.leave(streams, slot).active.tolist()
    [False, False]
    """
    _in_use(streams, [slot])
    return streams._replace(active=_with(streams.active, slot, False))


def reset(streams: Streams, slot: int) -> Streams:
    """Make a stream start afresh at its next step.

    Raises:
      ValueError: for a slot that is not in use.

    >>> import jax, numpy as np, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> streams = rnnjax.streaming.init(cell, params, slots=1)
    >>> streams, slot = rnnjax.streaming.join(streams)
    >>> same, xs = [], np.ones((5, 3), np.float32)
    >>> for _ in range(2):
    ...     streams, ys = rnnjax.streaming.feed(
    ...         cell, params, streams, {slot: xs}, chunk=5)
    ...     streams = rnnjax.streaming.reset(streams, slot)
    ...     same.append(ys[slot])
    >>> bool((same[0] == same[1]).all())
    True
    """
    _in_use(streams, [slot])
    return streams._replace(fresh=_with(streams.fresh, slot, True))


def advance(
    cell: Cell,
    params: Params,
    streams: Streams,
    xs: Any,
    lengths: Any = None,
) -> tuple[Streams, Array]:
    """Run one chunk of every stream: ``(streams, ys)``.

    There is one compiled program for each chunk length, whatever streams come and go.
    The carry is donated: afterwards only the returned ``streams`` can be used.

    Args:
      cell: the cell that ``streams`` was made for.
      params: its params.
      streams: from `init` or the previous call.
      xs: ``(slots, chunk, ...)``, a chunk of one step or more. What is in unused slots,
        or after ``lengths``, does not matter.
      lengths: ``(slots,)`` integers, how many steps of the chunk each stream has; 0 for
        those that are silent now. By default each has the whole chunk.

    Returns:
      The next state, and ``ys: (slots, chunk, ...)`` on the device, zero where nothing
      was put in.

    Raises:
      ValueError, TypeError: for inputs that do not fit, or steps of an unused slot.
      NoStepError: for a cell that needs the whole sequence.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> streams = rnnjax.streaming.init(cell, params, slots=2)
    >>> streams, slot = rnnjax.streaming.join(streams)
    >>> streams, ys = rnnjax.streaming.advance(
    ...     cell, params, streams, jnp.ones((2, 1, 3)))
    >>> ys.shape, bool((ys[slot, 0] == streams.carry[slot]).all())
    ((2, 1, 4), True)
    """
    # A checkpoint gives the flags back on the device, where asking them takes longer.
    active, fresh = np.asarray(streams.active), np.asarray(streams.fresh)
    streams, slots = Streams(streams.carry, active, fresh), len(active)
    chunk = _chunk(xs, slots)
    if any(
        isinstance(leaf, Array) and leaf.is_deleted()
        for leaf in jax.tree.leaves(streams.carry)
    ):
        raise ValueError(
            "streams was used up by a call before: its carry was donated to the next "
            "state; expected the one that call returned. Write streams, ys = rnnjax."
            "streaming.advance(cell, params, streams, xs)."
        )
    if lengths is None:
        lengths = np.where(active, np.int32(chunk), np.int32(0))
    else:
        lengths = _lengths(streams, lengths, chunk)
    carry, ys = _advance(cell, params, streams.carry, xs, lengths, fresh)
    return Streams(carry, active, fresh & (lengths == 0)), ys


def feed(
    cell: Cell,
    params: Params,
    streams: Streams,
    samples: Mapping[int, Any],
    *,
    chunk: int,
) -> tuple[Streams, dict[int, np.ndarray]]:
    """Run what has arrived for some streams, any amount each: ``(streams, outputs)``.

    It is cut into chunks for `advance`; streams without samples wait.

    Args:
      cell: the cell that ``streams`` was made for.
      params: its params.
      streams: from `init` or the previous call.
      samples: for each slot an array ``(steps, ...)`` of at least one step.
      chunk: steps for each call.

    Returns:
      The next state, and for each slot its outputs ``(steps, ...)`` as NumPy arrays.

    Raises:
      ValueError: for slots that are not in use, no samples, and shapes that differ.

    >>> import jax, numpy as np, rnnjax
    >>> cell = rnnjax.stack(rnnjax.lstm(1, 4), rnnjax.dense(4, 1))
    >>> params = cell.init(jax.random.key(0))
    >>> streams = rnnjax.streaming.init(cell, params, slots=8)
    >>> streams, a = rnnjax.streaming.join(streams)
    >>> streams, b = rnnjax.streaming.join(streams)
    >>> streams, outputs = rnnjax.streaming.feed(
    ...     cell, params, streams, {a: np.ones((100, 1)), b: np.ones((7, 1))}, chunk=32)
    >>> outputs[a].shape, outputs[b].shape
    ((100, 1), (7, 1))
    """
    checks.size("chunk", chunk)
    _in_use(streams, list(samples))
    given = {slot: np.asarray(xs) for slot, xs in samples.items()}
    shapes = {xs.shape[1:] for xs in given.values()}
    if len(shapes) != 1 or not all(xs.ndim and len(xs) for xs in given.values()):
        found = {slot: xs.shape for slot, xs in given.items()}
        raise ValueError(
            f"samples has the shapes {found}; expected (steps, ...) with one step or "
            "more for each, the same features for all. Leave out the streams that have "
            "nothing new."
        )
    (shape,), dtype = shapes, np.result_type(*given.values())
    slots, parts = len(streams.active), []
    for begin in range(0, max(map(len, given.values())), chunk):
        xs = np.zeros((slots, chunk, *shape), dtype)
        lengths = np.zeros(slots, np.int32)
        for slot, new in given.items():
            now = new[begin : begin + chunk]
            xs[slot, : len(now)], lengths[slot] = now, len(now)
        streams, ys = advance(cell, params, streams, xs, lengths)
        parts.append(ys)
    whole = np.concatenate([np.asarray(ys) for ys in parts], axis=1)
    return streams, {slot: whole[slot, : len(xs)] for slot, xs in given.items()}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(cell, params, carry, xs, lengths, fresh):
    start = cell.initial_carry(params)
    first = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[2:], jnp.result_type(a)), xs
    )
    jax.eval_shape(cell.step, params, start, first)  # or its NoStepError
    begin = fresh & (lengths > 0)

    def restart(initial, now):
        where = begin.reshape(-1, *(1,) * (now.ndim - 1))
        return jnp.where(where, initial, now)

    carry = jax.tree.map(restart, start, carry)
    return unroll(cell, params, xs, carry=carry, lengths=lengths)


def _chunk(xs: Any, slots: int) -> int:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(xs)]
    if not shapes or any(len(s) < 2 or s[0] != slots or not s[1] for s in shapes):
        raise ValueError(
            f"xs has leaves of shapes {shapes}; expected (slots, chunk, ...) with "
            f"slots={slots}, for every slot whether in use or not, and a chunk of one "
            "step or more. Write xs[:, None] for one step of each stream."
        )
    return shapes[0][1]


def _lengths(streams: Streams, lengths: Any, chunk: int) -> np.ndarray:
    """Checked by NumPy: asking the device takes longer than the step itself."""
    given = np.asarray(lengths)
    slots = len(streams.active)
    integers = given.shape == (slots,) and given.dtype.kind in "iu"
    if not integers or given.min() < 0 or given.max() > chunk:
        checks.lengths(given, slots, chunk)  # raises, and says why
    if np.any(given[~streams.active]):
        _in_use(streams, np.flatnonzero(given).tolist())
    return given.astype(np.int32)


def _in_use(streams: Streams, slots: list[int]) -> None:
    active = np.flatnonzero(streams.active).tolist()
    wrong = [slot for slot in slots if slot not in active]
    if wrong:
        raise ValueError(
            f"slot {wrong[0]} is not in use; expected one of {active}. Write "
            "streams, slot = rnnjax.streaming.join(streams) first."
        )


def _with(flags: np.ndarray, slot: int, value: bool) -> np.ndarray:
    flags = np.array(flags)
    flags[slot] = value
    return flags
