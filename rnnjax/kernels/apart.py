"""What a loop does that waits for no step: it is done beside it, or after it.

A step that multiplies one row with weights does no more than read them. What is
multiplied does not always depend on the step before: inputs are there from the start,
and what goes out alone, such as the cotangents of inputs, can be multiplied at the end.
With few rows both are done for many steps at once; with many, the weights are read for
all rows at once, and the results had better never be in memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from rnnjax.kernels import flat, remade
from rnnjax.kernels.loops import Loop
from rnnjax.kernels.products import weight_product


def walk(operands: Sequence[Any], loop: Loop, inner: Callable[..., Any]) -> list[Any]:
    """A loop's results; ``inner(operands, loop[, maker])`` walks what is left of it.

    Some operands of the rest are promised by the maker, each of whose steps can be made
    alone: before the loop or beside it. Where operands are promised already, those are
    made before.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.kernels import apart, flat, loops
    >>> step, _ = flat.trace(lambda w, h, x: [h + x @ w] * 2,
    ...                      [jnp.ones((2, 3)), jnp.ones(3), jnp.ones(2)])
    >>> loop = loops.Loop(step, shared=1, rows=0, carry=1, length=4, reverse=False)
    >>> def inner(operands, loop, maker):
    ...     for each in maker.loop, loop:
    ...         print([eqn.primitive.name for eqn in each.step.eqns])
    ...     made = loops.reference(*maker.operands, loop=maker.loop)
    ...     return loops.reference(*operands[:-1], *made, loop=loop)
    >>> operands = jnp.ones((2, 3)), jnp.zeros((1, 3)), jnp.ones((1, 4, 2))
    >>> apart.walk(operands, loop, inner)[1][0, :, 0]
    ['dot_general']
    ['add']
    Array([2., 4., 6., 8.], dtype=float32)
    """
    step, values = loop.step, dict(zip(loop.step.invars, operands, strict=True))
    shared, _, _, xs = loop.parts(step.invars)
    after, ys = step.outvars[: loop.carry], step.outvars[loop.carry :]
    promised = {v for v, a in values.items() if isinstance(a, remade.Promised)}
    xs = [v for v in xs if v not in promised]
    products, first, last = _found(loop, promised)

    def multiplied(eqn, given, results):
        """A product of weights and a vector by the kernel that takes many of them."""
        if eqn.outvars[0] not in products or [a.ndim for a in given] != [1, 2]:
            return results
        ((_, (summed,)), _) = eqn.params["dimension_numbers"]
        return [weight_product(given[0][None], given[1], turned=summed == 1)[0]]

    def at_all_steps(reads, makes):
        """Have values made that depend on others at the same step alone."""
        part = flat.cut(step, [*shared, *reads], makes)
        axes = [None] * len(shared) + [0] * len(reads)

        def fun(*given):
            return flat.run(part, given, seen=multiplied)

        made = jax.vmap(jax.vmap(fun, axes), axes)(
            *(values[v] for v in (*shared, *reads))
        )
        values.update(zip(makes, made, strict=True))

    maker = []
    if first and promised:
        at_all_steps(xs, first)
    elif first:
        alone = loop._replace(step=flat.cut(step, [*shared, *xs], first), carry=0)
        alone = alone._replace(rows=0, linear=(), spent=())
        maker = [remade.Maker(alone, [values[v] for v in (*shared, *xs)])]
        values.update(zip(first, maker[0].promises(), strict=True))
    own = list(dict.fromkeys(last.get(v, v) for v in ys))
    inside = flat.cut(step, [*step.invars, *first], [*after, *own])
    spent = loop.spent or [False] * len(operands)
    if maker:  # It reads the inputs too.
        spent = [one and v not in xs for one, v in zip(spent, step.invars, strict=True)]
    spent = (*spent, *[not maker] * len(first))
    rest = loop._replace(step=inside, linear=(), spent=spent)
    out = inner([*operands, *(values[v] for v in first)], rest, *maker)
    values.update(zip(own, out[loop.carry :], strict=True))
    if last:
        at_all_steps(list(dict.fromkeys(last.values())), list(last))
    return [*out[: loop.carry], *(values[v] for v in ys)]


class _Found(NamedTuple):
    """The products of a vector and weights, and which of them wait for no step."""

    products: dict[Any, Any]  # with the vectors
    first: list[Any]  # what the inputs alone make of them
    last: dict[Any, Any]  # of the others those that only go out, with the vectors


def _found(loop: Loop, promised: set[Any]) -> _Found:
    step = loop.step
    shared, _, _, xs = loop.parts(step.invars)
    there = {*shared, *xs} - promised
    reads, products = set(step.outvars[: loop.carry]), {}
    for eqn in step.eqns:
        read = flat.variables(eqn.invars)
        reads.update(read)
        if there.issuperset(read):
            there.update(eqn.outvars)
        if eqn.primitive.name == "dot_general" and len(read) == 2:
            moving = [v for v in read if v not in shared]
            if len(moving) == 1:
                products[eqn.outvars[0]] = moving[0]
    first = [_end(step, v, there) for v in products if v in there]
    last = {
        v: factor
        for v, factor in products.items()
        if v not in there and v in step.outvars and v not in reads
    }
    return _Found(products, list(dict.fromkeys(first)), last)


def _end(step: Any, v: Any, there: set[Any]) -> Any:
    """What becomes of a value, such as a sum with a bias, as long as it is no larger.

    It waits for no step either, and each value on the way is read once. It stays a
    float, for nothing else goes from one native loop to another.
    """
    while v not in step.outvars:
        readers = [e for e in step.eqns if v in flat.variables(e.invars)]
        if len(readers) != 1 or not there.issuperset(readers[0].outvars):
            break
        after, *more = readers[0].outvars
        small = after.aval.size <= v.aval.size and after.aval.dtype == v.aval.dtype
        if more or not small:
            break
        v = after
    return v
