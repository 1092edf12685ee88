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
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from rnnjax.kernels import flat, loops
from rnnjax.kernels.loops import Loop
from rnnjax.programs import bind_each, mapped_size

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


def promised(
    step: Any, shared: Any, rows: Any, *arrays: Any, **times: Any
) -> tuple[Maker, list[Any]]:
    """A maker with a step of `step_of`, and what it makes.

    The arrays are the carries and what is known, as `loops.prepare` takes them.
    """
    count = len(arrays[0])
    run = flat.as_fun(step)

    def flat_step(shared, rows, carry, xs):
        out = run(*shared, *rows, *carry, *xs)
        return out[:count], out[count:]

    loop, operands, results = loops.prepare(flat_step, shared, rows, *arrays, **times)
    maker = Maker(loop, operands)
    return maker, results([*operands[:count], *maker.promises()])[1]


def step_of(
    jaxpr: Any,
    wanted: Sequence[Any],
    fixed: Sequence[Any],
    carries: dict[Any, Any],
    known: Iterable[Any],
) -> tuple[Any, list[Any], list[Any]]:
    """The step of a maker.

    Products with weights are not made again, but known.

    Args:
      jaxpr: flat, of the step whose values are wanted again.
      wanted: its variables that are.
      fixed: those that are the same at all steps.
      carries: those before the step, and what they are after it.
      known: those that are kept of each step.

    Returns:
      A flat jaxpr from the fixed, some carries and some known variables to these
      carries after the step and what is wanted; the carries; and the known variables.
    """
    own: list[Any] = []
    known, weights = list(known), set(fixed)
    while True:
        after = [carries[v] for v in own]
        part = flat.cut(jaxpr, [*fixed, *own, *known], [*after, *wanted])
        products = [
            eqn.outvars[0]
            for eqn in part.eqns
            if eqn.primitive.name == "dot_general"
            and not weights.isdisjoint(flat.variables(eqn.invars))
        ]
        if products:
            known += products
            continue
        read = {v for eqn in part.eqns for v in flat.variables(eqn.invars)}
        read.update(flat.variables(part.outvars))
        more = [v for v in carries if v in read and v not in own]
        if not more:
            known = [v for v in known if v in read]
            return flat.cut(jaxpr, [*fixed, *own, *known], part.outvars), own, known
        own += more


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
    moving = [i for i, one in enumerate(zero) if not one]

    def of_moving(*given):
        every = list(primals)
        for i, a in zip(moving, given, strict=True):
            every[i] = a
        return run(*every)

    return jax.jvp(
        of_moving, [primals[i] for i in moving], [tangents[i] for i in moving]
    )


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
_reference = functools.partial(one_by_one, loops.reference)
mlir.register_lowering(remade_p, mlir.lower_fun(_reference, multiple_results=True))
