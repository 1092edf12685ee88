"""Sequences of many lengths: masks, padding, buckets and packing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from rnnjax import checks, signals
from rnnjax.cell import Carry


def sequence_mask(lengths: Any, maxlen: int | None = None) -> Array:
    """Which steps count: ``mask[..., t] = t < lengths[...]``.

    Args:
      lengths: integers of any shape.
      maxlen: the number of steps; by default the largest length, which ``jax.jit``
        cannot know.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.sequence_mask(jnp.array([1, 3]), 4).astype(int)
    Array([[1, 0, 0, 0],
           [1, 1, 1, 0]], dtype=int32)
    """
    lengths = integers("lengths", lengths)
    if maxlen is None:
        if isinstance(lengths, Tracer):
            raise ValueError(
                "maxlen is left out, and lengths has no values under jit to take it "
                "from; expected an integer. Write maxlen=xs.shape[1]."
            )
        maxlen = int(jnp.max(lengths, initial=0))
    return jnp.arange(maxlen, dtype=jnp.int32) < lengths[..., None]


def boolean_mask(values: Any, mask: Any, *, size: int | None = None) -> Array:
    """The entries where ``mask`` is true, in one row.

    Args:
      values: ``(*m, ...)``.
      mask: ``(*m)`` bool, the leading axes of ``values``.
      size: how many entries come back; missing ones are zero, further ones are cut
        off. By default there are as many as true flags. ``jax.jit`` needs it, since a
        shape cannot depend on values there.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> mask = jnp.array([[True, False], [True, True]])
    >>> rnnjax.boolean_mask(jnp.array([[1, 2], [3, 4]]), mask)
    Array([1, 3, 4], dtype=int32)
    >>> jax.jit(lambda m: rnnjax.boolean_mask(jnp.array([[1, 2], [3, 4]]), m, size=4))(
    ...     mask)
    Array([1, 3, 4, 0], dtype=int32)
    """
    values, mask = jnp.asarray(values), jnp.asarray(mask)
    mask = checks.flags("mask", mask, values.shape[: mask.ndim])
    if size is None and isinstance(mask, Tracer):
        raise ValueError(
            "size is left out, and mask has no values under jit to count; expected the "
            "number of entries to return. Write size=mask.size for all there can be."
        )
    count = int(mask.sum()) if size is None else size
    rows = values.reshape(mask.size, *values.shape[mask.ndim :])
    index = jnp.nonzero(mask.ravel(), size=count, fill_value=mask.size)[0]
    return jnp.take(rows, index, axis=0, mode="fill", fill_value=0)


def reverse_sequence(xs: Any, lengths: Any) -> Any:
    """Reverse the first ``lengths[i]`` steps of each example; padding stays in place.

    `bidirectional` does not need it: in padding the carry holds.

    Args:
      xs: ``(b, t, ...)``, any pytree.
      lengths: ``(b,)`` integers.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.reverse_sequence(jnp.array([[1, 2, 3, 0]]), jnp.array([3])).tolist()
    [[3, 2, 1, 0]]
    """
    batch, time = jax.tree.leaves(xs)[0].shape[:2]
    lengths = checks.lengths(lengths, batch, time)[:, None]
    steps = jnp.arange(time, dtype=jnp.int32)
    index = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    return jax.tree.map(lambda a: jax.vmap(lambda a, i: a[i])(a, index), xs)


def pad_sequences(
    sequences: Sequence[Any], length: int | None = None, *, value: Any = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged to padded: ``(xs: (b, t, ...), lengths: (b,))``, padding at the end.

    It works on the host, in NumPy, where sequences of many lengths live.

    Args:
      sequences: arrays ``(t_i, ...)``.
      length: t; that of the longest sequence if left out.
      value: what the padding holds, for example the id of a padding token. The cells
        of this library read none of it.

    Raises:
      ValueError: for a ``length`` below that of the longest sequence, and a ``value``
        that the dtype of the sequences cannot hold.

    >>> import rnnjax
    >>> xs, lengths = rnnjax.pad_sequences([[1, 2, 3], [4]])
    >>> xs.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    lengths = np.array([len(a) for a in arrays], np.int32)
    longest = int(lengths.max(initial=0))
    length = longest if length is None else length
    if length < longest:
        raise ValueError(
            f"length is {length}, and the longest sequence has {longest} steps; "
            f"expected at least those. Write length={longest}, or cut the sequences."
        )
    first = max(arrays, key=len)
    if np.result_type(first.dtype, value) != first.dtype:
        raise ValueError(
            f"value is {value!r}, and sequences hold {first.dtype}; expected a value "
            "of that dtype. Write value=0, or convert the sequences to "
            f"{np.result_type(first.dtype, value)}."
        )
    xs = np.full((len(arrays), length, *first.shape[1:]), value, first.dtype)
    for row, a in zip(xs, arrays, strict=True):
        row[: len(a)] = a
    return xs, lengths


def unpad_sequences(xs: Any, lengths: Any) -> list[np.ndarray]:
    """Undo `pad_sequences`: the valid steps of each example, on the host.

    >>> import numpy as np, rnnjax
    >>> rnnjax.unpad_sequences(np.array([[1, 2, 3], [4, 0, 0]]), np.array([3, 1]))
    [array([1, 2, 3]), array([4])]
    """
    rows = zip(np.asarray(xs), np.asarray(lengths), strict=True)
    return [row[:length] for row, length in rows]


def pad_to_bucket(xs: Any, buckets: Sequence[int], *, axis: int = 1) -> Any:
    """Zeros at the end of the time axis, up to the smallest bucket that holds it.

    ``jax.jit`` compiles once for each shape; with buckets it compiles at most
    ``len(buckets)`` times, however many lengths come. It works on the host.

    >>> import numpy as np, rnnjax
    >>> rnnjax.pad_to_bucket(np.ones((2, 11, 3)), (8, 16, 32)).shape
    (2, 16, 3)
    """
    time = jax.tree.leaves(xs)[0].shape[axis]
    fitting = [bucket for bucket in sorted(buckets) if bucket >= time]
    if not fitting:
        raise ValueError(
            f"xs has {time} time steps on axis {axis}, and buckets is {buckets!r}; "
            f"expected one of at least {time}. Add it, or cut the sequences."
        )

    def pad(a):
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, fitting[0] - time)
        return np.pad(a, widths)

    return jax.tree.map(pad, xs)


class Packed(NamedTuple):
    """Sequences one after the other: ``xs: (n, ...)``, ``reset: (n,)``, ``mask: (n,)``.

    ``reset`` is true at the first step of each, ``mask`` false after the last.
    """

    xs: Any
    reset: Array
    mask: Array


def pack(xs: Any, lengths: Any, *, size: int | None = None) -> Packed:
    """Join padded sequences into a long one, with resets in place of padding.

    Args:
      xs: ``(b, t, ...)``, any pytree.
      lengths: ``(b,)`` integers.
      size: the steps of the result, at least the sum of all lengths, which is the
        default. ``jax.jit`` needs it.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> lengths = jnp.array([2, 3])
    >>> xs = jnp.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])[..., None]
    >>> packed = rnnjax.pack(xs, lengths)
    >>> packed.xs[:, 0].tolist(), packed.reset.astype(int).tolist()
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1, 0, 1, 0, 0])
    >>> cell = rnnjax.gru(1, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> _, ys = cell.unroll(params, cell.initial_carry(params), packed.xs,
    ...                     reset=packed.reset, mask=packed.mask)
    >>> rnnjax.unpack(ys, lengths, 3).shape
    (2, 3, 4)
    """
    batch, time = jax.tree.leaves(xs)[0].shape[:2]
    lengths = checks.lengths(lengths, batch, time)
    valid = sequence_mask(lengths, time)
    if size is None and not isinstance(lengths, Tracer):
        size = max(int(lengths.sum()), 1)
    first = jnp.broadcast_to(jnp.arange(time) == 0, (batch, time))
    reset = boolean_mask(first, valid, size=size)
    mask = jnp.arange(len(reset), dtype=jnp.int32) < lengths.sum(dtype=jnp.int32)
    return Packed(
        jax.tree.map(lambda a: boolean_mask(a, valid, size=size), xs), reset, mask
    )


def unpack(ys: Any, lengths: Any, time: int) -> Any:
    """Undo `pack`: cut one long sequence into padded ones, ``(b, time, ...)``.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.unpack(jnp.array([1, 2, 3, 4, 5]), jnp.array([2, 3]), 3).tolist()
    [[1, 2, 0], [3, 4, 5]]
    """
    lengths = integers("lengths", lengths)
    starts = jnp.cumsum(lengths, dtype=jnp.int32) - lengths
    valid = sequence_mask(lengths, time)
    steps = jnp.arange(time, dtype=jnp.int32)
    index = jnp.where(valid, starts[:, None] + steps, 0)
    return signals.zero_padding(jax.tree.map(lambda a: a[index], ys), valid)


def concatenate_carries(*carries: Carry) -> Carry:
    """Join the features of carries that have the same form, for example (c, h) pairs.

    The final carries of a bidirectional encoder become the carry of a decoder of twice
    the size.

    >>> import jax.numpy as jnp, rnnjax
    >>> one = rnnjax.LSTMCarry(c=jnp.ones((2, 3)), h=jnp.zeros((2, 3)))
    >>> rnnjax.concatenate_carries(one, one).c.shape
    (2, 6)
    """
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *carries)


def beside(flags: Array, like: Any) -> Array:
    """Flags with axes of size one at the end, as many as an array has more of them."""
    return flags.reshape(flags.shape + (1,) * (jnp.ndim(like) - flags.ndim))


def integers(name: str, value: Any) -> Array:
    """Lengths or ids as int32; other dtypes get a sentence."""
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(
            f"{name} has dtype {value.dtype}; expected integers. Write "
            f"{name}.astype(jnp.int32)."
        )
    return value.astype(jnp.int32)
