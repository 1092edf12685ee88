"""Products of a loop that wait for no step: they are done before it, or after it.

A step that multiplies one row with weights does no more than read them. What is
multiplied does not always depend on the step before: inputs are there from the start,
and what goes out alone, such as the cotangents of inputs, can be multiplied at the end.
With few rows both are one product over all steps; with many, the weights are read for
all rows at once, and the results had better never be in memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from rnnjax.kernels import flat, remade
from rnnjax.kernels.loops import Loop
from rnnjax.kernels.products import weight_product


def walk(operands: Sequence[Any], loop: Loop, inner: Callable[..., Any]) -> list[Any]:
    """The results of a loop, of which ``inner(*operands, loop=...)`` walks the rest.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.kernels import apart, flat, loops
    >>> step, _ = flat.trace(lambda w, h, x: [h + x @ w] * 2,
    ...                      [jnp.ones((2, 3)), jnp.ones(3), jnp.ones(2)])
    >>> loop = loops.Loop(step, shared=1, rows=0, carry=1, length=4, reverse=False)
    >>> def inner(*operands, loop):
    ...     print([eqn.primitive.name for eqn in loop.step.eqns])
    ...     return loops.reference(*operands, loop=loop)
    >>> operands = jnp.ones((2, 3)), jnp.zeros((1, 3)), jnp.ones((1, 4, 2))
    >>> apart.walk(operands, loop, inner)[1][0, :, 0]
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

    if first:
        at_all_steps(xs, first)
    own = list(dict.fromkeys(last.get(v, v) for v in ys if v not in first))
    inside = flat.cut(step, [*step.invars, *first], [*after, *own])
    made = [values[v] for v in first]
    spent = (*(loop.spent or [False] * len(operands)), *[True] * len(made))
    rest = loop._replace(step=inside, linear=(), spent=spent)
    out = inner(*operands, *made, loop=rest)
    values.update(zip(own, out[loop.carry :], strict=True))
    if last:
        at_all_steps(list(dict.fromkeys(last.values())), list(last))
    return [*out[: loop.carry], *(values[v] for v in ys)]


class _Found(NamedTuple):
    """The products of a vector and weights, and which of them wait for no step."""

    products: dict[Any, Any]  # with the vectors
    first: list[Any]  # those that depend on the inputs alone
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
    first = [v for v in products if v in there]
    last = {
        v: factor
        for v, factor in products.items()
        if v not in there and v in step.outvars and v not in reads
    }
    return _Found(products, first, last)
