"""What cells take and put out, as far as their specs tell, before any data is there.

Cells whose input no spec tells are passed over: they speak up when they run.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax import guards
from rnnjax.cell import Carry, Cell, NoStepError, Params, StepFn
from rnnjax.combinators.memoryless import embedding

_FORWARDS = contextvars.ContextVar("_FORWARDS", default=False)


def backwards(step: StepFn) -> StepFn:
    """The step of a cell that walks backwards, which is there for its shapes alone."""

    def no_step(params: Params, carry: Carry, x: Any) -> tuple[Carry, Any]:
        if _FORWARDS.get():
            return step(params, carry, x)
        raise NoStepError(
            "step of a cell that walks time backwards was called; it would need inputs "
            "that are still to come. Write cell.unroll(params, carry, xs) on the whole "
            "sequence."
        )

    return no_step


def takes(cell: Cell) -> Any:
    """The shape of one input of a cell, as a `jax.ShapeDtypeStruct`, or None.

    >>> import rnnjax
    >>> from rnnjax.combinators import features
    >>> features.takes(rnnjax.residual(rnnjax.gru(3, 3))).shape
    (3,)
    """
    if cell.spec is None:
        return None
    arguments = dict(cell.spec.arguments)
    shape = arguments.get("input_shape")
    size = arguments.get("input_size", arguments.get("size"))
    if shape is None and isinstance(size, int):
        shape = (size,)
    if shape is not None:
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    if cell.spec.constructor is embedding:
        return jax.ShapeDtypeStruct((), jnp.int32)
    return takes(cell.spec.cells[0]) if cell.spec.cells else None


def puts_out(cell: Cell, x: Any) -> Any:
    """The shape of the output for an input of shape ``x``, or None if there is none.

    >>> import rnnjax
    >>> from rnnjax.combinators import features
    >>> cell = rnnjax.bidirectional(rnnjax.gru(3, 4))
    >>> features.puts_out(cell, features.takes(cell)).shape
    (8,)
    """
    return None if x is None else _puts_out(cell, x, jnp.result_type(float))


@functools.lru_cache(maxsize=256)
def _puts_out(cell: Cell, x: Any, precision: Any) -> Any:
    del precision  # in which params are made: part of what is remembered
    params = guards.made(cell.init)
    if params is None:
        return None

    def one_step(params, x):
        return cell.step(params, cell.initial_carry(params), x)[1]

    with _as_if_forwards():
        try:
            return jax.eval_shape(one_step, params, x)
        except Exception:  # whatever it is, it will be said when the cell runs
            return None


@contextlib.contextmanager
def _as_if_forwards():
    token = _FORWARDS.set(True)
    try:
        yield
    finally:
        _FORWARDS.reset(token)


def one_after_the_other(
    name: str, cells: tuple[Cell, ...], joined: Callable[[Any, Any], Any] | None = None
) -> None:
    """Refuse layers of which one takes other features than it gets.

    ``joined(x, y)`` is the input of the next layer where it is not the output ``y`` of
    the one before alone.
    """
    first = x = takes(cells[0])
    y = puts_out(cells[0], x)
    for i, cell in enumerate(cells[1:]):
        if joined is not None and y is not None:
            y = _abstractly(joined, first, y)
        wanted = takes(cell)
        if _differ(y, wanted) and puts_out(cell, y) is None:
            brings = "puts out" if joined is None else "and the input together give"
            raise ValueError(
                f"{name}: layer {i} {brings} {_words(y)}, layer {i + 1} takes "
                f"{_words(wanted)}; expected the same. Write {cell} for inputs "
                f"of {_words(y)}, or put rnnjax.dense in between."
            )
        x = wanted if y is None else y
        # Nobody asks what comes out of the last layer.
        y = puts_out(cell, x) if i + 2 < len(cells) else None


def side_by_side(name: str, cells: tuple[Cell, ...], merge: Callable[..., Any]) -> None:
    """Refuse cells that take different inputs, and a merge that fails on outputs."""
    wanted = [takes(cell) for cell in cells]
    known = [i for i, x in enumerate(wanted) if x is not None]
    for i in known[1:]:
        first = wanted[known[0]]
        if _differ(first, wanted[i]) and puts_out(cells[i], first) is None:
            raise ValueError(
                f"{name}: cell {known[0]} takes {_words(first)}, cell {i} takes "
                f"{_words(wanted[i])}; expected the same, as each gets the input. "
                f"Write {cells[i]} for inputs of {_words(first)}."
            )
    if not known:
        return
    ys = [puts_out(cell, wanted[known[0]]) for cell in cells]
    if any(y is None for y in ys):
        return
    # A merge may have been written for whole sequences alone.
    if any(_abstractly(merge, *given) is not None for given in (ys, _two_steps(ys))):
        return
    outputs = " and ".join(map(_words, ys))
    raise ValueError(
        f"{name}: merge={getattr(merge, '__name__', merge)} does not take outputs of "
        f"{outputs}. Write cells that put out as many features each, or leave merge "
        "out to concatenate them."
    )


def around(name: str, cell: Cell) -> None:
    """Refuse a cell whose outputs cannot be added to its inputs."""
    x = takes(cell)
    y = puts_out(cell, x)
    if _differ(x, y):
        raise ValueError(
            f"{name}({cell}): the cell takes {_words(x)} and puts out {_words(y)}; "
            "expected as many, to add them. Make the cell with as many units as input "
            "features, or write rnnjax.parallel(cell, rnnjax.dense(...), "
            "merge=jnp.add)."
        )


def fed(name: str, cell: Cell, size: int, made_of: str) -> None:
    """Refuse a cell that takes other inputs than the ``size`` features it will get."""
    wanted = takes(cell)
    x = jax.ShapeDtypeStruct((size,), jnp.result_type(float))
    if _differ(x, wanted) and puts_out(cell, x) is None:
        raise ValueError(
            f"{name}({cell}): the cell takes {_words(wanted)}, and gets {made_of}, "
            f"which is {_words(x)}; expected the same. Write a cell for inputs of "
            f"{_words(x)}."
        )


def between(name: str, cell: Cell, input_size: int, output_size: int) -> None:
    """Refuse a cell that takes and puts out other features than were said."""
    wanted = takes(cell)
    x = jax.ShapeDtypeStruct((input_size,), jnp.result_type(float))
    y = puts_out(cell, x)
    if _differ(x, wanted) and y is None:
        raise ValueError(
            f"{name}({cell}): the cell takes {_words(wanted)}, and input_size is "
            f"{input_size}; expected the same. Write input_size={wanted.shape[-1]}."
        )
    if y is not None and y.shape != (output_size,):
        raise ValueError(
            f"{name}({cell}): the cell puts out {_words(y)}, and output_size is "
            f"{output_size}; expected the same. Write output_size={y.shape[-1]}."
        )


def _two_steps(ys: Any) -> Any:
    return jax.tree.map(lambda y: jax.ShapeDtypeStruct((2, *y.shape), y.dtype), ys)


def _abstractly(function: Callable[..., Any], *given: Any) -> Any:
    try:
        return jax.eval_shape(function, *given)
    except Exception:  # it fails on these shapes, in whatever way
        return None


def _differ(one: Any, other: Any) -> bool:
    """Whether both are known to be one array each, of different shapes."""
    shapes = [getattr(a, "shape", None) for a in (one, other)]
    return None not in shapes and shapes[0] != shapes[1]


def _words(x: Any) -> str:
    if not hasattr(x, "shape"):
        return f"{x}"
    if not x.shape:
        return "a token" if jnp.issubdtype(x.dtype, jnp.integer) else "a number"
    if len(x.shape) == 1:
        return f"{x.shape[0]} feature{'s' * (x.shape[0] != 1)}"
    return f"the shape {x.shape}"
