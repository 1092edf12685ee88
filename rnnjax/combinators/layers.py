"""Cells one after the other, side by side and backwards in time."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, signals
from rnnjax.cell import Carry, Cell, Reset, constructor
from rnnjax.combinators import features


@constructor
def stack(*cells: Cell) -> Cell:
    """One cell after the other: the outputs of each are the inputs of the next.

    Params and carry are tuples with an entry for each cell. ``unroll`` sweeps layer by
    layer, so each layer may walk time in its own way; a key is split among them.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.lstm(3, 30), rnnjax.gru(30, 10), rnnjax.dense(10, 1))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, carry[1].shape
    ((7, 1), (10,))
    """
    checks.cells("stack", cells)
    features.one_after_the_other("stack", cells)

    def step(params, carry, x):
        after = []
        for step in _steps("stack", cells, params, carry):
            carry, x = step(x)
            after.append(carry)
        return tuple(after), x

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        unrolls, after = _unrolls("stack", cells, params, carry, mask, reset, key), []
        for unroll in unrolls:
            carry, xs = unroll(xs)
            after.append(carry)
        return tuple(after), xs

    return Cell(_init_all(cells), _initial_carries(cells), step, unroll)


@constructor
def skip_stack(*cells: Cell) -> Cell:
    r"""A stack in which every cell also reads the input, and all outputs are joined.

    .. math::

        y^1_t = cell_1(x_t), \quad y^l_t = cell_l([x_t; y^{l-1}_t]), \quad
        y_t = [y^1_t; \dots; y^L_t]

    Each cell after the first takes the features of the input and of the cell before.
    Params and carry are those of `stack`. It is Haiku's
    ``deep_rnn_with_skip_connections``.

    Reference: Graves 2013, Generating sequences with recurrent neural networks,
    arXiv:1308.0850.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.skip_stack(rnnjax.gru(3, 8), rnnjax.gru(3 + 8, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, bool((ys[-1, 8:] == carry[1]).all())
    ((7, 12), True)
    """
    checks.cells("skip_stack", cells)
    features.one_after_the_other("skip_stack", cells, concatenate)

    def through(walks, x):
        """Feed every cell and join what comes out, for one step or a sequence."""
        x, ys, after = jnp.asarray(x), [], []
        for walk in walks:
            seen = jnp.concatenate([x.astype(ys[-1].dtype), ys[-1]], -1) if ys else x
            carry, y = walk(seen)
            after.append(carry)
            ys.append(y)
        return tuple(after), jnp.concatenate(ys, -1)

    def step(params, carry, x):
        return through(_steps("skip_stack", cells, params, carry), x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        walks = _unrolls("skip_stack", cells, params, carry, mask, reset, key)
        return through(walks, xs)

    return Cell(_init_all(cells), _initial_carries(cells), step, unroll)


def concatenate(*outputs: Array) -> Array:
    """How outputs are merged by default: side by side, along the features."""
    return jnp.concatenate(outputs, axis=-1)


@constructor
def parallel(*cells: Cell, merge: Callable[..., Any] = concatenate) -> Cell:
    """Cells side by side: each gets the input, and their outputs are merged.

    Params and carry are tuples with an entry for each cell. ``merge(*outputs)`` takes
    the outputs of one time step or of a whole sequence; by default it concatenates
    features.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 2))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 6)
    """
    checks.cells("parallel", cells)
    checks.function("merge", merge, "jnp.add")
    features.side_by_side("parallel", cells, merge)

    def step(params, carry, x):
        done = [step(x) for step in _steps("parallel", cells, params, carry)]
        return tuple(c for c, _ in done), merge(*(y for _, y in done))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        unrolls = _unrolls("parallel", cells, params, carry, mask, reset, key)
        done = [unroll(xs) for unroll in unrolls]
        return tuple(c for c, _ in done), merge(*(ys for _, ys in done))

    return Cell(_init_all(cells), _initial_carries(cells), step, unroll)


@constructor
def reverse(cell: Cell) -> Cell:
    """Walk time backwards; the outputs are in the order of the inputs.

    Padding holds the carry, so sequences of all lengths start at their own last step.
    Resets mark the same segments as forwards. There is no ``step``: it would need the
    future.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.reverse(rnnjax.gru(3, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> bool((ys[0] == h).all())
    True
    """
    checks.cell("cell", cell)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        start = cell.initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        turned, turned_mask, turned_reset = signals.flip(xs, mask, reset)
        walk: Any = cell.unroll
        if signals.takes_reverse(walk):
            # Only the places of resets are others backwards.
            if turned_reset is not None:
                reset = Reset(jnp.flip(turned_reset.where), turned_reset.carry)
            beside = {"mask": mask, "reset": reset, "key": key}
            return walk(params, carry, xs, **beside, reverse=True)
        beside = {"mask": turned_mask, "reset": turned_reset, "key": key}
        carry, ys = walk(params, carry, turned, **beside)
        return carry, signals.flip(ys)[0]

    step = features.backwards(cell.step)
    return Cell(cell.init, cell.initial_carry, step, unroll)


@constructor
def bidirectional(
    forward: Cell,
    backward: Cell | None = None,
    *,
    merge: Callable[..., Any] = concatenate,
) -> Cell:
    """One cell forwards and one backwards over the same sequence.

    It is ``parallel(forward, reverse(backward))``; without ``backward`` a second
    ``forward`` with its own params runs backwards. Params and carry are pairs. For one
    vector per sequence take the final carries, not ``ys[-1]``: there the backward cell
    has seen one step only.

    Reference: Schuster, Paliwal 1997, Bidirectional recurrent neural networks,
    doi:10.1109/78.650093.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.bidirectional(rnnjax.lstm(3, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> (f, b), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, bool((ys[-1, :4] == f.h).all()), bool((ys[0, 4:] == b.h).all())
    ((7, 8), True, True)
    """
    checks.cell("forward", forward)
    backward = forward if backward is None else checks.cell("backward", backward)
    checks.function("merge", merge, "jnp.add")
    features.side_by_side("bidirectional", (forward, backward), merge)
    cell = parallel(forward, reverse(backward), merge=merge)
    step = features.backwards(cell.step)
    return Cell(cell.init, cell.initial_carry, step, cell.unroll)


def _init_all(cells: tuple[Cell, ...]):
    def init(key):
        keys = jax.random.split(checks.key(key), len(cells))
        return tuple(cell.init(k) for cell, k in zip(cells, keys, strict=True))

    return init


def _initial_carries(cells: tuple[Cell, ...]):
    def initial_carry(params):
        return tuple(
            cell.initial_carry(p) for cell, p in zip(cells, params, strict=True)
        )

    return initial_carry


def _steps(name: str, cells: tuple[Cell, ...], params: Any, carry: Any) -> list[Any]:
    """For each of the cells its step, ``x -> (carry, y)``."""
    carry = _entries("carry", carry, cells)

    def step(i, x):
        with _named(f"cell {i} of the {name}, {cells[i]}"):
            return cells[i].step(params[i], carry[i], x)

    return [functools.partial(step, i) for i in range(len(cells))]


def _unrolls(
    name: str,
    cells: tuple[Cell, ...],
    params: Any,
    carry: Any,
    mask: Any,
    reset: Any,
    key: Any,
) -> list[Any]:
    """For each of the cells its unroll, ``xs -> (carry, ys)``, and its signals."""
    carry = _entries("carry", carry, cells)
    if isinstance(reset, Reset):
        _entries("reset.carry", reset.carry, cells)
    resets = signals.split_reset(reset, len(cells))
    key = None if key is None else checks.noise_key(key)
    keys = signals.split_key(key, len(cells))

    def unroll(i, xs):
        given = {"mask": mask, "reset": resets[i], "key": keys[i]}
        with _named(f"cell {i} of the {name}, {cells[i]}"):
            return cells[i].unroll(params[i], carry[i], xs, **given)

    return [functools.partial(unroll, i) for i in range(len(cells))]


def _entries(name: str, carry: Any, cells: tuple[Cell, ...]) -> tuple[Carry, ...]:
    if not isinstance(carry, tuple) or len(carry) != len(cells):
        raise TypeError(
            f"{name} has {len(carry) if isinstance(carry, tuple) else 'no'} entries; "
            f"expected a tuple of {len(cells)}, one carry for each of {cells}. Write "
            "cell.initial_carry(params)."
        )
    return carry


@contextlib.contextmanager
def _named(where: str):
    """Add to an error in which of several cells it arose."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was in {where}.")
        raise
