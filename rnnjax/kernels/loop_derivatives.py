r"""The derivatives of loops, forward and back.

The tangent of a product with shared weights, :math:`u_t = v_t W`, is

.. math:: du_t = dv_t W + v_t\,dW,

of which the second part is one product for all steps and examples, computed before the
*tangent loop* and fed into it. That loop holds the weights fixed. Its transpose is a
loop again, over JAX's own transpose of the step, backwards; so the gradient of shared
weights is one product over time and batch.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from rnnjax.kernels import flat, loops, remade
from rnnjax.kernels.loops import Loop, bind, loop_p, tangent_p
from rnnjax.kernels.nodes import LANES
from rnnjax.kernels.products import weight_product


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def _products(step: Any, weights: set[Any], shared: set[Any]) -> dict[Any, bool]:
    """Products of a vector with moving weights: the result, and if they are turned."""
    found = {}
    for eqn in step.eqns:
        if eqn.primitive.name != "dot_general":
            continue
        (contracted, batched) = eqn.params["dimension_numbers"]
        v, w = eqn.invars
        if (
            batched == ((), ())
            and w in weights
            and v not in shared
            and (v.aval.ndim, w.aval.ndim) == (1, 2)
        ):
            found[eqn.outvars[0]] = contracted[1] == (1,)
    return found


class _Shift(NamedTuple):
    """A value of a step that moves with the weights of products.

    It is a run of elements of the sum of their results: where a sum is cut into parts,
    such as gates, each has a tangent for itself, and a cotangent that is as wide as the
    values it is made from.
    """

    products: list[Any]
    parts: tuple[int, ...]  # the widths that the sum is cut into
    part: int

    def tangent(self, product: Callable[[Any, tuple[int, ...]], list[Any]]) -> Any:
        """The tangent, of what ``product`` makes for all parts of each product."""
        made = [product(u, self.parts)[self.part] for u in self.products]
        return functools.reduce(jnp.add, made)


# Parts that are less wide are not worth products of their own.
_WIDE = 64


def _shifts(step: Any, products: Iterable[Any]) -> dict[Any, _Shift]:
    """The variables that are to move with weights, in the order of their equations."""
    readers = collections.defaultdict(list)
    for eqn in step.eqns:
        for v in flat.variables(eqn.invars):
            readers[v].append(eqn)
    out = set(flat.variables(step.outvars))
    sums = {u: [u] for u in products}
    for eqn in step.eqns:
        if eqn.primitive.name not in ("add", "add_any"):
            continue
        read = dict.fromkeys(flat.variables(eqn.invars))
        parts = [v for v in read if _once(v, sums, readers, out)]
        if parts:
            sums[eqn.outvars[0]] = [u for v in parts for u in sums.pop(v)]
    found = {}
    for eqn in step.eqns:
        for v in eqn.outvars:
            if v not in sums:
                continue
            pieces = [v]
            if _once(v, sums, readers, out) and readers[v][0].primitive.name == "split":
                pieces = readers[v][0].outvars
            widths = tuple(piece.aval.size for piece in pieces)
            if any(width % LANES or width < _WIDE for width in widths):
                pieces, widths = [v], (v.aval.size,)
            for i, piece in enumerate(pieces):
                found[piece] = _Shift(sums[v], widths, i)
    return found


def _once(v: Any, sums: Any, readers: Any, out: Any) -> bool:
    """Whether a sum of products is read by one equation alone."""
    return v in sums and v not in out and len(readers[v]) == 1


@jax.custom_jvp
def _shifted(u: Any, shift: Any) -> Any:
    """``u``, whose tangent is that of ``u + shift``."""
    return u


@_shifted.defjvp
def _shifted_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, loop: Loop) -> Any:
    step = loop.step
    moves = [not _is_zero(t) for t in tangents]
    shared, rows, carry, xs = loop.parts(step.invars)
    moving = {v for v, one in zip(step.invars, moves, strict=True) if one}
    products = _products(step, moving & set(shared), set(shared))
    uses = [
        atom
        for eqn in step.eqns
        for atom in eqn.invars
        if eqn.outvars[0] not in products or atom is not eqn.invars[1]
    ]
    used = {*flat.variables(uses), *flat.variables(step.outvars)}
    direct = [v for v in shared if v in moving and v in used]
    of_rows = [v for v in rows if v in moving]
    of_carry = [v for v in carry if _is_float(v.aval)]
    of_xs = [v for v in xs if v in moving]
    around = [*direct, *of_rows, *of_carry, *of_xs]

    # The step with what moves with weights shifted, and what it multiplies with them.
    points = _shifts(step, products)

    def shifted(operands, changed, shifts):
        factors, shift = [], dict(zip(points, shifts, strict=True))

        def seen(eqn, given, results):
            if eqn.outvars[0] in products:
                factors.append(given[0])
            return [
                _shifted(result, shift[v]) if v in shift else result
                for v, result in zip(eqn.outvars, results, strict=True)
            ]

        env = dict(zip(step.invars, operands, strict=True))
        env |= dict(zip(around, changed, strict=True))
        out = flat.run(step, [env[v] for v in step.invars], seen=seen)
        floating = [o for o in out if _is_float(o)]
        return floating, (out, factors)

    def both(*operands):
        n, m = len(step.invars), len(around)
        operands, d_around, d_shifts = (
            operands[:n],
            operands[n : n + m],
            operands[n + m :],
        )
        env = dict(zip(step.invars, operands, strict=True))
        at = [env[v] for v in around]
        zeros = [jnp.zeros_like(d) for d in d_shifts]
        _, d_out, (out, factors) = jax.jvp(
            functools.partial(shifted, operands),
            (at, zeros),
            (list(d_around), list(d_shifts)),
            has_aux=True,
        )
        return [*out, *factors, *d_out]

    avals = [v.aval for v in (*step.invars, *around, *points)]
    jaxpr, consts = flat.trace(both, avals)
    invars = jaxpr.invars[len(consts) :]
    n, m = len(step.invars), len(step.outvars)
    fixed = [*jaxpr.invars[: len(consts)], *invars[: loop.shared + loop.rows]]
    new_xs = invars[loop.shared + loop.rows + loop.carry : n]
    free = [*fixed, *new_xs]
    factors = jaxpr.outvars[m : m + len(products)]
    d_outvars = jaxpr.outvars[m + len(products) :]
    linear, kept = flat.linear_part(jaxpr, invars[n:], d_outvars, free, factors)
    there = {*new_xs, *factors, *jaxpr.outvars[:m]}
    carry = invars[loop.shared + loop.rows : n - len(new_xs)]
    making = remade.making(
        jaxpr,
        [v for v in kept if v not in there],
        fixed,
        dict(zip(carry, jaxpr.outvars, strict=False)),
        dict.fromkeys((*new_xs, *kept, *factors)),
    )
    saved = dict.fromkeys((*kept, *factors, *making.known))
    saved = [v for v in saved if v not in {*new_xs, *making.values}]
    forward = flat.as_fun(
        flat.cut(
            jaxpr,
            [*jaxpr.invars[: len(consts)], *invars[:n]],
            [*jaxpr.outvars[:m], *saved],
        )
    )

    def with_saved(shared, rows, carry, xs):
        out = forward(*shared, *rows, *carry, *xs)
        return out[: loop.carry], out[loop.carry :]

    p_shared, p_rows, p_carry, p_xs = loop.parts(primals)
    p_shared = [*consts, *p_shared]
    times = {"length": loop.length, "reverse": loop.reverse}
    after, ys = bind(with_saved, p_shared, p_rows, p_carry, p_xs, **times)
    n_ys = m - loop.carry
    ys, stored = ys[:n_ys], dict(zip(saved, ys[n_ys:], strict=True))
    stored |= dict(zip(new_xs, p_xs, strict=True))
    batch = primals[loop.shared].shape[0]
    bound, residuals = loops.bound, stored
    if making.values:
        start = dict(zip(carry, p_carry, strict=True))
        given = making, p_shared, p_rows, start, stored
        maker, values = remade.promised(*given, **times)
        bound = maker.bound
        residuals = stored | dict(zip(making.values, values, strict=True))

    # The tangents that go along with the loop.
    d = dict(zip(step.invars, tangents, strict=True))
    d_rows = [_spread(d[v], batch) for v in direct] + [d[v] for v in of_rows]
    d_carry = [ad.instantiate_zeros(d[v]) for v in of_carry]
    makers = {eqn.outvars[0]: eqn for eqn in step.eqns}
    factor_of = dict(zip(products, factors, strict=True))

    @functools.cache
    def product(u, widths):
        """What the tangent of its weights makes of a product, in parts."""
        d_w, v = d[makers[u].invars[1]], stored[factor_of[u]]
        v = v.reshape(batch * loop.length, v.shape[2])
        made = lax.split(d_w.T if products[u] else d_w, widths, axis=1)
        made = [weight_product(v, part) for part in made]
        return [a.reshape(batch, loop.length, -1) for a in made]

    d_shifts = [shift.tangent(product) for shift in points.values()]
    d_xs = [d[v] for v in of_xs]

    n_rows, n_kept = len(d_rows), len(kept)
    linear_fun = flat.as_fun(linear)
    n_after = len(of_carry)

    def tangent_step(shared, rows, carry, xs):
        rows, d_rows = rows[: loop.rows], rows[loop.rows :]
        k = len(p_xs)
        xs, kept, d_xs = xs[:k], xs[k : k + n_kept], xs[k + n_kept :]
        out = linear_fun(*shared, *rows, *xs, *kept, *d_rows, *carry, *d_xs)
        return out[:n_after], out[n_after:]

    marks = [False] * loop.rows + [True] * (n_rows + n_after)
    marks += [False] * (len(p_xs) + n_kept) + [True] * (len(d_xs) + len(d_shifts))
    others = {*factors, *jaxpr.outvars[:m], *making.values, *making.known}
    spent = [False] * len(p_xs) + [v not in others for v in kept]
    d_after, d_ys = bind(
        tangent_step,
        p_shared,
        [*p_rows, *d_rows],
        d_carry,
        [*p_xs, *(residuals[v] for v in kept), *d_xs, *d_shifts],
        **times,
        bound=bound,
        linear=marks,
        spent=[*spent, *[False] * (len(d_xs) + len(d_shifts))],
    )
    moved = iter([*d_after, *d_ys])
    outs = [*after, *ys]
    return outs, [
        next(moved) if _is_float(o) else ad.Zero(jax.typeof(o).to_tangent_aval())
        for o in outs
    ]


def _spread(a: Any, batch: int) -> Any:
    return jnp.broadcast_to(a, (batch, *a.shape))


def _tangent_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, loop: Loop) -> Any:
    fixed = [t for t, one in zip(tangents, loop.linear, strict=True) if not one]
    if not all(map(_is_zero, fixed)):
        return _jvp(primals, tangents, loop=loop._replace(linear=(), spent=()))
    loop = loop._replace(spent=())  # both read what is kept
    moved = [
        ad.instantiate_zeros(t) if one else p
        for p, t, one in zip(primals, tangents, loop.linear, strict=True)
    ]
    out = tangent_p.bind(*primals, loop=loop)
    return out, tangent_p.bind(*moved, loop=loop)


def _transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    loop: Loop,
    bound: Callable[..., Sequence[Any]] = loops.bound,
) -> list[Any]:
    step = loop.step
    shared, rows, carry, xs = loop.parts(
        list(zip(step.invars, operands, loop.linear, strict=True))
    )
    fixed_rows = [(v, o) for v, o, linear in rows if not linear]
    fixed_xs = [(v, o) for v, o, linear in xs if not linear]
    marks = dict(zip(step.invars, loop.spent, strict=True)) if loop.spent else {}
    moving = {"rows": rows, "carry": carry, "xs": xs}
    moving = {k: [v for v, _, linear in part if linear] for k, part in moving.items()}
    linear = [v for part in moving.values() for v in part]
    first = next(
        o for _, o, one in (*rows, *carry, *xs) if not ad.is_undefined_primal(o)
    )
    batch = first.shape[0] if hasattr(first, "shape") else first.aval.shape[0]
    ct_after = [ad.instantiate_zeros(ct) for ct in cotangents[: loop.carry]]
    ct_ys = cotangents[loop.carry :]
    live = [not _is_zero(ct) for ct in ct_ys]
    run = flat.as_fun(step)

    def back(shared_now, rows_now, carry_now, xs_now):
        ct_carry, sums = carry_now[: loop.carry], carry_now[loop.carry :]
        n = len(fixed_xs)
        x_now, ct_y = xs_now[:n], iter(xs_now[n:])
        env = dict(zip((v for v, _, _ in shared), shared_now, strict=True))
        env |= dict(zip((v for v, _ in fixed_rows), rows_now, strict=True))
        env |= dict(zip((v for v, _ in fixed_xs), x_now, strict=True))

        def of_linear(*given):
            now = env | dict(zip(linear, given, strict=True))
            return run(*(now[v] for v in step.invars))

        cts = [
            *ct_carry,
            *(
                next(ct_y) if one else jnp.zeros(v.aval.shape, v.aval.dtype)
                for v, one in zip(step.outvars[loop.carry :], live, strict=True)
            ),
        ]
        out = jax.linear_transpose(of_linear, *(v.aval for v in linear))(cts)
        n, m = len(moving["rows"]), len(moving["carry"])
        sums = [a + b for a, b in zip(sums, out[:n], strict=True)]
        return [*out[n : n + m], *sums], list(out[n + m :])

    sums = [jnp.zeros((batch, *v.aval.shape), v.aval.dtype) for v in moving["rows"]]
    after, ys = bind(
        back,
        [o for _, o, _ in shared],
        [o for _, o in fixed_rows],
        [*ct_after, *sums],
        [
            *(o for _, o in fixed_xs),
            *(ct for ct, one in zip(ct_ys, live, strict=True) if one),
        ],
        length=loop.length,
        reverse=not loop.reverse,
        spent=[*(marks.get(v, False) for v, _ in fixed_xs), *[False] * sum(live)],
        bound=bound,
    )
    n = len(moving["carry"])
    found = dict(zip(moving["carry"], after[:n], strict=True))
    found |= dict(zip(moving["rows"], after[n:], strict=True))
    found |= dict(zip(moving["xs"], ys, strict=True))
    return [
        found.get(v) if ad.is_undefined_primal(o) else None
        for v, o in zip(step.invars, operands, strict=True)
    ]


ad.primitive_jvps[loop_p] = _jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _transpose


def _transpose_remade(
    cotangents: Sequence[Any],
    *operands: Any,
    loop: Loop,
    maker: Loop,
    places: Sequence[int],
) -> list[Any]:
    given, own = remade.parted(operands, loop, maker, places)
    bound = remade.Maker(maker, given).bound
    found = _transpose(cotangents, *own, loop=loop, bound=bound)
    own_found = [ct for i, ct in enumerate(found) if i not in places]
    return [*[None] * len(given), *own_found]


ad.primitive_transposes[remade.remade_p] = _transpose_remade
