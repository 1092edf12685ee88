"""Every gate and state of every step, by name."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path

from rnnjax import checks, scan, signals
from rnnjax.analysis import opening
from rnnjax.analysis.harvest import Named, harvest
from rnnjax.cell import Carry, Cell, Keys, NoStepError, Params, Reset, Spec
from rnnjax.observation import observe


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["names"]
)
@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, Array]):
    """Values by name, a mapping; each array has time on its first axis.

    ``trace["i"]`` is an array, ``dict(trace)`` a dict of all of them, and
    ``print(trace)`` a table with a row for each step. The names keep the order in which
    a step computes them, through ``jit`` too. Under ``jax.vmap`` the mapped axis comes
    before time.
    """

    names: tuple[str, ...]
    arrays: tuple[Array, ...]

    def __getitem__(self, name: str) -> Array:
        """The values of that name, ``(t, ...)``."""
        if name not in self.names:
            raise KeyError(f"{name!r} is not in this trace; it has {self.names}.")
        return self.arrays[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.names)

    def __len__(self) -> int:
        """How many names there are."""
        return len(self.names)

    def __str__(self) -> str:
        """A table of the first features of each value, of one sequence."""
        columns = []
        for name, value in self.items():
            value = np.asarray(value, dtype=np.float64)
            rows = [_numbers(row) for row in value.reshape(len(value), -1)]
            width = max(map(len, [name, *rows]))
            columns.append([text.rjust(width) for text in [name, *rows]])
        steps = ["step", *map(str, range(len(columns[0]) - 1 if columns else 0))]
        table = zip([s.rjust(4) for s in steps], *columns, strict=True)
        return "\n".join("  ".join(row) for row in table)


def trace(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    mask: Array | None = None,
    reset: Array | Reset | None = None,
    key: Array | Keys | None = None,
) -> Trace:
    """Unroll one sequence and return every gate and state of every step by name.

    Names are those of the equations in the documentation of a cell. Values at padded
    steps are zero. Where a combinator holds several cells, the place of each stands
    before its names: ``"1.h"`` is the state of the second layer of a stack,
    ``"1.0.h"`` that of the first layer of a stack in it, ``"backward.c"`` belongs to
    the second direction of a bidirectional cell, in the order of the inputs. Your own
    combinators are opened in the same way. A wrapper around one cell, such as
    `residual`, adds no place, and its own names come first: where both have one name,
    that of the cell inside is ``"cell.y"``. A cell of your own shows what it passes to
    `observe`, or else its carry and output.

    It works under ``jax.jit`` and ``jax.vmap``; to print from inside a compiled step
    use ``jax.debug.print``.

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.
      mask: as in ``cell.unroll``.
      reset: as in ``cell.unroll``.
      key: as in ``cell.unroll``: with it the values are those of the same random
        numbers, of dropout and noise, that ``unroll`` draws from it.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(1, 1, forget_bias=0.0)
    >>> params = jax.tree.map(jnp.ones_like, cell.init(jax.random.key(0)))
    >>> carry = cell.initial_carry(params)
    >>> print(rnnjax.trace(cell, params, carry, jnp.array([[0.0], [1.0]])))
    step      i      f      g      o      c      h
       0  0.731  0.731  0.762  0.731  0.557  0.370
       1  0.914  0.914  0.983  0.914  1.408  0.811
    """
    checks.model(cell, params)
    start = cell.initial_carry(params)
    carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
    _, values = _of_sequence(cell, params, carry, xs, mask=mask, reset=reset, key=key)
    return Trace(tuple(values), tuple(values.values()))


def _of_sequence(
    cell: Cell, params: Params, carry: Carry, xs: Any, **given: Any
) -> tuple[Any, dict[str, Array]]:
    """What ``unroll`` returns, and the named values of its steps."""
    opened, spec, shapes = _opened(cell)
    unroll = functools.partial(opened.unroll, **given)
    done, found = harvest(unroll, params, carry, xs)
    own = _shapes_of_a_step(opened, params, carry, xs)
    values = _by_step(found, checks.time_steps(xs), {**(own or {}), **shapes})
    if spec is not None and shapes:
        values = _placed(spec, values)
    elif not values or not values.keys() >= (own or {}).keys():
        values = _without_names(cell, params, carry, xs, done[1], own, given)
    mask = given["mask"]
    if mask is not None:
        values = {n: signals.zero_padding(v, mask) for n, v in values.items()}
    return done, values


def _of_step(
    cell: Cell, params: Params, carry: Carry, x: Any
) -> tuple[Any, dict[str, Array]]:
    """What ``step`` returns, and its named values."""
    opened, spec, shapes = _opened(cell)
    (after, y), found = harvest(opened.step, params, carry, x)
    values = {name: value for name, value, _ in found} or _plain(after, y)
    return (after, y), _placed(spec, values) if spec and shapes else values


def _opened(cell: Cell) -> tuple[Cell, Spec | None, dict[str, tuple[int, ...]]]:
    """The cell with all that it computes in sight, and the shapes that its parts note.

    A combinator is rebuilt around parts that name what they compute. Any other cell
    walks time by a loop, for the inside of a kernel has no names.
    """
    spec, shapes = opening.combinator(cell), {}
    if spec is not None:
        swap = functools.partial(_naming, shapes)
        return opening.rebuild(spec, swap), spec, shapes
    made = opening.walked(cell)
    opened = cell if made is None else made.build(traversal=scan.fused)
    return opened, None, shapes


def _naming(shapes: dict[str, tuple[int, ...]], part: opening.Part) -> Cell:
    """The part, which names its values for the combinator around it."""
    # No spec: two equal cells in one combinator must stay apart.
    inner = part.cell

    def named(values, time_axes):
        for name, value in values.items():
            shapes[f"{part.place}.{name}"] = value.shape[time_axes:]
            observe(**{f"{part.place}.{name}": value})

    def step(params, carry, x):
        done, values = _of_step(inner, params, carry, x)
        named(values, 0)
        return done

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        given = {"mask": mask, "reset": reset, "key": key}
        if reset is not None and not isinstance(reset, Reset):
            given["reset"] = Reset(reset, inner.initial_carry(params))
        done, values = _of_sequence(inner, params, carry, xs, **given)
        if part.backwards:
            values = {name: jnp.flip(value, 0) for name, value in values.items()}
        named(values, 1)
        return done

    return Cell(inner.init, inner.initial_carry, step, unroll)


def _placed(spec: Spec, values: dict[str, Array]) -> dict[str, Array]:
    """The names as they are shown: the only cell of a wrapper needs no place."""
    if not opening.wraps(spec):
        return values
    (part,) = opening.parts(spec)
    place = f"{part.place}."
    own = {name for name in values if not name.startswith(place)}
    short = {name: name.removeprefix(place) for name in values}
    return {
        name if name not in own and short[name] in own else short[name]: value
        for name, value in values.items()
    }


def _shapes_of_a_step(
    cell: Cell, params: Params, carry: Carry, xs: Any
) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the values that a step names, or None where a cell has no step."""

    def values(params, carry, xs):
        x = jax.tree.map(lambda a: jnp.asarray(a)[0], xs)
        return {
            name: value for name, value, _ in harvest(cell.step, params, carry, x)[1]
        }

    try:
        shapes = jax.eval_shape(values, params, carry, xs)
    except NoStepError:
        return None
    return {name: value.shape for name, value in shapes.items()}


def _by_step(
    found: list[Named], time: int, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Join what is named in one loop or several, or in none, to an entry a step.

    A cell that is run several times over the sequence has as many series of values:
    those after the first have a number.
    """
    series: dict[str, list[Array]] = {}
    for name, value, loops in found:
        shape = shapes.get(name, value.shape[max(loops, 1) :])
        steps = math.prod(value.shape[: value.ndim - len(shape)])
        series.setdefault(name, []).append(value.reshape(steps, *shape))
    values = {}
    for name, several in series.items():
        joined = several[0] if len(several) == 1 else jnp.concatenate(several)
        runs, rest = divmod(len(joined), time)
        if not rest:
            for run in range(runs):
                shown = name if run == 0 else f"{name} ({run + 1})"
                values[shown] = joined[run * time : (run + 1) * time]
    return values


def _without_names(cell, params, carry, xs, ys, own, given) -> dict[str, Array]:
    """Values of a cell whose ``unroll`` names none, or fewer than its ``step``."""
    if own is None:
        return _plain((), ys)
    if given["key"] is not None and jax.tree.leaves(carry):
        # A step takes no key. What follows a step is padding where the carry after it
        # is asked for: the random numbers of the whole sequence stay the same.
        steps = jnp.arange(checks.time_steps(xs))
        mask = True if given["mask"] is None else given["mask"]

        def after(t):
            until = given | {"mask": (steps <= t) & mask}
            return cell.unroll(params, carry, xs, **until)[0]

        return _plain(jax.vmap(after)(steps), ys)
    if not jax.tree.leaves(carry) and not own:
        return _plain(carry, ys)

    def step(params, carry, x):
        (after, y), found = harvest(cell.step, params, carry, x)
        values = {name: value for name, value, _ in found}
        return after, values or _plain(after, y)

    walked = {"mask": given["mask"], "reset": given["reset"]}
    return scan.fused(lambda params, x: x, step, params, carry, xs, **walked)[1]


def _plain(carry: Carry, y: Any) -> dict[str, Array]:
    leaves = tree_leaves_with_path({"carry": carry, "y": y})
    return {keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _numbers(row: np.ndarray, most: int = 4) -> str:
    text = " ".join(f"{number:.3f}" for number in row[:most])
    return text + " ..." if len(row) > most else text
