"""What can depend on what in one step, whatever the values.

A derivative is traced, and the numbers in it that come from values, such as where a
ReLU was active, are exchanged for others in general position. What is zero then is zero
always: a unit that happens to be dead is still seen.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.tree_util import keystr, tree_leaves_with_path

from rnnjax.cell import Cell
from rnnjax.online.stepping import Move, Place, whole

NONE, MANY = -1, -2


class Facts(NamedTuple):
    """The units of a cell, and how one step connects them.

    Attributes:
      places: where the states of each unit stand in the vector, ``(units, states)``;
        ``NONE`` where a unit has fewer than others.
      reads: ``(units, units)``: whether one unit after the step depends on another.
      owners: which unit each number in the params moves, of the params' form; ``NONE``,
        or ``MANY``.
    """

    places: np.ndarray
    reads: np.ndarray
    owners: Any

    @property
    def unit(self) -> np.ndarray:
        """Which unit each state belongs to, ``(n,)``."""
        found = np.empty(self.places.max(initial=-1) + 1, int)
        for unit, places in enumerate(self.places):
            found[places[places != NONE]] = unit
        return found


def facts(place: Place, view: Callable[[Place], Move] = whole) -> Facts:
    """Those of a step as it is viewed; places in one form have the same."""
    return _facts(view, place.cell, *_form(place))


@functools.lru_cache(maxsize=128)
def _facts(
    view: Callable[[Place], Move], cell: Cell, structure: Any, forms: tuple
) -> Facts:
    with jax.ensure_compile_time_eval():
        draw = np.random.default_rng(0)
        place = _somewhere(cell, structure, forms, draw)
        state = place.state
        eye = jnp.eye(state.size, dtype=state.dtype)
        moved = np.zeros(eye.shape, bool)
        for run in _in_general(lambda s: view(place)(place.params, s)[0], state):
            push = jax.linearize(run, state)[1]
            moved |= np.asarray(jax.vmap(push, out_axes=1)(eye)) != 0
        places = _units(moved, place.carry)
        unit = Facts(places, moved, None).unit
        reads = np.zeros((len(places),) * 2, bool)
        after, before = np.nonzero(moved)
        reads[unit[after], unit[before]] = True
        owners = [
            _owners(jax.vjp(run, place.params)[1], unit, state.dtype, draw)
            for run in _in_general(lambda p: place.move(p, state)[0], place.params)
        ]
        return Facts(places, reads, functools.reduce(_either, owners))


def _form(place: Place) -> tuple[Any, tuple]:
    """What two places must share for the same facts, besides their cell."""
    leaves, structure = jax.tree.flatten(place[1:])
    return structure, tuple((np.shape(a), jnp.result_type(a)) for a in leaves)


def _somewhere(
    cell: Cell, structure: Any, forms: tuple, draw: np.random.Generator
) -> Place:
    return Place(cell, *structure.unflatten([_any(draw, *f) for f in forms]))


def _any(draw: np.random.Generator, shape: tuple, dtype: Any) -> jax.Array:
    """Some array of this form; whatever does not float may be an index or a flag."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.ones(shape, dtype) if dtype == jnp.bool_ else jnp.zeros(shape, dtype)
    return jnp.asarray(draw.normal(size=shape), dtype)


def _in_general(function: Callable, primal: Any) -> list[Callable]:
    """Affine maps with the derivative of the function at places in general position.

    Numbers that come from values are drawn anew, all flags true, and then all false.
    """
    _, push = jax.linearize(function, primal)
    closed, shape = jax.make_jaxpr(push, return_shape=True)(primal)
    structure = jax.tree.structure(shape)

    def with_flags(flag):
        draw = np.random.default_rng(1)

        def other(a):
            if jnp.issubdtype(a.dtype, jnp.floating):
                return _any(draw, a.shape, a.dtype)
            return jnp.full(a.shape, flag) if a.dtype == jnp.bool_ else a

        consts = [other(jnp.asarray(a)) for a in closed.consts]
        run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))
        return lambda tangent: structure.unflatten(run(*jax.tree.leaves(tangent)))

    return [with_flags(True), with_flags(False)]


def _units(moved: np.ndarray, carry: Any) -> np.ndarray:
    """Leaves are states of the same units if one sees another unit by unit only."""
    leaves = jax.tree.leaves(carry)
    sizes = [a.size for a in leaves if jnp.issubdtype(a.dtype, jnp.floating)]
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    group = list(range(len(places)))
    for i, one in enumerate(places):
        for j, other in enumerate(places):
            block = moved[np.ix_(one, other)]
            if i != j and len(one) == len(other) and _is_diagonal(block):
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    most = max(map(group.count, group), default=0)
    rows = [np.zeros((0, most), int)]
    for number in sorted(set(group)):
        members = [a for a, g in zip(places, group, strict=True) if g == number]
        fill = [np.full(len(members[0]), NONE)] * (most - len(members))
        rows.append(np.stack([*members, *fill], axis=1))
    return np.concatenate(rows)


def _is_diagonal(block: np.ndarray) -> bool:
    off = block & ~np.eye(len(block), dtype=bool)
    return bool(block.any() and not off.any())


def _owners(
    pull: Callable, unit: np.ndarray, dtype: Any, draw: np.random.Generator
) -> Any:
    """The unit that each number moves, from three moments of its derivatives."""
    weights = draw.normal(size=unit.shape)
    moments = [
        pull(jnp.asarray(weights * (unit + 1.0) ** k, dtype))[0] for k in range(3)
    ]

    def owner(*moments):
        zeroth, first, second = (np.asarray(a, np.float64) for a in moments)
        single = np.abs(zeroth * second - first**2) <= 1e-3 * first**2
        with np.errstate(all="ignore"):
            number = np.nan_to_num(np.rint(first / zeroth) - 1).astype(int)
        nothing = (zeroth == 0) & (first == 0) & (second == 0)
        return np.where(nothing, NONE, np.where(single, number, MANY))

    return jax.tree.map(owner, *moments)


def _either(one: Any, other: Any) -> Any:
    def merged(a, b):
        both = np.where(a == b, a, MANY)
        return np.where(a == NONE, b, np.where(b == NONE, a, both))

    return jax.tree.map(merged, one, other)


def of_rank_one(place: Place) -> None:
    """Refuse params that are not vectors, or matrices that multiply one vector each."""
    for path, why in _of_other_ranks(place.cell, *_form(place)):
        raise ValueError(
            f"rule is kf_rtrl(), and params{path} of {place.cell} {why}; expected "
            "matrices that multiply one vector in a step. Write rnnjax.online.uoro()."
        )


@functools.lru_cache(maxsize=128)
def _of_other_ranks(
    cell: Cell, structure: Any, forms: tuple
) -> tuple[tuple[str, str], ...]:
    with jax.ensure_compile_time_eval():
        draw = np.random.default_rng(0)
        place = _somewhere(cell, structure, forms, draw)
        state, found = place.state, {}
        probes = jnp.asarray(draw.normal(size=(3, state.size)), state.dtype)

        def pulled(run):
            pull = jax.vjp(run, place.params)[1]
            return tree_leaves_with_path(jax.vmap(lambda c: pull(c)[0])(probes))

        for run in _in_general(lambda p: place.move(p, state)[0], place.params):
            for path, leaf in pulled(run):
                if leaf.ndim > 3:
                    found[keystr(path)] = f"has {leaf.ndim - 1} axes"
                if leaf.ndim == 3 and not _is_of_rank_one(leaf):
                    found[keystr(path)] = "multiplies several vectors in a step"
        for run in _in_general(place.first, place.params):
            for path, leaf in pulled(run):
                if leaf.ndim > 2 and jnp.any(leaf != 0):
                    found[keystr(path)] = "makes the initial carry"
        return tuple(found.items())


def _is_of_rank_one(probed: Any) -> bool:
    """Whether all columns of several matrices have one direction."""
    columns = np.concatenate(np.asarray(probed, np.float64), axis=1)
    values = np.linalg.svd(columns, compute_uv=False)
    return len(values) < 2 or values[1] <= 1e-4 * values[0]
