"""Rows of a table by their ids."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax.sequences import beside, integers


def embedding_lookup(
    table: Any,
    ids: Any,
    *,
    max_norm: float | None = None,
    partition: str = "mod",
) -> Array:
    """Rows of a table, or of one that is split into parts.

    The cell `embedding` does the same inside a stack. An id outside of the table gives
    NaN.

    Args:
      table: ``(vocabulary, ...)``, or a list of its parts.
      ids: integers of any shape.
      max_norm: longer rows are scaled down to this Euclidean length.
      partition: which part an id is in. ``"mod"``: part ``id % parts``, row ``id //
        parts``; ``"div"``: parts of consecutive ids, the first ones longer by one where
        the split is uneven.

    >>> import jax.numpy as jnp, rnnjax
    >>> parts = [jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [3.0]])]
    >>> rnnjax.embedding_lookup(parts, jnp.array([3, 0])).tolist()
    [[3.0], [0.0]]
    """
    parts = [table] if isinstance(table, jax.Array | np.ndarray) else list(table)
    parts, ids = [jnp.asarray(part) for part in parts], integers("ids", ids)
    if partition not in ("mod", "div"):
        raise ValueError(
            f"partition is {partition!r}; expected 'mod' or 'div'. Write "
            "partition='mod'."
        )
    total, count = sum(len(part) for part in parts), len(parts)
    each, more = divmod(total, count)
    sizes = [each + (i < more) for i in range(count)]
    if [len(part) for part in parts] != sizes:
        raise ValueError(
            f"table has parts of {[len(part) for part in parts]} rows; expected "
            f"{sizes}, an even split of {total}. Write table[i::{count}] as part i for "
            "partition='mod', jnp.array_split(table, n) for 'div'."
        )
    if partition == "mod":
        part_of, row_of = ids % count, ids // count
    else:
        starts = jnp.asarray(np.cumsum([0, *sizes[:-1]]), jnp.int32)
        part_of = jnp.searchsorted(starts, ids, side="right") - 1
        row_of = ids - starts[part_of]
    rows = jnp.zeros((*ids.shape, *parts[0].shape[1:]), parts[0].dtype)
    for i, part in enumerate(parts):
        # One gather from each part: joining them would copy the whole table.
        found = jnp.take(part, row_of, axis=0, mode="clip")
        rows = jnp.where(beside(part_of == i, rows), found, rows)
    known = (ids >= 0) & (ids < total)
    rows = jnp.where(beside(known, rows), rows, jnp.nan)
    if max_norm is None:
        return rows
    squares = (rows * rows).sum(range(ids.ndim, rows.ndim), keepdims=True)
    long = squares > max_norm**2
    # The root's slope at zero is infinite, so short rows must not come near it.
    return jnp.where(
        long, rows * (max_norm * jax.lax.rsqrt(jnp.where(long, squares, 1))), rows
    )
