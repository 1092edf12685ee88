"""Loops that have a part of what they read made again, in place of being kept.

A gradient needs, of every step, values of the step itself. Where a carry is large, such
as a matrix for each row of a batch, all of its values are far more than a cache holds,
and to write them to memory and read them again takes longer than the steps do. They are
cheap to make again, from the carry at the start and from small values that are kept.

A *remade loop* is one primitive over two loops of as many steps: the *maker*, whose
outputs are at some places among the inputs of the other one. In meaning it is one after
the other. The native engine walks with both at once, a few steps at a time, and no
array has all steps of what is made. Where it is linear, its transpose is a remade loop
too.

What is made again may be rounded otherwise. A carry that is affine in the one before
stays as near to what it was as it came; a nonlinear one might be chaotic, and end up
anywhere. So it is made again only where the step is affine in it.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from rnnjax import structure
from rnnjax.kernels import flat, loops
from rnnjax.kernels.loops import Loop
from rnnjax.programs import bind_each, jvp_of_moving, mapped_size

# Numbers of a row's step that are better made again than kept.
LARGE = 4096


def is_large(aval: Any) -> bool:
    """Whether a value of a step is better made again than kept.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import remade
    >>> remade.is_large(jnp.zeros((64, 64), jnp.float32))
    True
    """
    return aval.dtype == np.float32 and aval.size >= LARGE


class Promised(NamedTuple):
    """An input of a loop over all steps, that is there a few steps at a time."""

    shape: tuple[int, ...]
    dtype: Any
    output: int  # of the maker


class Maker(NamedTuple):
    """A loop that makes values again, and its operands."""

    loop: Loop
    operands: Sequence[Any]

    def promises(self) -> list[Promised]:
        """All that it makes."""
        loop = self.loop
        leading = self.operands[loop.shared].shape[0], loop.length
        return [
            Promised((*leading, *v.aval.shape), v.aval.dtype, i)
            for i, v in enumerate(loop.step.outvars[loop.carry :])
        ]

    def bound(self, *operands: Any, loop: Loop) -> list[Any]:
        """The results of a loop, some of whose operands are promised."""
        places = tuple(i for i, o in enumerate(operands) if isinstance(o, Promised))
        if not places:
            return loops.bound(*operands, loop=loop)
        step, carry = self.loop.step, self.loop.carry
        read = [step.outvars[carry + operands[i].output] for i in places]
        step = flat.cut(step, step.invars, [*step.outvars[:carry], *read])
        maker = self.loop._replace(step=step)
        own = [o for o in operands if not isinstance(o, Promised)]
        return remade_p.bind(
            *self.operands, *own, loop=loop, maker=maker, places=places
        )


class Making(NamedTuple):
    """What is made again of a step, and how.

    Attributes:
      values: variables of the step.
      step: a flat jaxpr from what is the same at all steps, the carry and what is known
        to the carry after the step and the values.
      carry: those variables of the carry that it takes.
      known: variables that are kept of each step.
    """

    values: list[Any]
    step: Any
    carry: list[Any]
    known: list[Any]


def making(
    jaxpr: Any,
    kept: Sequence[Any],
    fixed: Sequence[Any],
    carries: dict[Any, Any],
    known: Iterable[Any],
) -> Making:
    """Which of the values that are kept of a step had better be made again.

    Products with weights are not made again, but known.

    Args:
      jaxpr: flat, of the step.
      kept: its variables that may be made again.
      fixed: those that are the same at all steps.
      carries: those before the step, and what they are after it.
      known: those that there are of each step, or might be.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import flat, remade
    >>> big = jnp.ones((64, 64))
    >>> jaxpr, _ = flat.trace(lambda m, x: m * x, [big, jnp.ones(64)])
    >>> m, x = jaxpr.invars
    >>> found = remade.making(jaxpr, [m], [], {m: jaxpr.outvars[0]}, [x])
    >>> found.values == [m], found.known == [x]
    (True, True)
    """
    values = [v for v in kept if is_large(v.aval)]
    known = [v for v in known if v not in values]
    found = _step_of(jaxpr, values, fixed, carries, known)
    worth = found.values and _is_affine(found, len(fixed))
    return found if worth else Making([], None, [], [])


def _is_affine(making: Making, fixed: int) -> bool:
    """Whether the carry is affine in the one before."""
    avals = [v.aval for v in making.step.invars]
    end = fixed + len(making.carry)
    run = flat.as_fun(making.step)

    def step(carry, fixed, known):
        return tuple(run(*fixed, *carry, *known)[: len(carry)])

    given = tuple(avals[fixed:end]), avals[:fixed], avals[end:]
    return not making.carry or structure.whole(step, *given).kind == "affine"


def _step_of(
    jaxpr: Any,
    values: list[Any],
    fixed: Sequence[Any],
    carries: dict[Any, Any],
    known: list[Any],
) -> Making:
    own: list[Any] = []
    weights = set(fixed)
    while True:
        after = [carries[v] for v in own]
        part = flat.cut(jaxpr, [*fixed, *own, *known], [*after, *values])
        products = [
            eqn.outvars[0]
            for eqn in part.eqns
            if eqn.primitive.name == "dot_general"
            and not weights.isdisjoint(flat.variables(eqn.invars))
        ]
        if products:
            known = [*known, *products]
            values = [v for v in values if v not in products]
            continue
        read = {v for eqn in part.eqns for v in flat.variables(eqn.invars)}
        read.update(flat.variables(part.outvars))
        more = [v for v in carries if v in read and v not in {*own, *known}]
        if not more:
            known = [v for v in known if v in read]
            step = flat.cut(jaxpr, [*fixed, *own, *known], part.outvars)
            return Making(values, step, own, known)
        own += more


def promised(
    making: Making,
    shared: Sequence[Any],
    rows: Sequence[Any],
    start: dict[Any, Any],
    stored: dict[Any, Any],
    **times: Any,
) -> tuple[Maker, list[Any]]:
    """The maker, and what it makes.

    ``start`` has the carry before the first step, ``stored`` what is known of all; the
    rest is as `loops.prepare` takes it.
    """
    count = len(making.carry)
    run = flat.as_fun(making.step)

    def step(shared, rows, carry, xs):
        out = run(*shared, *rows, *carry, *xs)
        return out[:count], out[count:]

    carry, xs = [start[v] for v in making.carry], [stored[v] for v in making.known]
    loop, operands, results = loops.prepare(step, shared, rows, carry, xs, **times)
    maker = Maker(loop, operands)
    return maker, results([*operands[:count], *maker.promises()])[1]


def parted(
    operands: Sequence[Any], loop: Loop, maker: Loop, places: Sequence[int]
) -> tuple[Sequence[Any], list[Any]]:
    """The operands of the maker, and those of the loop with promises among them."""
    count = len(operands) - len(loop.step.invars) + len(places)
    given, own = operands[:count], list(operands[count:])
    for i, promise in zip(places, Maker(maker, given).promises(), strict=True):
        own.insert(i, promise)
    return given, own


def one_by_one(
    walk: Callable[..., Sequence[Any]],
    *operands: Any,
    loop: Loop,
    maker: Loop,
    places: Sequence[int],
) -> Sequence[Any]:
    """The results where ``walk(*operands, loop=...)`` does one loop, then the other."""
    given, own = parted(operands, loop, maker, places)
    made = walk(*given, loop=maker)[maker.carry :]
    for i, a in zip(places, made, strict=True):
        own[i] = a
    return walk(*own, loop=loop)


reference = functools.partial(one_by_one, loops.reference)


def _shapes(*operands: Any, loop: Loop, maker: Loop, places: Sequence[int]) -> Any:
    return loops.shapes_like(operands[maker.shared], loop)


remade_p = loops.make_primitive("remade_loop", _shapes)
pe.dce_rules[remade_p] = loops.without_unused


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, loop: Loop, **making: Any
) -> Any:
    count = len(primals) - len(loop.step.invars) + len(making["places"])
    own = [one for i, one in enumerate(loop.linear) if i not in making["places"]]
    linear = [*[False] * count, *(own or [False] * (len(primals) - count))]
    zero = [type(t) is ad.Zero for t in tangents]
    loop = loop._replace(spent=())
    if all(a or b for a, b in zip(zero, linear, strict=True)):
        moved = [
            ad.instantiate_zeros(t) if one else p
            for p, t, one in zip(primals, tangents, linear, strict=True)
        ]
        bind = functools.partial(remade_p.bind, loop=loop, **making)
        return bind(*primals), bind(*moved)
    loop = loop._replace(linear=())
    run = functools.partial(one_by_one, loops.bound, loop=loop, **making)
    return jvp_of_moving(run, primals, tangents)


ad.primitive_jvps[remade_p] = _jvp


def _batch(
    operands: Sequence[Any],
    dims: Sequence[int | None],
    *,
    loop: Loop,
    maker: Loop,
    places: Sequence[int],
) -> tuple[list[Any], Sequence[int | None]]:
    params = {"loop": loop, "maker": maker, "places": places}
    count = len(maker.step.invars)
    shared = [*range(maker.shared), *range(count, count + loop.shared)]
    if any(dims[i] is not None for i in shared):
        return bind_each(remade_p, operands, dims, **params)
    size = mapped_size(operands, dims)
    rows = [
        o if i in shared else loops.more_rows(o, dim, size)
        for i, (o, dim) in enumerate(zip(operands, dims, strict=True))
    ]
    out = remade_p.bind(*rows, **params)
    return [o.reshape(size, -1, *o.shape[1:]) for o in out], [0] * len(out)


batching.primitive_batchers[remade_p] = _batch
mlir.register_lowering(remade_p, mlir.lower_fun(reference, multiple_results=True))
