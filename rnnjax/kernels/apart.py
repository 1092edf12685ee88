"""Products of a loop that wait for no step: they are done before it, or after it.

A step that multiplies one row with weights does no more than read them. What is
multiplied does not always depend on the step before: inputs are there from the start,
and what goes out alone, such as the cotangents of inputs, can be multiplied at the end.
With few rows both are one product over all steps; with many, the weights are read for
all rows at once, and the results had better never be in memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from rnnjax.kernels import flat
from rnnjax.kernels.loops import Loop


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
    products = _products(loop)
    first = _first(loop, products)
    last = _last(loop, {v: products[v] for v in products if v not in first})

    def at_all_steps(reads, makes):
        """Have values made that depend on others at the same step alone."""
        fun = flat.as_fun(flat.cut(step, [*shared, *reads], makes))
        axes = [None] * len(shared) + [0] * len(reads)
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


def _products(loop: Loop) -> dict[Any, Any]:
    """The products of a vector and weights, and of which vectors they are."""
    shared = set(loop.step.invars[: loop.shared])
    found = {}
    for eqn in loop.step.eqns:
        if eqn.primitive.name == "dot_general":
            moving = [v for v in flat.variables(eqn.invars) if v not in shared]
            if len(moving) == 1 and len(flat.variables(eqn.invars)) == 2:
                found[eqn.outvars[0]] = moving[0]
    return found


def _first(loop: Loop, products: dict[Any, Any]) -> list[Any]:
    """Those of the products that depend on the inputs alone."""
    shared, _, _, xs = loop.parts(loop.step.invars)
    there = {*shared, *xs}
    for eqn in loop.step.eqns:
        if there.issuperset(flat.variables(eqn.invars)):
            there.update(eqn.outvars)
    return [v for v in products if v in there]


def _last(loop: Loop, products: dict[Any, Any]) -> dict[Any, Any]:
    """Those of the products that only go out, and of which vectors they are."""
    step = loop.step
    reads = {v for eqn in step.eqns for v in flat.variables(eqn.invars)}
    reads.update(step.outvars[: loop.carry])
    return {
        v: factor
        for v, factor in products.items()
        if v in step.outvars and v not in reads
    }
