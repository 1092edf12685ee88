"""Follow each element of each array of a program: what it reads, and how."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from rnnjax import programs
from rnnjax.structure import rules
from rnnjax.structure.rules import AFFINE, CONSTANT, MAX_PLUS, OTHER, SHIFT

# The unit that an element reads along an axis, where it is not exactly one.
NO_UNIT, MANY_UNITS = -1, -2
_MULTIPLE = "a multiple of a maximum of the carry"


class Followed(NamedTuple):
    """What is known of each element of an array that reads the carry."""

    kind: np.ndarray
    leaves: np.ndarray
    units: tuple[np.ndarray, ...]
    why: tuple[str, ...]

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Followed":
        units = tuple(map(change, self.units))
        return Followed(change(self.kind), change(self.leaves), units, self.why)


def followed(
    closed: Any, shapes: list[tuple[int, ...]], leaves: Sequence[int]
) -> list[Followed | None]:
    """The next carry as a function of these leaves, all others being constant."""
    rank = max((len(shapes[i]) for i in leaves), default=0)

    def leaf(i):
        shape = shapes[i]
        own = [*np.indices(shape, np.int64)]
        units = own + [np.zeros(shape, np.int64)] * (rank - len(shape))
        kind = np.full(shape, SHIFT, np.int8)
        return Followed(kind, np.full(shape, 1 << i, object), tuple(units), ())

    others = [None] * (len(closed.jaxpr.invars) - len(shapes))
    seeds = [leaf(i) if i in leaves else None for i in range(len(shapes))]
    return _run(closed, seeds + others)


def _run(closed: Any, given: list[Followed | None]) -> list[Followed | None]:
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.invars, given, strict=True))

    def read(v):
        return None if isinstance(v, Literal) else known.get(v)

    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        if any(a is not None for a in inputs):
            known.update(zip(eqn.outvars, _through(eqn, inputs), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _through(eqn: Any, inputs: list[Any]) -> list[Followed | None]:
    """What an equation makes of arrays of which at least one reads the carry."""
    primitive = eqn.primitive.name
    inner = programs.inner(eqn) if primitive in rules.CALLS else None
    if inner is not None:
        return _called(eqn, _run(inner, inputs))
    if primitive in rules.PASSING and len(inputs) == len(eqn.outvars):
        return inputs
    if primitive == "convert_element_type" and _is_inexact(eqn.outvars[0]):
        return inputs
    if primitive == "split":
        return _split(eqn.params, inputs[0])
    if primitive in rules.MOVING and all(a is None for a in inputs[1:]):
        return [inputs[0].each(functools.partial(rules.MOVING[primitive], eqn.params))]
    if primitive == "concatenate":
        return [_concatenated(eqn, inputs)]
    if primitive == "reduce_sum":
        return [_summed(inputs[0], eqn.params["axes"], keep=False)]
    if primitive == "cumsum":
        whole = _summed(inputs[0], (eqn.params["axis"],), keep=True)
        return [_broadcast(whole, eqn.outvars[0].aval.shape)]
    if primitive == "dot_general" and None in inputs:
        return [_product(eqn, *inputs)]
    if primitive in rules.LINEAR and all(
        a is None for a in inputs[rules.LINEAR[primitive] :]
    ):
        return [_mixed(inputs, eqn.outvars[0], AFFINE)]
    if primitive in rules.CONVOLUTIONS and None in inputs:
        return [_mixed(inputs, eqn.outvars[0], AFFINE)]
    if primitive in rules.ELEMENTWISE:
        return [_elementwise(eqn, inputs)]
    return [_mixed(inputs, v, OTHER, _reason(primitive)) for v in eqn.outvars]


def _called(eqn: Any, results: list[Followed | None]) -> list[Followed | None]:
    """A function's results; those of one that has a derivative of its own."""
    if not eqn.primitive.name.startswith("custom"):
        return results
    own = f"{eqn.params.get('name', 'a function')} of the carry, with its own gradient"
    return [
        a
        if a is None or a.kind.max(initial=CONSTANT) == OTHER
        else a._replace(kind=np.where(a.kind, OTHER, a.kind), why=(*a.why, own))
        for a in results
    ]


def _is_inexact(v: Any) -> bool:
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


def _split(params: Any, a: Any) -> list[Followed | None]:
    ends = np.cumsum(params["sizes"])[:-1]
    count = len(params["sizes"])
    return [
        a.each(lambda x, i=i: np.split(x, ends, params["axis"])[i])
        for i in range(count)
    ]


def _concatenated(eqn: Any, inputs: list[Followed | None]) -> Followed:
    axis = eqn.params["dimension"]
    rank = next(len(a.units) for a in inputs if a is not None)
    parts = [
        _constant(v.aval.shape, rank) if a is None else a
        for a, v in zip(inputs, eqn.invars, strict=True)
    ]
    units = zip(*(a.units for a in parts), strict=True)
    return Followed(
        np.concatenate([a.kind for a in parts], axis),
        np.concatenate([a.leaves for a in parts], axis),
        tuple(np.concatenate(each, axis) for each in units),
        _reasons(parts),
    )


def _constant(shape: tuple[int, ...], rank: int) -> Followed:
    units = (np.full(shape, NO_UNIT, np.int64),) * rank
    return Followed(np.zeros(shape, np.int8), np.full(shape, 0, object), units, ())


def _summed(a: Any, axes: tuple[int, ...], *, keep: bool) -> Followed:
    """The sum over axes, which reads a unit if all of its terms read this one."""

    def unit(units):
        low = np.where(units == NO_UNIT, np.iinfo(np.int64).max, units)
        low = low.min(axes, keepdims=keep, initial=np.iinfo(np.int64).max)
        high = units.max(axes, keepdims=keep, initial=NO_UNIT)
        one = np.where(low == high, high, MANY_UNITS)
        return np.where(low == np.iinfo(np.int64).max, NO_UNIT, one)

    kind = a.kind.max(axes, keepdims=keep, initial=CONSTANT)
    terms = np.count_nonzero(a.kind, axes, keepdims=keep)
    alone = terms <= 1
    kind = np.where(alone | (kind == OTHER), kind, np.maximum(kind, AFFINE))
    sums = ~alone & (kind == MAX_PLUS)
    why = (*a.why, "a sum of maxima of the carry") if sums.any() else a.why
    kind = np.where(sums, OTHER, kind).astype(np.int8)
    leaves = np.bitwise_or.reduce(a.leaves, axes, keepdims=keep, initial=0)
    return Followed(kind, np.asarray(leaves, object), tuple(map(unit, a.units)), why)


def _product(eqn: Any, left: Followed | None, right: Followed | None) -> Followed:
    """A matrix product with a constant."""
    contracted, batched = eqn.params["dimension_numbers"]
    side = int(left is None)
    a: Any = left if right is None else right
    shape = eqn.outvars[0].aval.shape
    axes, batch = contracted[side], list(batched[side])
    free = [i for i in range(a.kind.ndim) if i not in (*axes, *batch)]
    order = [*batch, *free, *axes]
    moved = _scaled(a.each(lambda x: x.transpose(order)))
    last = tuple(range(len(batch) + len(free), len(order)))
    summed = _summed(moved, last, keep=False)
    added = len(shape) - summed.kind.ndim
    at = summed.kind.ndim if side == 0 else len(batch)
    spread = summed.each(
        lambda x: x.reshape((*x.shape[:at], *[1] * added, *x.shape[at:]))
    )
    return _broadcast(spread, shape)


def _scaled(a: Followed) -> Followed:
    """Each element times a constant."""
    kind = np.where(a.kind == SHIFT, AFFINE, a.kind)
    scaled = (kind == MAX_PLUS).any()
    why = (*a.why, _MULTIPLE) if scaled else a.why
    kind = np.where(kind == MAX_PLUS, OTHER, kind).astype(np.int8)
    return a._replace(kind=kind, why=why)


def _broadcast(a: Followed, shape: tuple[int, ...]) -> Followed:
    return a.each(lambda x: np.broadcast_to(x, shape))


def _mixed(
    inputs: Sequence[Followed | None], out: Any, kind: int, reason: str | None = None
) -> Followed:
    """Every element reads all that the inputs read."""
    read = [a for a in inputs if a is not None]
    worst = max(int(a.kind.max(initial=CONSTANT)) for a in read)
    why = _reasons(read)
    if worst == MAX_PLUS and kind == AFFINE:
        why = (*why, "a sum of maxima of the carry")
    if worst > AFFINE:
        kind = OTHER
    if reason is not None:
        why = tuple(dict.fromkeys((*why, reason)))
    bits = [np.bitwise_or.reduce(a.leaves, axis=None, initial=0) for a in read]
    shape = out.aval.shape
    units = (np.full(shape, MANY_UNITS, np.int64),) * len(read[0].units)
    leaves = np.full(shape, functools.reduce(int.__or__, map(int, bits)), object)
    return Followed(np.full(shape, kind, np.int8), leaves, units, why)


def _elementwise(eqn: Any, inputs: Sequence[Followed | None]) -> Followed:
    shape = eqn.outvars[0].aval.shape
    rank = next(len(a.units) for a in inputs if a is not None)
    full = [
        _constant(shape, rank) if a is None else _broadcast(a, shape) for a in inputs
    ]
    rule = rules.KIND_OF.get(eqn.primitive.name, rules.unknown)
    kind = rule(*(a.kind for a in full))
    why = _reasons(full)
    # Of what is not affine already, only what this equation adds to it is told.
    if (rule(*(_as_if_affine(a.kind) for a in full)) == OTHER).any():
        maxima = any((a.kind == MAX_PLUS).any() for a in full)
        reason = _reason(eqn.primitive.name)
        if maxima and eqn.primitive.name in ("mul", "div", "neg"):
            reason = _MULTIPLE
        why = tuple(dict.fromkeys((*why, reason)))
    units = zip(*(a.units for a in full), strict=True)
    return Followed(
        kind.astype(np.int8),
        functools.reduce(np.bitwise_or, (a.leaves for a in full)),
        tuple(functools.reduce(_same_unit, each) for each in units),
        why,
    )


def _as_if_affine(kind: np.ndarray) -> np.ndarray:
    return np.where(kind == OTHER, AFFINE, kind)


def _same_unit(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    both = np.where(one == other, one, MANY_UNITS)
    return np.where(one == NO_UNIT, other, np.where(other == NO_UNIT, one, both))


def _reasons(arrays: Sequence[Followed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentence for a in arrays for sentence in a.why))


def _reason(primitive: str) -> str:
    return rules.WORDS.get(primitive, f"{primitive.replace('_', ' ')} of the carry")
