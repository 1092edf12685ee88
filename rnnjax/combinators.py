"""Cells made of cells, and cells without a memory. All of them are a `Cell`."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.cell import (
    Carry,
    Cell,
    InitFn,
    Keys,
    NoStepError,
    Params,
    Reset,
    constructor,
)


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
    _at_least_one("stack", cells)

    def step(params, carry, x):
        carry = _entries(carry, cells)
        after = []
        for i, cell in enumerate(cells):
            with _named(f"cell {i} of the stack, {cell}"):
                c, x = cell.step(params[i], carry[i], x)
            after.append(c)
        return tuple(after), x

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry = _entries(carry, cells)
        after = []
        keys, resets = _keys(key, len(cells)), _resets(reset, cells)
        for i, cell in enumerate(cells):
            with _named(f"cell {i} of the stack, {cell}"):
                c, xs = cell.unroll(
                    params[i], carry[i], xs, mask=mask, reset=resets[i], key=keys[i]
                )
            after.append(c)
        return tuple(after), xs

    return Cell(_init_all(cells), _initial_carries(cells), step, unroll)


def _concatenate(*outputs: Array) -> Array:
    return jnp.concatenate(outputs, axis=-1)


@constructor
def parallel(*cells: Cell, merge: Callable[..., Any] = _concatenate) -> Cell:
    """Cells side by side: each gets the input, their outputs are merged.

    Params and carry are tuples with an entry for each cell. ``merge(*outputs)`` takes
    the outputs of one time step or of a whole sequence; it concatenates features.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 2))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 6)
    """
    _at_least_one("parallel", cells)

    def step(params, carry, x):
        carry = _entries(carry, cells)
        done = []
        for i, cell in enumerate(cells):
            with _named(f"cell {i} of the parallel cells, {cell}"):
                done.append(cell.step(params[i], carry[i], x))
        return tuple(c for c, _ in done), merge(*(y for _, y in done))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry = _entries(carry, cells)
        done = []
        keys, resets = _keys(key, len(cells)), _resets(reset, cells)
        for i, cell in enumerate(cells):
            with _named(f"cell {i} of the parallel cells, {cell}"):
                done.append(
                    cell.unroll(
                        params[i], carry[i], xs, mask=mask, reset=resets[i], key=keys[i]
                    )
                )
        return tuple(c for c, _ in done), merge(*(ys for _, ys in done))

    return Cell(_init_all(cells), _initial_carries(cells), step, unroll)


@constructor
def reverse(cell: Cell) -> Cell:
    """Walk time backwards; the outputs stand in the order of the inputs.

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

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        start, time = cell.initial_carry(params), checks.time_steps(xs)
        mask, reset = checks.signals(mask, reset, time, start)
        xs, mask, reset = scan.flip(xs, mask, reset)
        carry, ys = cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)
        return carry, scan.flip(ys)[0]

    return Cell(cell.init, cell.initial_carry, _no_step, unroll)


@constructor
def bidirectional(
    forward: Cell,
    backward: Cell | None = None,
    *,
    merge: Callable[..., Any] = _concatenate,
) -> Cell:
    """One cell forwards and one backwards over the same sequence.

    It is ``parallel(forward, reverse(backward))``; without ``backward`` a second
    ``forward`` with its own params runs backwards. Params and carry are pairs. For one
    vector a sequence take the final carries, not ``ys[-1]``: there the backward cell
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
    backward = forward if backward is None else backward
    cell = parallel(forward, reverse(backward), merge=merge)
    return Cell(cell.init, cell.initial_carry, _no_step, cell.unroll)


def _no_step(params: Params, carry: Carry, x: Any) -> tuple[Carry, Any]:
    raise NoStepError(
        "step of a cell that walks time backwards was called; it would need inputs "
        "that are still to come. Write cell.unroll(params, carry, xs) on the whole "
        "sequence."
    )


@constructor
def residual(cell: Cell) -> Cell:
    """Add the input to the output: ``y + x``, both of one shape.

    Reference: He et al. 2016, Deep residual learning, arXiv:1512.03385.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.residual(rnnjax.gru(3, 3))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, y = cell.step(params, cell.initial_carry(params), jnp.ones(3))
    >>> bool((y == carry + 1).all())
    True
    """

    def add(y, x):
        x = jnp.asarray(x)
        if x.shape != y.shape:
            raise ValueError(
                f"residual({cell}) got inputs of shape {x.shape} and outputs of shape "
                f"{y.shape}; expected equal shapes to add. Make the cell with as many "
                "units as input features, or put rnnjax.dense before it."
            )
        return y + x.astype(y.dtype)

    def step(params, carry, x):
        carry, y = cell.step(params, carry, x)
        return carry, add(y, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry, ys = cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)
        return carry, add(ys, xs if mask is None else scan.zero_padding(xs, mask))

    return Cell(cell.init, cell.initial_carry, step, unroll)


class LearnedCarryParams(NamedTuple):
    """The params of the cell and the carry that its sequences start with."""

    cell: Params
    carry: Carry


@constructor
def learned_carry(cell: Cell) -> Cell:
    """Make the initial carry a parameter; it starts as the cell's own.

    Resets go to it too, and it receives their gradients.

    >>> import jax, rnnjax
    >>> cell = rnnjax.learned_carry(rnnjax.lstm(3, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> cell.initial_carry(params) is params.carry
    True
    """

    def init(key):
        params = cell.init(key)
        return LearnedCarryParams(params, cell.initial_carry(params))

    def initial_carry(params):
        return params.carry

    def step(params, carry, x):
        return cell.step(params.cell, carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        _, reset = checks.signals(None, reset, checks.time_steps(xs), params.carry)
        return cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init, initial_carry, step, unroll)


@constructor
def time_distributed(
    init: InitFn,
    apply: Callable[[Params, Any], Any],
    *,
    input_shape: tuple[int, ...] | None = None,
) -> Cell:
    """The same function with params at every step, all steps at once by `jax.vmap`.

    It is how any network, for example a convolutional one on the frames of a video,
    becomes a cell of a stack. The carry is empty.

    Args:
      init: ``(key) -> params``.
      apply: ``(params, x) -> y``, of one input.
      input_shape: the shape of one input. Inputs are then checked, and cast to the
        dtype of the params; ``None`` takes any pytree.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def init(key):
    ...     return jax.random.normal(key, (3, 2))
    >>> def apply(w, x):
    ...     return jax.nn.relu(x @ w)
    >>> cell = rnnjax.time_distributed(init, apply)
    >>> _, ys = cell.unroll(cell.init(jax.random.key(0)), (), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 2)
    """

    def initial_carry(params):
        return ()

    def step(params, carry, x):
        x = checks.step_input(x, input_shape, checks.float_dtype(params))
        return checks.carry(carry, ()), apply(params, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        if key is not None:
            checks.noise_key(key)
        carry = checks.carry(carry, ())
        xs, time = checks.sequence(xs, input_shape, checks.float_dtype(params))
        mask, _ = checks.signals(mask, reset, time, ())
        if mask is None:
            return carry, jax.vmap(apply, in_axes=(None, 0))(params, xs)
        xs = scan.zero_padding(xs, mask)
        ys = jax.vmap(apply, in_axes=(None, 0))(params, xs)
        return carry, scan.zero_padding(ys, mask)

    return Cell(init, initial_carry, step, unroll)


@constructor
def pointwise(function: Callable[[Any], Any]) -> Cell:
    """Apply a function of one input at each step; no params, an empty carry.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.gru(3, 4), rnnjax.pointwise(jax.nn.relu))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> bool((ys >= 0).all())
    True
    """
    return time_distributed(lambda key: (), lambda params, x: function(x))


class DenseParams(NamedTuple):
    """``w: (inputs, outputs)``, ``b: (outputs,)``."""

    w: Array
    b: Array


@constructor
def dense(input_size: int, output_size: int) -> Cell:
    """An affine map of each input: ``y = x @ w + b``. The carry is empty.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.dense(3, 2)
    >>> params = cell.init(jax.random.key(0))
    >>> cell.step(params, cell.initial_carry(params), jnp.zeros(3))
    ((), Array([0., 0.], dtype=float32))
    """
    checks.size("input_size", input_size)
    checks.size("output_size", output_size)

    def init(key):
        draw = jax.nn.initializers.glorot_uniform()
        w = draw(checks.key(key), (input_size, output_size))
        return DenseParams(w, jnp.zeros(output_size, w.dtype))

    return time_distributed(
        init, lambda params, x: x @ params.w + params.b, input_shape=(input_size,)
    )


@constructor
def embedding(vocabulary_size: int, embedding_size: int) -> Cell:
    """Look up a row of a table for each token: ``y = table[x]``, ``x`` an integer.

    The params are the table, ``(vocabulary_size, embedding_size)``. An id outside of it
    gives NaN, which is seen, where clamping would give the wrong row, which is not.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.embedding(50, 8), rnnjax.lstm(8, 16))
    >>> params = cell.init(jax.random.key(0))
    >>> tokens = jnp.array([3, 14, 15])
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), tokens)
    >>> ys.shape
    (3, 16)
    """
    checks.size("vocabulary_size", vocabulary_size)
    checks.size("embedding_size", embedding_size)

    def init(key):
        shape = (vocabulary_size, embedding_size)
        return jax.random.normal(checks.key(key), shape)

    def look_up(table, x):
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(
                f"x of an embedding has dtype {x.dtype}; expected integers, the ids of "
                "tokens. Write x.astype(jnp.int32), or rnnjax.dense for features."
            )
        return jnp.take(table, jnp.where(x < 0, vocabulary_size, x), 0, mode="fill")

    return time_distributed(init, look_up)


def _at_least_one(name: str, cells: tuple[Cell, ...]) -> None:
    wrong = [cell for cell in cells if not isinstance(cell, Cell)]
    if wrong or not cells:
        raise TypeError(
            f"{name} got {wrong or 'nothing'}; expected one or more cells. Write "
            f"{name}(rnnjax.lstm(8, 16), rnnjax.lstm(16, 4)), a list as {name}(*cells)."
        )


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


def _entries(carry: Any, cells: tuple[Cell, ...], name="carry") -> tuple[Carry, ...]:
    if not isinstance(carry, tuple) or len(carry) != len(cells):
        raise TypeError(
            f"{name} has {len(carry) if isinstance(carry, tuple) else 'no'} entries; "
            f"expected a tuple of {len(cells)}, one carry for each of {cells}. Write "
            "cell.initial_carry(params)."
        )
    return carry


def _resets(reset: Any, cells: tuple[Cell, ...]) -> list[Any]:
    if isinstance(reset, Reset):
        _entries(reset.carry, cells, name="reset.carry")
    return scan.split_reset(reset, len(cells))


def _keys(key: Array | Keys | None, count: int) -> list[Any]:
    return scan.split_key(None if key is None else checks.noise_key(key), count)


@contextlib.contextmanager
def _named(where: str):
    """Add to an error in which of several cells it arose."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was in {where}.")
        raise
