"""Opening a cell: the calls that made it, and the cells that it is made of.

Nothing here goes by the name of a constructor, which anyone may use again.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_map_with_path

from rnnjax.cell import Cell, Spec
from rnnjax.combinators.layers import bidirectional, reverse


class Part(NamedTuple):
    """A cell among the arguments of a combinator.

    Attributes:
      place: where it stands: ``"0"`` in ``stack``, ``"backward"``, ``"cell"``.
      cell: the cell.
      backwards: whether it walks time from the end to the start.
    """

    place: str
    cell: Cell
    backwards: bool


def unfold(cell: Cell) -> Iterator[Cell]:
    """The cell, then what its constructor returned, then what made that, and so on.

    All of them are the same four functions and differ in their specs. The last one is
    the call whose code put these functions together.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> @rnnjax.constructor
    ... def encoder(size):
    ...     return rnnjax.stack(rnnjax.gru(size, 8), rnnjax.dense(8, 2))
    >>> [cell.spec.name for cell in opening.unfold(encoder(3))]
    ['encoder', 'stack']
    """
    while cell.spec is not None:
        yield cell
        cell = cell.spec.build()


def made_by(cell: Cell, constructors: Collection[Callable[..., Cell]]) -> Cell | None:
    """The cell with the outermost of its specs that one of ``constructors`` made.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> @rnnjax.constructor
    ... def small():
    ...     return rnnjax.gru(2, 3)
    >>> opening.made_by(small(), [rnnjax.lstm, rnnjax.gru])
    gru(2, 3)
    """
    found = (c for c in unfold(cell) if c.spec and c.spec.constructor in constructors)
    return next(found, None)


def combinator(cell: Cell) -> Spec | None:
    """The call that put the cell together from other cells, if one did.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> @rnnjax.constructor
    ... def deep(cell):
    ...     return rnnjax.stack(cell, cell)
    >>> opening.combinator(deep(rnnjax.gru(3, 3)))
    stack(gru(3, 3), gru(3, 3))
    >>> opening.combinator(rnnjax.gru(3, 3))
    """
    specs = [c.spec for c in unfold(cell) if c.spec is not None]
    return next((spec for spec in reversed(specs) if _holders(spec)), None)


def walked(cell: Cell) -> Spec | None:
    """The call that says how the cell walks time, if one does: by ``traversal=``.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> opening.walked(rnnjax.gru(3, 4))["traversal"] is None
    True
    """
    specs = (c.spec for c in unfold(cell) if c.spec is not None)
    return next((s for s in specs if "traversal" in dict(s.arguments)), None)


def parts(spec: Spec) -> list[Part]:
    """The cells that a combinator is made of, in their order.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> opening.parts(rnnjax.bidirectional(rnnjax.gru(3, 4)).spec)[1]
    Part(place='backward', cell=gru(3, 4), backwards=True)
    """
    found: list[Part] = []

    def note(part):
        found.append(part)
        return part.cell

    _swapped(spec, note)
    return found


def rebuild(spec: Spec, swap: Callable[[Part], Cell]) -> Cell:
    """The combinator around other cells: ``swap(part)`` takes the place of each part.

    >>> import jax, rnnjax
    >>> from rnnjax.analysis import opening
    >>> spec = rnnjax.residual(rnnjax.lstm(3, 3)).spec
    >>> cell = opening.rebuild(spec, lambda part: rnnjax.gru(3, 3))
    >>> cell.init(jax.random.key(0)).w_hh.shape
    (3, 9)
    """
    return spec.build(**_swapped(spec, swap))


def wraps(spec: Spec) -> bool:
    """Whether a combinator is around one cell, and not a list of cells, be it of one.

    >>> import rnnjax
    >>> from rnnjax.analysis import opening
    >>> cell = rnnjax.gru(3, 3)
    >>> [opening.wraps(c.spec) for c in (rnnjax.residual(cell), rnnjax.stack(cell))]
    [True, False]
    """
    places = [part.place for part in parts(spec)]
    return len(places) == 1 and places == _holders(spec)


def _swapped(spec: Spec, swap: Callable[[Part], Cell]) -> dict[str, Any]:
    """The arguments of the call, with other cells in them."""
    arguments, holders = _arguments(spec), _holders(spec)
    for name in holders:
        backwards = spec.constructor is reverse or (
            spec.constructor is bidirectional and name == "backward"
        )

        def one(path, leaf, name=name, backwards=backwards):
            if not isinstance(leaf, Cell):
                return leaf
            inner = keystr(path, simple=True, separator=".")
            place = name if not inner else f"{name}.{inner}"
            listed = inner and (len(holders) == 1 or _variadic(spec, name))
            return swap(Part(inner if listed else place, leaf, backwards))

        arguments[name] = tree_map_with_path(one, arguments[name], is_leaf=_is_cell)
    return arguments


def _arguments(spec: Spec) -> dict[str, Any]:
    arguments = dict(spec.arguments)
    if spec.constructor is bidirectional and arguments["backward"] is None:
        arguments["backward"] = arguments["forward"]
    return arguments


def _holders(spec: Spec) -> list[str]:
    """The names of the arguments with cells in them."""
    return [
        name
        for name, value in _arguments(spec).items()
        if any(map(_is_cell, jax.tree.leaves(value, is_leaf=_is_cell)))
    ]


def _variadic(spec: Spec, name: str) -> bool:
    kind = inspect.signature(spec.constructor).parameters[name].kind
    return kind is inspect.Parameter.VAR_POSITIONAL


def _is_cell(value: Any) -> bool:
    return isinstance(value, Cell)
