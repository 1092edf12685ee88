"""The equations of a traced program and primitives, run one at a time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, Primitive, jaxpr_as_fun
from jax.interpreters import ad


class Closed(NamedTuple):
    """A jaxpr with its constants, in the form that all versions of JAX share."""

    jaxpr: Any
    consts: Any


def inner(eqn: Any) -> Closed | None:
    """The jaxpr that an equation runs once, or once for each step, on its operands."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(name)
        if found is not None:
            closed = Closed(
                getattr(found, "jaxpr", found), getattr(found, "consts", ())
            )
            return closed if len(closed.jaxpr.invars) == len(eqn.invars) else None
    return None


def scanned(eqn: Any, step: Any, given: Sequence[Any]) -> list[list[Any]]:
    """The operands of a `jax.lax.scan` as ``[constants, carry, xs]``.

    Versions of JAX count them in other ways. In all of them the inputs and the outputs
    over time have an axis less inside ``step``, its jaxpr, than outside.
    """

    def over_time(outside, inside):
        pairs = zip(outside, inside, strict=True)
        return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in pairs)

    carried = len(eqn.outvars) - over_time(eqn.outvars, step.outvars)
    xs = len(given) - over_time(eqn.invars, step.invars)
    return [
        list(given[: xs - carried]),
        list(given[xs - carried : xs]),
        list(given[xs:]),
    ]


def run_one(jaxpr: Any, eqn: Any, given: Sequence[Any]) -> list[Any]:
    """The results of one equation of a jaxpr for these operands."""
    inputs = [
        (v, value)
        for v, value in zip(eqn.invars, given, strict=True)
        if not isinstance(v, Literal)
    ]
    parts = {"constvars": [], "invars": [v for v, _ in inputs], "eqns": [eqn]}
    one = jaxpr.replace(outvars=eqn.outvars, effects=eqn.effects, **parts)
    return jaxpr_as_fun(ClosedJaxpr(one, ()))(*(value for _, value in inputs))


def compiled(primitive: Primitive) -> Callable:
    """What runs a primitive that is bound outside `jax.jit`."""

    @functools.cache
    def jitted(params):
        return jax.jit(functools.partial(primitive.bind, **dict(params)))

    def run(*operands, **params):
        # Where jit is disabled, the primitive would be bound by itself, for ever.
        with jax.disable_jit(False):
            return jitted(tuple(params.items()))(*operands)

    return run


def jvp_of_moving(fun: Callable, primals: Sequence, tangents: Sequence) -> Any:
    """`jax.jvp` with tangents that may be symbolic zeros.

    It is traced for the operands that have a tangent only.

    >>> import jax, jax.numpy as jnp
    >>> from jax.interpreters import ad
    >>> from rnnjax import programs
    >>> still = ad.Zero(jax.typeof(2.0))
    >>> programs.jvp_of_moving(jnp.multiply, (3.0, 2.0), (1.0, still))
    (Array(6., dtype=float32, weak_type=True), Array(2., dtype=float32, weak_type=True))
    """
    moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def of_moving(*operands):
        every = list(primals)
        for i, operand in zip(moving, operands, strict=True):
            every[i] = operand
        return fun(*every)

    at, d = ([a[i] for i in moving] for a in (primals, tangents))
    return jax.jvp(of_moving, at, d)


def mapped_size(operands: Sequence[Any], dims: Sequence[int | None]) -> int:
    """The size of the axis that a batching rule maps."""
    return next(
        operand.shape[dim]
        for operand, dim in zip(operands, dims, strict=True)
        if dim is not None
    )


def bind_each(
    primitive: Primitive,
    operands: Sequence[Any],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[Any], list[int | None]]:
    """A batching rule: one call after the other, for each member of an ensemble."""
    mapped = {
        i: jnp.moveaxis(operand, dim, 0)
        for i, (operand, dim) in enumerate(zip(operands, dims, strict=True))
        if dim is not None
    }

    def one(members):
        every = [members.get(i, operand) for i, operand in enumerate(operands)]
        return primitive.bind(*every, **params)

    out = lax.map(one, mapped)
    return out, [0] * len(out)
