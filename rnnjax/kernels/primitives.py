r"""A recurrence as three JAX primitives, and the rules by which JAX transforms them.

Let :math:`p_t` be the pre-activations of step :math:`t`, which are bilinear in the
weights and in :math:`(x_t, h_{t-1})`. The *value* primitive walks through time; its
tangent is

.. math:: dp_t = dx_t W_{ih} + x_t\,dW_{ih} + db + h_{t-1}\,dW_{hh},

one product over all steps and examples at once, followed by the *tangent* primitive,
which walks through time with the weights held fixed and is linear in :math:`dp`. Its
transpose is the *cotangent* primitive. So the gradient of shared weights is one product
over time and batch, in which the batch never appears as an axis of the result.

The batch is an explicit axis, and `jax.vmap` is folded into it. Lowerings are chosen by
JAX for the platform that the program is compiled for, see `rnnjax.kernels.lowerings`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jax.interpreters import partial_eval as pe
from jax.sharding import NamedSharding

from rnnjax import meshes
from rnnjax.kernels import reference, steps
from rnnjax.kernels.equations import Equations
from rnnjax.kernels.products import weight_product
from rnnjax.kernels.reference import name_operands, name_tangents, split_residuals
from rnnjax.programs import bind_each, compiled, jvp_of_moving, mapped_size


def make_primitive(name: str) -> Primitive:
    """A primitive of many results that runs outside `jax.jit` too."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(compiled(primitive))
    return primitive


value_p = make_primitive("recurrence")
tangent_p = make_primitive("recurrence_tangent")
cotangent_p = make_primitive("recurrence_cotangent")


# Shapes.


def _value_shapes(*operands: Any, cell: Equations, residuals: bool) -> list[Any]:
    xs, _, w_hh, _, _, carry, *_ = name_operands(cell, operands)
    (b, t, _), h = xs.shape, w_hh.shape[0]
    state = xs.update(shape=(b, t, h))
    if not residuals:
        return [state, *carry]
    saved = xs.update(shape=(b, t, cell.saved * h))
    return [state, *carry, saved, *[state] * cell.carries]


def _tangent_shapes(*operands: Any, cell: Equations) -> list[Any]:
    known, linear = split_residuals(cell, operands)
    b, t, _ = known.saved.shape
    _, carry, _ = name_tangents(cell, linear)
    return [known.saved.update(shape=(b, t, known.w_hh.shape[0])), *carry]


def _cotangent_shapes(*operands: Any, cell: Equations) -> list[Any]:
    known, (_, *carry) = split_residuals(cell, operands)
    b, t, _ = known.saved.shape
    part = known.saved.update(shape=(b, t, known.w_hh.shape[1]))
    none = known.reset.update(dtype=part.dtype)
    reset_carry = [none if none.ndim == 1 else c for c in carry]
    return [*[part] * (1 if cell.joined else 2), *carry, *reset_carry]


value_p.def_abstract_eval(_value_shapes)
tangent_p.def_abstract_eval(_tangent_shapes)
cotangent_p.def_abstract_eval(_cotangent_shapes)


def _without_residuals(used: list[bool], *rest: Any) -> tuple[list[bool], Any]:
    """Residuals that nothing reads, as in a rematerialized forward, are not made."""
    eqn = rest[-1]  # newer JAX says between the two which inputs are live
    n = 1 + eqn.params["cell"].carries
    if eqn.params["residuals"] and not any(used[n:]):
        params = eqn.params | {"residuals": False}
        eqn = eqn.replace(params=params, outvars=eqn.outvars[:n])
    return [any(used)] * len(eqn.invars), eqn if any(used) else None


pe.dce_rules[value_p] = _without_residuals


# Derivatives.


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _value_jvp(
    primals: Sequence, tangents: Sequence, *, cell: Equations, residuals: bool
) -> tuple[list, list]:
    out = value_p.bind(*primals, cell=cell, residuals=True)
    if residuals:
        fun = functools.partial(reference.value, cell=cell, residuals=True)
        return out, jvp_of_moving(fun, primals, tangents)[1]
    n = 1 + cell.carries
    out, saved, previous = out[:n], out[n], out[n + 1 :]
    at, d = name_operands(cell, primals), name_operands(cell, tangents)
    valid = at.mask if at.mask.ndim == 1 else at.mask[..., None].reshape(-1, 1)
    multiply = functools.partial(weight_product, valid=valid)
    by_input = [(d.xs, at.w_ih, multiply), (at.xs, d.w_ih, multiply)]
    by_hidden = [(previous[-1], d.w_hh, _hidden_product(cell, saved, multiply))]
    columns = at.w_hh.shape[1]
    if cell.joined:
        parts = [_affine(saved, columns, by_input + by_hidden, d.b)]
    else:
        parts = [
            _affine(saved, columns, by_input, d.b),
            _affine(saved, columns, by_hidden, d.b_hn),
        ]
    known = (saved, *previous[: cell.reads], at.w_hh, at.mask, at.reset)
    carries = map(ad.instantiate_zeros, (*d.carry, *d.reset_carry))
    return out, tangent_p.bind(*known, *parts, *carries, cell=cell)


def _hidden_product(
    cell: Equations, saved: Array, multiply: Callable[[Array, Array], Array]
) -> Callable[[Array, Array], Array]:
    """``(h, w_hh) -> u`` for the rows of all steps, as they were."""

    def both(h, w_hh):
        plain, gated = steps.cut(cell, w_hh)
        r = saved.reshape(len(h), saved.shape[-1])[:, : h.shape[1]]
        return jnp.concatenate([multiply(h, plain), multiply(r * h, gated)], axis=1)

    return both if cell.gated else multiply


def _affine(like: Array, columns: int, products: Sequence, b: Any) -> Any:
    """The sum of the products and the bias that are no symbolic zeros.

    Batch and time are one axis of the products. With two, XLA transposes what the
    weights' gradient is made of, arrays with all steps, before it multiplies them. A
    bias of fewer columns is that of the last ones.
    """
    batch, time, _ = like.shape
    rows, sharding = batch * time, meshes.rows_like(like, 2)
    terms = [
        multiply(x.reshape(rows, x.shape[-1]), w)
        for x, w, multiply in products
        if not (_is_zero(x) or _is_zero(w))
    ]
    if not _is_zero(b):
        b = jnp.pad(b, (columns - b.shape[0], 0))
        terms.append(_spread(b, (rows, columns), sharding))
    zeros = jnp.zeros((rows, columns), like.dtype, out_sharding=sharding)
    return sum(terms, start=zeros).reshape(batch, time, columns)


def _spread(
    a: Array, shape: tuple[int, ...], sharding: NamedSharding | None = None
) -> Array:
    """A broadcast whose transpose, a sum over all it was spread to, is in float32.

    In bfloat16 a long sum stops to grow: what is added is less than its last bit.
    """
    wide = a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a
    return jnp.broadcast_to(wide, shape, out_sharding=sharding).astype(a.dtype)


def _linear_jvp(
    primitive: Primitive,
    fun: Any,
    primals: Sequence,
    tangents: Sequence,
    *,
    cell: Equations,
) -> tuple[list, list]:
    """The tangent of the tangent and the cotangent primitive."""
    out = primitive.bind(*primals, cell=cell)
    _, linear = split_residuals(cell, tuple(tangents))
    n = len(tangents) - len(linear)
    if all(map(_is_zero, tangents[:n])):
        moved = map(ad.instantiate_zeros, linear)
        return out, primitive.bind(*primals[:n], *moved, cell=cell)
    fun = functools.partial(fun, cell=cell)
    return out, jvp_of_moving(fun, primals, tangents)[1]


def _transpose(
    transposed: Primitive, cotangents: Sequence, *operands: Any, cell: Equations
) -> list:
    """Tangent and cotangent are each other's transpose."""
    _, linear = split_residuals(cell, operands)
    n = len(operands) - len(linear)
    reached = map(ad.instantiate_zeros, cotangents)
    out = transposed.bind(*operands[:n], *reached, cell=cell)
    return [None] * n + [
        ct if ad.is_undefined_primal(operand) else None
        for operand, ct in zip(linear, out, strict=True)
    ]


ad.primitive_jvps[value_p] = _value_jvp
for _linear, _fun, _transposed in (
    (tangent_p, reference.tangent, cotangent_p),
    (cotangent_p, reference.cotangent, tangent_p),
):
    ad.primitive_jvps[_linear] = functools.partial(_linear_jvp, _linear, _fun)
    ad.primitive_transposes[_linear] = functools.partial(_transpose, _transposed)


# Batching.


def fold(
    primitive: Primitive,
    weights: Any,
    operands: Sequence[Array],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[Array], list[int | None]]:
    """Fold the mapped axis into the batch, or loop where the weights are mapped."""
    size = mapped_size(operands, dims)
    batch = operands[0].shape[int(dims[0] == 0)]
    shared = weights(params["cell"])
    if any(dims[i] is not None for i in shared):
        own = params["cell"].program is not None or primitive not in _REFERENCES
        # On a CPU a kernel for each is faster than one scan for all: 1.2 to 2 times, in
        # the gradients of 4 to 64 members with 8 to 128 units.
        apart = own or jax.default_backend() == "cpu"
        return (bind_each if apart else _together)(primitive, operands, dims, **params)

    def folded(i, operand, dim):
        if i in shared:
            return operand
        if dim is None:
            if operand.ndim == 1:
                return operand  # an absent mask or reset
            operand = _spread(operand, (size, *operand.shape))
        elif operand.ndim == 2:
            return jnp.zeros((0,), operand.dtype)
        else:
            operand = jnp.moveaxis(operand, dim, 0)
        return operand.reshape(size * batch, *operand.shape[2:])

    every = enumerate(zip(operands, dims, strict=True))
    rows = meshes.rows_alike([folded(i, *pair) for i, pair in every], shared)
    out = primitive.bind(*rows, **params)
    present = [o.ndim > 1 for o in out]
    return [
        o.reshape(size, batch, *o.shape[1:]) if here else o
        for o, here in zip(out, present, strict=True)
    ], [0 if here else None for here in present]


_REFERENCES = {
    value_p: functools.partial(reference.value, hoist=True),
    tangent_p: reference.tangent,
    cotangent_p: reference.cotangent,
}


def _together(
    primitive: Primitive,
    operands: Sequence[Array],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[Array], list[int | None]]:
    """One scan for all members, whose steps cost a launch each and not their work."""
    run = functools.partial(_REFERENCES[primitive], **params)
    out = jax.vmap(run, dims)(*operands)
    return out, [0] * len(out)


def value_weights(cell: Equations) -> range:
    """The operands of the value that are shared by all examples."""
    return range(1, 4 if cell.joined else 5)


def linear_weights(cell: Equations) -> range:
    """The same of the tangent and of the cotangent."""
    return range(1 + cell.reads, 2 + cell.reads)


for _mapped, _weights in (
    (value_p, value_weights),
    (tangent_p, linear_weights),
    (cotangent_p, linear_weights),
):
    batching.primitive_batchers[_mapped] = functools.partial(fold, _mapped, _weights)
