r"""The product with a weight matrix, whose transpose is a kernel.

Of a training step, the gradient of the weights, :math:`dW = \sum_t x_t^T dz_t` over
all steps of all examples, takes as long as walking through time does. Two primitives,
each of which is the other's transpose in its second operand, let the native library
have that product:

.. math:: y = x\,W, \qquad dW = x^T dz,

with ``x: (rows, inputs)``. They are bilinear, so these two are all that derivatives of
any order need. `jax.vmap` over ``x`` alone makes more rows; over weights, or over the
rows of a gradient, it is a batched product of JAX's own.

Of ``x`` only the rows count that are ``valid: (rows, 1)``, whatever the others hold:
padding may be no number. Where all are, ``valid`` has shape ``(0,)``. The kernel leaves
out rows in which ``dz`` is zero, as it is in padding, and so reads no padding either.
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

product_p = Primitive("weight_product")
gradient_p = Primitive("weight_gradient")

_EVERY = np.zeros(0, bool)


def weight_product(x: Array, w: Array, valid: Any = _EVERY) -> Array:
    """``x @ w``, in which rows of zeros stand for those that are not valid.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import products
    >>> products.weight_product(jnp.array([[2.0]]), jnp.array([[3.0]]))
    Array([[6.]], dtype=float32)
    """
    return product_p.bind(x, w, valid)


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


def _product(x: Array, w: Array, valid: Array) -> Array:
    return _counted(x, valid) @ w


def _gradient(x: Array, dz: Array, valid: Array) -> Array:
    x = _counted(x, valid)
    return jnp.matmul(x.T, dz, out_sharding=meshes.whole_like(x, 2))


def _gradient_shape(x: Any, dz: Any, valid: Any) -> Any:
    whole = NamedSharding(x.sharding.mesh, PartitionSpec(None, None))
    return x.update(shape=(x.shape[1], dz.shape[1]), sharding=whole)


product_p.def_impl(compiled(product_p))
gradient_p.def_impl(compiled(gradient_p))
product_p.def_abstract_eval(
    lambda x, w, valid: x.update(shape=(x.shape[0], w.shape[1]))
)
gradient_p.def_abstract_eval(_gradient_shape)


def _jvp(
    primitive: Primitive, primals: Sequence[Array], tangents: Sequence[Any]
) -> tuple[Array, Array]:
    (x, other, valid), (dx, d_other, _) = primals, tangents
    terms = [
        primitive.bind(*pair, valid)
        for pair in ((dx, other), (x, d_other))
        if not any(type(factor) is ad.Zero for factor in pair)
    ]
    return primitive.bind(*primals), functools.reduce(ad.add_tangents, terms)


def _transpose(
    transposed: Primitive, cotangent: Any, x: Any, other: Any, valid: Array
) -> list[Any]:
    """Of both: in its second operand each is the other's transpose."""
    if type(cotangent) is ad.Zero:
        return [None] * 3
    if not ad.is_undefined_primal(x):
        return [None, transposed.bind(x, cotangent, valid), None]
    # The factors of the product y = x W are dy and W; those of dW = x^T dz, dz and dW.
    dz, w = (cotangent, other) if transposed is gradient_p else (other, cotangent)
    return [_counted(dz @ w.T, valid), None, None]


for _primitive, _transposed in ((product_p, gradient_p), (gradient_p, product_p)):
    ad.primitive_jvps[_primitive] = functools.partial(_jvp, _primitive)
    ad.primitive_transposes[_primitive] = functools.partial(_transpose, _transposed)


def _batch_product(
    operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    (x, w, valid), (dim, dim_of_w, dim_of_valid) = operands, dims
    if dim is None or dim_of_w is not None:
        return _batch_apart(_product, operands, dims)
    x = jnp.moveaxis(x, dim, 0)
    size, rows, inputs = x.shape
    if dim_of_valid is not None:
        valid = jnp.moveaxis(valid, dim_of_valid, 0).reshape(size * rows, 1)
    elif valid.ndim == 2:
        valid = jnp.tile(valid, (size, 1))
    made = product_p.bind(x.reshape(size * rows, inputs), w, valid)
    return made.reshape(size, rows, w.shape[1]), 0


def _batch_apart(
    fun: Callable, operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    return jax.vmap(fun, in_axes=tuple(dims))(*operands), 0


batching.primitive_batchers[product_p] = _batch_product
batching.primitive_batchers[gradient_p] = functools.partial(_batch_apart, _gradient)


def _native_gradient(x: Array, dz: Array, valid: Array) -> Array:
    shape = jax.ShapeDtypeStruct((x.shape[1], dz.shape[1]), x.dtype)
    return jax.ffi.ffi_call(native.WEIGHT_GRADIENT, shape)(x, dz)


# Divided over devices, a gradient is the sum of what each of them has of the rows.


def _divided_gradient(ctx: mlir.LoweringRuleContext, *operands: Any) -> Sequence[Any]:
    count = partitioning.devices(ctx)

    def of_parts(x, dz, valid):
        rows, left = divmod(x.shape[0], count)
        if left:
            return _gradient(x, dz, valid)  # by XLA, which divides any rows
        parts = (a.reshape(count, rows, a.shape[1]) for a in (x, dz))
        return parts_p.bind(*parts).sum(axis=0)

    return mlir.lower_fun(of_parts, multiple_results=False)(ctx, *operands)


def _call_parts(ctx: Any, *operands: Any) -> Sequence[Any]:
    shapes = [ctx.avals_out[0].shape]
    return partitioning.call(native.WEIGHT_GRADIENT, ctx, operands, shapes, 1)


parts_p = Primitive("weight_gradient_parts")
parts_p.def_abstract_eval(
    lambda x, dz: x.update(shape=(x.shape[0], x.shape[2], dz.shape[2]))
)
mlir.register_lowering(parts_p, _call_parts, platform="cpu")

for _primitive, _fun in ((product_p, _product), (gradient_p, _gradient)):
    mlir.register_lowering(_primitive, mlir.lower_fun(_fun, multiple_results=False))
mlir.register_lowering(
    gradient_p,
    native.lowering(
        _native_gradient, _gradient, _divided_gradient, multiple_results=False
    ),
    platform="cpu",
)
