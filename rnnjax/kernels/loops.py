"""A loop over any step as a primitive.

A loop is `jax.lax.scan` in meaning, with a batch as an explicit first axis, into which
`jax.vmap` is folded: its step is a flat program of one example. Its operands are what
all examples share, what each row of the batch has at all times, the carry, and the
inputs ``(b, t, ...)``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.interpreters import batching, mlir
from jax.interpreters import partial_eval as pe

from rnnjax.kernels import flat
from rnnjax.programs import bind_each, mapped_size


class Loop(NamedTuple):
    """What a loop computes: its step, and which operands of it are which."""

    step: Any  # a flat jaxpr: (shared, rows, carry, x) -> (carry, y)
    shared: int
    rows: int
    carry: int
    length: int
    reverse: bool
    linear: tuple[bool, ...] = ()  # operands of a tangent loop that are tangents
    spent: tuple[bool, ...] = ()  # operands that nothing reads after the loop

    def parts(self, operands: Sequence[Any]) -> list[list[Any]]:
        """Operands or variables as ``[shared, rows, carry, xs]``."""
        ends = [self.shared, self.shared + self.rows]
        ends += [ends[1] + self.carry, len(operands)]
        return [list(operands[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class Prepared(NamedTuple):
    """A loop that is ready to be bound, and what its results are made of."""

    loop: Loop
    operands: list[Any]
    results: Callable[[Sequence[Any]], tuple[list[Any], list[Any]]]


def prepare(
    step: Callable[..., tuple[list[Any], list[Any]]],
    shared: Sequence[Any],
    rows: Sequence[Any],
    carry: Sequence[Any],
    xs: Sequence[Any],
    *,
    length: int,
    reverse: bool = False,
    inline_derivatives: bool = True,
    linear: Sequence[bool] | None = None,
    spent: Sequence[bool] = (),
    check: Callable[[Loop], Any] = lambda loop: None,
) -> Prepared:
    """Loop over ``step(shared, rows, carry, x) -> (carry, y)``, of one example.

    All are lists of arrays. What depends on the shared operands alone is computed once,
    and a result that is another one's double, or an input, is not computed at all.
    Inputs that are ``spent`` may be written over. ``check`` sees the loop before
    anything is computed for it, and may raise.
    """
    examples = [
        *map(jax.typeof, shared),
        *(_without(a, 1) for a in (*rows, *carry)),
        *(_without(a, 2) for a in xs),
    ]
    empty = Loop(None, len(shared), len(rows), len(carry), length, reverse)

    def of_list(*operands):
        after, y = step(*empty.parts(operands))
        return [*after, *y]

    jaxpr, consts = flat.trace(of_list, examples, inline_derivatives)
    shared = [*consts, *shared]
    jaxpr = flat.with_vectors(flat.without_transposes(jaxpr), len(shared))
    jaxpr = flat.without_doubles(jaxpr)
    before, inside = flat.hoist(jaxpr, len(shared))
    loop = empty._replace(shared=len(before.outvars))
    _, _, states, inputs = loop.parts(inside.invars)
    given = dict(zip(inputs, xs, strict=True))
    after, ys = inside.outvars[: loop.carry], inside.outvars[loop.carry :]
    own = list(dict.fromkeys(v for v in flat.variables(ys) if v not in given))
    inside = flat.cut(inside, inside.invars, [*after, *own])
    read = {v for eqn in inside.eqns for v in flat.variables(eqn.invars)}
    # The linear operands stay: a transpose has a cotangent for each.
    read |= {*flat.variables(inside.outvars), *states}
    marks = [*[False] * loop.shared, *(linear or [False] * len((*rows, *carry, *xs)))]
    kept = [v in read or one for v, one in zip(inside.invars, marks, strict=True)]
    if not carry and not any(kept[loop.shared :]):
        kept[loop.shared] = True  # it tells how large the batch is

    def chosen(every):
        return [a for a, one in zip(every, kept, strict=True) if one]

    loop = loop._replace(
        step=flat.cut(inside, chosen(inside.invars), inside.outvars),
        shared=sum(kept[: loop.shared]),
        rows=sum(kept[loop.shared : loop.shared + loop.rows]),
        linear=tuple(chosen(marks)) if linear is not None else (),
        spent=tuple(chosen([*[False] * (len(kept) - len(xs)), *spent]))
        if spent
        else (),
    )
    check(loop)
    fixed = flat.as_fun(before)(*shared)
    operands = chosen([*fixed, *rows, *carry, *xs])
    leading = operands[loop.shared].shape[0], length

    def results(out):
        made = given | dict(zip(own, out[loop.carry :], strict=True))

        def result(atom):
            if isinstance(atom, Literal):
                return jnp.broadcast_to(atom.val, (*leading, *jnp.shape(atom.val)))
            return made[atom]

        return list(out[: loop.carry]), [result(atom) for atom in ys]

    return Prepared(loop, operands, results)


def bound(*operands: Any, loop: Loop) -> list[Any]:
    """The results of a loop, by the primitive that it is."""
    return (tangent_p if loop.linear else loop_p).bind(*operands, loop=loop)


def bind(
    *args: Any, bound: Callable[..., Sequence[Any]] = bound, **kwargs: Any
) -> tuple[list[Any], list[Any]]:
    """The carry after the loop that `prepare` makes of the same arguments, and ys."""
    loop, operands, results = prepare(*args, **kwargs)
    return results(bound(*operands, loop=loop))


def _without(a: Any, axes: int) -> Any:
    return jax.ShapeDtypeStruct(a.shape[axes:], a.dtype)


def reference(*operands: Any, loop: Loop) -> list[Any]:
    """The loop as `jax.lax.scan`."""
    shared, rows, carry, xs = loop.parts(operands)
    axes = [None] * len(shared) + [0] * (len(operands) - len(shared))
    step = jax.vmap(flat.as_fun(loop.step), in_axes=axes)

    def body(carry, x):
        out = step(*shared, *rows, *carry, *x)
        return out[: loop.carry], out[loop.carry :]

    xs = [jnp.moveaxis(x, 1, 0) for x in xs]
    carry, ys = lax.scan(body, carry, xs, loop.length, reverse=loop.reverse)
    return [*carry, *(jnp.moveaxis(y, 0, 1) for y in ys)]


def shapes_like(first: Any, loop: Loop) -> list[Any]:
    """The abstract values of a loop's results, by that of an operand with rows."""
    after, ys = loop.step.outvars[: loop.carry], loop.step.outvars[loop.carry :]

    def like(v, *leading):
        shape = (*leading, *v.aval.shape)
        return first.update(shape=shape, dtype=v.aval.dtype, weak_type=False)

    batch = first.shape[0]
    return [like(v, batch) for v in after] + [like(v, batch, loop.length) for v in ys]


def _shapes(*operands: Any, loop: Loop) -> list[Any]:
    return shapes_like(operands[loop.shared], loop)


def make_primitive(name: str, shapes: Callable[..., list[Any]] = _shapes) -> Primitive:
    """A primitive of loops, that runs outside `jax.jit` too."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    # Not `rnnjax.programs.compiled`: it keeps a program for each of its params, and
    # every loop is another one.
    def run(*operands, **params):
        with jax.disable_jit(False):
            return jax.jit(functools.partial(primitive.bind, **params))(*operands)

    primitive.def_impl(run)
    primitive.def_abstract_eval(shapes)
    return primitive


loop_p = make_primitive("loop")
tangent_p = make_primitive("loop_tangent")


def without_unused(used: list[bool], *rest: Any) -> tuple[list[bool], Any]:
    """Outputs that nothing reads, such as values kept for derivatives, are not made."""
    eqn = rest[-1]  # newer JAX says between the two which inputs are live
    loop = eqn.params["loop"]
    if not any(used):
        return [False] * len(eqn.invars), None
    kept = [i < loop.carry or one for i, one in enumerate(used)]
    step = loop.step
    outvars = [v for v, one in zip(step.outvars, kept, strict=True) if one]
    loop = loop._replace(step=flat.cut(step, step.invars, outvars))
    outvars = [v for v, one in zip(eqn.outvars, kept, strict=True) if one]
    eqn = eqn.replace(params=eqn.params | {"loop": loop}, outvars=outvars)
    return [True] * len(eqn.invars), eqn


pe.dce_rules[loop_p] = without_unused
pe.dce_rules[tangent_p] = without_unused


def more_rows(a: Any, dim: int | None, size: int) -> Any:
    """The rows of all members along a mapped axis, or those there are as often."""
    if dim is None:
        a = jnp.broadcast_to(a, (size, *a.shape))
    else:
        a = jnp.moveaxis(a, dim, 0)
    return a.reshape(size * a.shape[1], *a.shape[2:])


def _fold(
    primitive: Primitive,
    operands: Sequence[Any],
    dims: Sequence[int | None],
    *,
    loop: Loop,
) -> tuple[list[Any], list[int | None]]:
    """Fold the mapped axis into the batch, or loop where weights are mapped."""
    size = mapped_size(operands, dims)
    mapped = [dim is not None for dim in dims[: loop.shared]]
    arrays = zip(operands, mapped, strict=False)
    if any(one and jnp.ndim(a) > 2 for a, one in arrays):
        return bind_each(primitive, operands, dims, loop=loop)

    # A vector that each member has for itself is one that each of its rows has.
    batch = next(
        o.shape[0] if dim is None else jnp.moveaxis(o, dim, 0).shape[1]
        for o, dim in zip(operands[loop.shared :], dims[loop.shared :], strict=True)
    )
    order = [i for i, one in enumerate(mapped) if not one]
    order += [i for i, one in enumerate(mapped) if one]
    order += range(loop.shared, len(operands))

    def placed(i):
        a, dim = operands[i], dims[i]
        if i >= loop.shared:
            return more_rows(a, dim, size)
        if not mapped[i]:
            return a
        a = jnp.moveaxis(a, dim, 0)
        return jnp.repeat(a, batch, axis=0)

    given = list(map(placed, order))
    step = loop.step
    count = sum(mapped)
    loop = loop._replace(
        step=step.replace(invars=[step.invars[i] for i in order]),
        shared=loop.shared - count,
        rows=loop.rows + count,
        linear=tuple(loop.linear[i] for i in order) if loop.linear else (),
        spent=tuple(loop.spent[i] for i in order) if loop.spent else (),
    )
    out = primitive.bind(*given, loop=loop)
    return [o.reshape(size, batch, *o.shape[1:]) for o in out], [0] * len(out)


for _primitive in (loop_p, tangent_p):
    batching.primitive_batchers[_primitive] = functools.partial(_fold, _primitive)
    mlir.register_lowering(_primitive, mlir.lower_fun(reference, multiple_results=True))
