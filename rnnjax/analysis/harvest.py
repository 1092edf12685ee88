"""Values that a function names by `rnnjax.observe`, brought out of it and its loops."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax.extend.core import Literal

from rnnjax import observation, programs


class Named(NamedTuple):
    """A value with its name, and how many axes in front come from loops around it."""

    name: str
    value: Array
    loops: int


def harvest(function: Callable[..., Any], *args: Any) -> tuple[Any, list[Named]]:
    """What the function returns, and its named values in the order of the program.

    A value that is named inside a `jax.lax.scan` comes with the axis of its steps in
    front. What is named inside a `jax.lax.while_loop` or a branch of a
    `jax.lax.cond` or `jax.lax.switch` is left out: how often it is computed is known
    only when the program runs.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> from rnnjax.analysis.harvest import harvest
    >>> def step(carry, x):
    ...     rnnjax.observe(square=x * x)
    ...     return carry + x, None
    >>> (total, _), found = harvest(lambda xs: jax.lax.scan(step, 0.0, xs),
    ...                             jnp.arange(3.0))
    >>> float(total), [(name, value.tolist()) for name, value, _ in found]
    (3.0, [('square', [0.0, 1.0, 4.0])])
    """
    with observation.watching():
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    results, found = _run(closed, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), results), found


def _run(closed: Any, args: list[Any]) -> tuple[list[Any], list[Named]]:
    """Evaluate a jaxpr, which JAX drops names from, and keep the names."""
    jaxpr, found = closed.jaxpr, []
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(v):
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        given = [read(v) for v in eqn.invars]
        inner = programs.inner(eqn)
        if eqn.primitive.name == "name":
            found.append(Named(eqn.params["name"], given[0], 0))
            results = given
        elif inner is None or not _names_in(inner.jaxpr):
            results = programs.run_one(jaxpr, eqn, given)
        elif eqn.primitive.name == "scan":
            results, named = _scan(eqn, inner, given)
            found += named
        else:
            results, named = _run(inner, given)
            found += named
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars], found


def _scan(eqn: Any, step: Any, given: list[Any]) -> tuple[list[Any], list[Named]]:
    consts, carry, xs = programs.scanned(eqn, step.jaxpr, given)
    carried = len(carry)
    kept: list[Named] = []

    def body(carry, x):
        results, found = _run(step, [*consts, *carry, *x])
        kept[:] = found
        return results[:carried], (results[carried:], [one.value for one in found])

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, (ys, values) = lax.scan(body, carry, xs, **options)
    named = [
        Named(one.name, value, one.loops + 1)
        for one, value in zip(kept, values, strict=True)
    ]
    return [*carry, *ys], named


def _names_in(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name == "name"
        or ((inner := programs.inner(eqn)) is not None and _names_in(inner.jaxpr))
        for eqn in jaxpr.eqns
    )
