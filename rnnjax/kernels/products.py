r"""The product with a weight matrix, whose transposes are kernels.

Of a training step, the gradient of the weights, :math:`dW = \sum_t x_t^T dz_t` over
all steps of all examples, takes as long as walking through time does. Two primitives
let the native library have that product and those beside it,

.. math:: y = x\,W, \qquad dx = dy\,W^T, \qquad dW = x^T dy,

with ``x: (rows, inputs)``, the first two as one, in which the weights may be turned.
They are bilinear, and each other's transposes, so these are all that derivatives of any
order need. A third is the first with a bias, :math:`x\,W + b`, which then is no pass
of its own. `jax.vmap` over ``x`` alone makes more rows; over weights, or over the rows
of a gradient, it is a batched product of JAX's own.

Of ``x`` only the rows count that are ``valid: (rows, 1)``, whatever the others hold:
padding may be no number. Where all are, ``valid`` has shape ``(0,)``. The kernel of the
gradient leaves out rows in which ``dz`` is zero, as it is in padding, and so reads no
padding either.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax import meshes
from rnnjax.kernels import native, partitioning
from rnnjax.programs import compiled
from rnnjax.traversals import sums

product_p = Primitive("weight_product")
affine_p = Primitive("affine_product")
gradient_p = Primitive("weight_gradient")

_EVERY = np.zeros(0, bool)


def weight_product(
    x: Array, w: Array, valid: Any = _EVERY, *, turned: bool = False
) -> Array:
    """``x @ w``, or ``x @ w.T``; rows of zeros stand for those that are not valid.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import products
    >>> products.weight_product(jnp.array([[2.0]]), jnp.array([[3.0]]))
    Array([[6.]], dtype=float32)
    """
    return product_p.bind(x, w, valid, turned=turned)


def affine(x: Array, w: Array, b: Array) -> Array:
    """``x @ w + b``.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import products
    >>> products.affine(jnp.array([[2.0]]), jnp.array([[3.0]]), jnp.array([1.0]))
    Array([[7.]], dtype=float32)
    """
    return affine_p.bind(x, w, b)


def weight_gradient(x: Array, dz: Array, valid: Any = _EVERY) -> Array:
    """``x.T @ dz`` over the valid rows: the gradient of a `weight_product`'s weights.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import products
    >>> products.weight_gradient(jnp.array([[2.0], [1.0]]), jnp.ones((2, 1)))
    Array([[3.]], dtype=float32)
    """
    return gradient_p.bind(x, dz, valid)


def _counted(x: Array, valid: Array) -> Array:
    """``x`` with zeros for the rows that are not valid."""
    return x if valid.ndim == 1 else jnp.where(valid, x, 0)


def _product(x: Array, w: Array, valid: Array, *, turned: bool) -> Array:
    return _counted(x, valid) @ (w.T if turned else w)


def _affine(x: Array, w: Array, b: Array) -> Array:
    return sums.add_bias(x @ w, b)


def _gradient(x: Array, dz: Array, valid: Array) -> Array:
    x = _counted(x, valid)
    return jnp.matmul(x.T, dz, out_sharding=meshes.whole_like(x, 2))


def _product_shape(x: Any, w: Any, valid: Any, *, turned: bool) -> Any:
    return x.update(shape=(x.shape[0], w.shape[0 if turned else 1]))


def _gradient_shape(x: Any, dz: Any, valid: Any) -> Any:
    whole = NamedSharding(x.sharding.mesh, PartitionSpec(None, None))
    return x.update(shape=(x.shape[1], dz.shape[1]), sharding=whole)


product_p.def_impl(compiled(product_p))
affine_p.def_impl(compiled(affine_p))
gradient_p.def_impl(compiled(gradient_p))
product_p.def_abstract_eval(_product_shape)
affine_p.def_abstract_eval(lambda x, w, _: _product_shape(x, w, _EVERY, turned=False))
gradient_p.def_abstract_eval(_gradient_shape)


def _tangents(product: Callable, factors: Sequence, tangents: Sequence) -> list[Array]:
    """The terms of the product rule that are there."""
    (x, other), (dx, d_other) = factors, tangents
    return [
        product(*pair)
        for pair in ((dx, other), (x, d_other))
        if not any(type(factor) is ad.Zero for factor in pair)
    ]


def _jvp(
    primitive: Primitive, primals: Sequence, tangents: Sequence, **turned: bool
) -> tuple[Array, Array]:
    def product(x, other):
        return primitive.bind(x, other, primals[2], **turned)

    terms = _tangents(product, primals[:2], tangents[:2])
    return product(*primals[:2]), functools.reduce(ad.add_tangents, terms)


def _affine_jvp(primals: Sequence, tangents: Sequence) -> tuple[Array, Array]:
    out, db = affine_p.bind(*primals), tangents[2]
    terms = _tangents(weight_product, primals[:2], tangents[:2])
    if type(db) is not ad.Zero:
        terms.append(sums.add_bias(jnp.zeros_like(out), db))
    return out, functools.reduce(ad.add_tangents, terms)


def _transpose_product(
    dy: Any, x: Any, w: Any, valid: Array, *, turned: bool
) -> list[Any]:
    if type(dy) is ad.Zero:
        return [None] * 3
    if ad.is_undefined_primal(x):
        return [product_p.bind(dy, w, valid, turned=not turned), None, None]
    factors = (dy, _counted(x, valid)) if turned else (x, dy)
    return [None, gradient_p.bind(*factors, valid), None]


def _transpose_gradient(dw: Any, x: Any, dz: Any, valid: Array) -> list[Any]:
    if type(dw) is ad.Zero:
        return [None] * 3
    turned = ad.is_undefined_primal(x)
    made = product_p.bind(dz if turned else x, dw, valid, turned=turned)
    return [made, None, None] if turned else [None, made, None]


for _primitive, _transpose in (
    (product_p, _transpose_product),
    (gradient_p, _transpose_gradient),
):
    ad.primitive_jvps[_primitive] = functools.partial(_jvp, _primitive)
    ad.primitive_transposes[_primitive] = _transpose
ad.primitive_jvps[affine_p] = _affine_jvp


def _more_rows(product: Callable, x: Array, dim: int) -> tuple[Array, int]:
    x = jnp.moveaxis(x, dim, 0)
    size, rows, inputs = x.shape
    made = product(x.reshape(size * rows, inputs))
    return made.reshape(size, rows, made.shape[1]), 0


def _batch_product(
    operands: Sequence[Array], dims: Sequence[int | None], *, turned: bool
) -> tuple[Array, int]:
    (x, w, valid), (dim, dim_of_w, dim_of_valid) = operands, dims
    if dim is None or dim_of_w is not None:
        fun = functools.partial(_product, turned=turned)
        return _batch_apart(fun, operands, dims)
    if dim_of_valid is not None:
        valid = jnp.moveaxis(valid, dim_of_valid, 0).reshape(-1, 1)
    elif valid.ndim == 2:
        valid = jnp.tile(valid, (x.shape[dim], 1))
    return _more_rows(lambda x: weight_product(x, w, valid, turned=turned), x, dim)


def _batch_affine(
    operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    (x, w, b), (dim, *of_weights) = operands, dims
    if dim is None or any(d is not None for d in of_weights):
        return _batch_apart(_affine, operands, dims)
    return _more_rows(lambda x: affine(x, w, b), x, dim)


def _batch_apart(
    fun: Callable, operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    return jax.vmap(fun, in_axes=tuple(dims))(*operands), 0


batching.primitive_batchers[product_p] = _batch_product
batching.primitive_batchers[affine_p] = _batch_affine
batching.primitive_batchers[gradient_p] = functools.partial(_batch_apart, _gradient)


# With fewer rows than that, packing the weights takes longer than it saves, and with
# fewer columns a register block is not full: there XLA is faster in float32.
_FEWEST = 32


def _has_kernel(x: Array, *others: Array) -> bool:
    dtypes = {a.dtype for a in (x, *others)}
    return len(dtypes) == 1 and x.dtype in (jnp.float32, jnp.bfloat16) and x.size > 0


def _is_worth_a_kernel(x: Array, w: Array, *b: Array) -> bool:
    narrow = x.dtype == jnp.float32 and min(w.shape) < _FEWEST
    return len(x) >= _FEWEST and not narrow and _has_kernel(x, w, *b)


def _native_product(x: Array, w: Array, valid: Array, *, turned: bool) -> Array:
    if not _is_worth_a_kernel(x, w):
        return _product(x, w, valid, turned=turned)
    return _call_product(x, w, jnp.zeros(0, x.dtype), valid, turned)


def _native_affine(x: Array, w: Array, b: Array) -> Array:
    if not _is_worth_a_kernel(x, w, b):
        return _affine(x, w, b)
    return _call_product(x, w, b, _EVERY, False)


def _call_product(x: Any, w: Any, b: Any, valid: Any, turned: bool) -> Array:
    shape = jax.ShapeDtypeStruct((len(x), w.shape[0 if turned else 1]), x.dtype)
    call = jax.ffi.ffi_call(native.WEIGHT_PRODUCT, shape)
    return call(x, w, b, valid, turned=turned)


def _native_gradient(x: Array, dz: Array, valid: Array) -> Array:
    if not _has_kernel(x, dz):
        return _gradient(x, dz, valid)
    shape = jax.ShapeDtypeStruct((x.shape[1], dz.shape[1]), x.dtype)
    return jax.ffi.ffi_call(native.WEIGHT_GRADIENT, shape)(x, dz, valid)


# Divided over devices, a gradient is the sum of what each of them has of the rows.


def _divided_gradient(ctx: mlir.LoweringRuleContext, *operands: Any) -> Sequence[Any]:
    count = partitioning.devices(ctx)

    def of_parts(x, dz, valid):
        rows, left = divmod(x.shape[0], count)
        if left or not _has_kernel(x, dz):
            return _gradient(x, dz, valid)  # by XLA, which divides any rows
        counted = _counted(x, valid), dz
        parts = (a.reshape(count, rows, a.shape[1]) for a in counted)
        return parts_p.bind(*parts, _EVERY).sum(axis=0)

    return mlir.lower_fun(of_parts, multiple_results=False)(ctx, *operands)


def _call_parts(ctx: Any, *operands: Any) -> Sequence[Any]:
    shapes = [ctx.avals_out[0].shape]
    return partitioning.call(native.WEIGHT_GRADIENT, ctx, operands, shapes, 1)


parts_p = Primitive("weight_gradient_parts")
parts_p.def_abstract_eval(
    lambda x, dz, _: x.update(shape=(x.shape[0], x.shape[2], dz.shape[2]))
)
mlir.register_lowering(parts_p, _call_parts, platform="cpu")


def _plain(fun: Callable) -> mlir.LoweringRule:
    return mlir.lower_fun(fun, multiple_results=False)


for _primitive, _native, _fun, _divided in (
    # Divided over devices, XLA multiplies each one's rows where they are.
    (product_p, _native_product, _product, _plain(_product)),
    (affine_p, _native_affine, _affine, _plain(_affine)),
    (gradient_p, _native_gradient, _gradient, _divided_gradient),
):
    _rule = native.lowering(_native, _fun, _divided, multiple_results=False)
    mlir.register_lowering(_primitive, _plain(_fun))
    mlir.register_lowering(_primitive, _rule, platform="cpu")
