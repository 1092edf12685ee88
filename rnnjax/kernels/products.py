r"""The product with a weight matrix, whose transpose is a kernel.

Of a training step, the gradient of the weights, :math:`dW = \sum_t x_t^T dz_t` over
all steps of all examples, takes as long as walking through time does. Two primitives,
each of which is the other's transpose in its second operand, let the native library
have that product:

.. math:: y = x\,W, \qquad dW = x^T dz,

with ``x: (rows, inputs)``. They are bilinear, so these two are all that derivatives of
any order need. The kernel leaves out rows in which ``dz`` is zero, as it is in padding:
they count nothing, even beside an ``x`` that is not a number. `jax.vmap` over ``x``
alone makes more rows; over weights, or over the rows of a gradient, it is a batched
product of JAX's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from rnnjax import meshes
from rnnjax.kernels import native, partitioning
from rnnjax.programs import compiled

product_p = Primitive("weight_product")
gradient_p = Primitive("weight_gradient")


def _product(x: Array, w: Array) -> Array:
    return x @ w


def _gradient(x: Array, dz: Array) -> Array:
    return jnp.matmul(x.T, dz, out_sharding=meshes.whole_like(x, 2))


def _gradient_shape(x: Any, dz: Any) -> Any:
    whole = NamedSharding(x.sharding.mesh, PartitionSpec(None, None))
    return x.update(shape=(x.shape[1], dz.shape[1]), sharding=whole)


product_p.def_impl(compiled(product_p))
gradient_p.def_impl(compiled(gradient_p))
product_p.def_abstract_eval(lambda x, w: x.update(shape=(x.shape[0], w.shape[1])))
gradient_p.def_abstract_eval(_gradient_shape)

ad.defbilinear(
    product_p,
    lambda dz, x, w: dz @ w.T,
    lambda dz, x, w: gradient_p.bind(x, dz),
)
ad.defbilinear(
    gradient_p,
    lambda dw, x, dz: dz @ dw.T,
    lambda dw, x, dz: product_p.bind(x, dw),
)


def _batch_product(
    operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    (x, w), (dim, dim_of_w) = operands, dims
    if dim is None or dim_of_w is not None:
        return _batch_apart(_product, operands, dims)
    x = jnp.moveaxis(x, dim, 0)
    rows = product_p.bind(x.reshape(x.shape[0] * x.shape[1], x.shape[2]), w)
    return rows.reshape(*x.shape[:-1], w.shape[1]), 0


def _batch_apart(
    fun: Callable, operands: Sequence[Array], dims: Sequence[int | None]
) -> tuple[Array, int]:
    return jax.vmap(fun, in_axes=tuple(dims))(*operands), 0


batching.primitive_batchers[product_p] = _batch_product
batching.primitive_batchers[gradient_p] = lambda operands, dims: _batch_apart(
    _gradient, operands, dims
)


def _native_gradient(x: Array, dz: Array) -> Array:
    shape = jax.ShapeDtypeStruct((x.shape[1], dz.shape[1]), x.dtype)
    return jax.ffi.ffi_call(native.WEIGHT_GRADIENT, shape)(x, dz)


# Divided over devices, a gradient is the sum of what each of them has of the rows.


def _divided_gradient(ctx: mlir.LoweringRuleContext, *operands: Any) -> Sequence[Any]:
    count = partitioning.devices(ctx)

    def of_parts(x, dz):
        rows, left = divmod(x.shape[0], count)
        if left:
            return _gradient(x, dz)  # by XLA, which divides any rows
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
