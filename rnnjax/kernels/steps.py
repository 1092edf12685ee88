"""One step forward and one step back, for every program that JAX writes.

The reference scan and the kernels for a TPU and a GPU walk differently, over arrays or
over blocks of them, and all do this at a step. Arrays are ``(b, units)`` in blocks of
columns, and ``product(rows, weights)`` multiplies as the program does. A flag has one
column, for it stands beside the units. An absent one is None.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.kernels.equations import Arrays, Equations

Product = Callable[[Array, Array], Array]


def apart(a: Any, count: int) -> Arrays:
    """Blocks of columns, or of saved values, as one array each.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> [block.shape for block in steps.apart(jnp.zeros((2, 6)), 3)]
    [(2, 2), (2, 2), (2, 2)]
    """
    return tuple(jnp.split(a, count, axis=-1))


def together(arrays: Arrays) -> Array:
    """The opposite of `apart`.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> steps.together((jnp.zeros((2, 3)), jnp.zeros((2, 3)))).shape
    (2, 6)
    """
    return jnp.concatenate(arrays, axis=-1)


def cut(cell: Equations, columns: Array) -> Arrays:
    """The columns that multiply ``h``, and the gated ones where a cell has them.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, steps
    >>> [w.shape for w in steps.cut(equations.GRU_BEFORE, jnp.zeros((2, 6)))]
    [(2, 4), (2, 2)]
    """
    if not cell.gated:
        return (columns,)
    first = columns.shape[-1] // cell.columns * (cell.columns - cell.gated)
    return columns[..., :first], columns[..., first:]


def recur(
    cell: Equations, product: Product, weights: Arrays, a: Arrays, h: Array
) -> Arrays:
    """The recurrent product, or both of them, with ``w_hh`` as `cut` gives it.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, steps
    >>> h, w = jnp.ones((1, 2)), jnp.ones((2, 2))
    >>> steps.recur(equations.ELMAN_TANH, jnp.matmul, (w,), (h,), h)
    (Array([[2., 2.]], dtype=float32),)
    """
    u = apart(product(h, weights[0]), cell.columns - cell.gated)
    if not cell.gated:
        return u
    r = jax.nn.sigmoid(a[0] + u[0])
    return (*u, *apart(product(r * h, weights[1]), cell.gated))


def pull(
    cell: Equations,
    product: Product,
    transposed: Arrays,
    saved: Arrays,
    previous: Arrays,
    d_carry: Arrays,
) -> tuple[tuple[Arrays, ...], Arrays]:
    """What reaches the pre-activations and the carry before a step, linearly.

    ``transposed`` has the transpose of each of the weights that `recur` takes.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, steps
    >>> h, w, d = jnp.zeros((1, 2)), jnp.ones((2, 2)), (jnp.ones((1, 2)),)
    >>> steps.pull(equations.ELMAN_TANH, jnp.matmul, (w,), (h,), (), d)[1]
    (Array([[2., 2.]], dtype=float32),)
    """
    d_a, d_u, d_before = cell.differentiate(saved, previous, d_carry)
    *d_others, d_h = d_before
    if cell.gated:
        r, h = saved[0], previous[-1]
        d_product = product(together(d_u[-cell.gated :]), transposed[1])
        d_u = (d_u[0] + d_product * h * r * (1 - r), *d_u[1:])
        d_h = d_h + d_product * r
    plain = together(d_u[: cell.columns - cell.gated])
    d_h = d_h + product(plain, transposed[0])
    return (d_u,) if cell.joined else (d_a, d_u), (*d_others, d_h)


def advance(
    step: Callable[[Arrays], tuple[Arrays, Any]],
    carry: Arrays,
    valid: Array | None,
    restart: Array | None,
    reset_carry: Arrays,
) -> tuple[Arrays, Array, Any]:
    """A step that may be masked and reset: the carry, the output and what it found.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> h, no = (jnp.ones((1, 1)),), jnp.array([[False]])
    >>> after, y, _ = steps.advance(lambda h: ((h[0] + 1,), ()), h, no, None, ())
    >>> after[0].item(), y.item()
    (1.0, 0.0)
    """
    before = carry if restart is None else select(restart, reset_carry, carry)
    after, found = step(before)
    y = after[-1]
    if valid is not None:
        # A padded step does nothing at all: its reset does not count either.
        after = select(valid, after, carry)
        y = jnp.where(valid, y, jnp.zeros_like(y))
    return after, y, found


def retreat(
    back: Callable[[Arrays], tuple[tuple[Arrays, ...], Arrays]],
    d_after: Arrays,
    d_restart: Arrays,
    d_y: Array,
    valid: Array | None,
    restart: Array | None,
) -> tuple[Arrays, Arrays, tuple[Arrays, ...]]:
    """The transpose of `advance`, of which ``back`` is that of the step.

    It gives what reaches the carry before, the sum of what reached the carry of resets,
    and what reaches the pre-activations.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> d, yes = jnp.ones((1, 1)), jnp.array([[True]])
    >>> back = lambda d: (((d[0],),), d)
    >>> d_before, d_restart, _ = steps.retreat(back, (d,), (d,), d, None, yes)
    >>> d_before[0].item(), d_restart[0].item()
    (0.0, 3.0)
    """
    d_parts, d_before = back((*d_after[:-1], d_after[-1] + d_y))
    if valid is not None:
        d_parts = tuple(select(valid, d, zeros(d)) for d in d_parts)
        d_before = select(valid, d_before, d_after)
    if restart is not None:
        restart = restart if valid is None else restart & valid
        from_restart = select(restart, d_before, zeros(d_before))
        d_restart = tuple(map(jnp.add, d_restart, from_restart))
        d_before = select(restart, zeros(d_before), d_before)
    return d_before, d_restart, d_parts


def select(where: Array, one: Arrays, other: Arrays) -> Arrays:
    """`jnp.where` on each pair of two tuples.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> steps.select(jnp.array(True), (jnp.array(1),), (jnp.array(2),))[0].item()
    1
    """
    return tuple(jnp.where(where, a, b) for a, b in zip(one, other, strict=True))


def zeros(arrays: Arrays) -> Arrays:
    """As many zeros.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import steps
    >>> steps.zeros((jnp.array(1),))[0].item()
    0
    """
    return tuple(map(jnp.zeros_like, arrays))
