r"""Convolutions that are products of patches on a CPU.

XLA convolves on a CPU at a fraction of the rate of its products, and the gradient of a
kernel inside a loop slower still. There the patches :math:`P(x)`, the inputs that each
output reads, become the rows of a matrix:

.. math:: y = P(x)\,W, \qquad dW = P(x)^T dy, \qquad dx = P^T(dy\,W^T).

Each is a primitive, bilinear and the transpose of the others, so no derivative keeps
the patches: they are made again, and are a few times larger than ``x``. Elsewhere all
three are convolutions of XLA. Arrays are ``x: (n, *space, i)``, ``w: (*kernel, i, o)``
and ``y: (n, *space, o)``.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnjax.kernels.products import weight_gradient, weight_product
from rnnjax.programs import compiled


class Window(NamedTuple):
    """What decides which inputs an output reads, for each spatial dimension."""

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def convolve(
    x: Array, w: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> Array:
    """One example ``(*space, i)`` with a kernel ``(*kernel, i, o)``.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import convolutions
    >>> sums = jnp.ones((3, 1, 1))
    >>> convolutions.convolve(jnp.arange(4.0)[:, None], sums, (1,), "SAME").ravel()
    Array([1., 3., 6., 5.], dtype=float32)
    """
    space, kernel = x.shape[:-1], w.shape[:-2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(space, kernel, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Window(space, kernel, tuple(strides), pads)
    if not jax.sharding.get_abstract_mesh().empty:
        return _by_xla(x[None], w, window=window)[0]
    return convolution_p.bind(x[None], w, window=window)[0]


# What each primitive means, and what it is on a CPU.


def _by_xla(x: Array, w: Array, *, window: Window) -> Array:
    space = "DHW"[-len(window.space) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        x, w, window.strides, window.padding, dimension_numbers=layout
    )


def _kernel_by_xla(x: Array, dy: Array, *, window: Window) -> Array:
    w = jax.ShapeDtypeStruct((*window.kernel, x.shape[-1], dy.shape[-1]), x.dtype)
    convolved = functools.partial(_by_xla, x, window=window)
    return jax.linear_transpose(convolved, w)(dy)[0]


def _input_by_xla(dy: Array, w: Array, *, window: Window) -> Array:
    x = jax.ShapeDtypeStruct((dy.shape[0], *window.space, w.shape[-2]), dy.dtype)
    return jax.linear_transpose(lambda x: _by_xla(x, w, window=window), x)(dy)[0]


def _patches(x: Array, window: Window) -> Array:
    """``(n, *space of the outputs, inputs that each reads)``."""
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    sizes = zip(x.shape[1:-1], window.kernel, window.strides, strict=True)
    spans = [(n - k) // stride * stride + 1 for n, k, stride in sizes]
    strides = (1, *window.strides, 1)

    def at(place):
        limits = [start + span for start, span in zip(place, spans, strict=True)]
        ends = (x.shape[0], *limits, x.shape[-1])
        return lax.slice(x, (0, *place, 0), ends, strides)

    places = itertools.product(*map(range, window.kernel))
    return jnp.concatenate([at(place) for place in places], axis=-1)


def _rows(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])


def _by_products(x: Array, w: Array, *, window: Window) -> Array:
    patches = _patches(x, window)
    y = weight_product(_rows(patches), _rows(w))
    return y.reshape(*patches.shape[:-1], w.shape[-1])


def _kernel_by_products(x: Array, dy: Array, *, window: Window) -> Array:
    w = weight_gradient(_rows(_patches(x, window)), _rows(dy))
    return w.reshape(*window.kernel, x.shape[-1], dy.shape[-1])


def _input_by_products(dy: Array, w: Array, *, window: Window) -> Array:
    x = jax.ShapeDtypeStruct((dy.shape[0], *window.space, w.shape[-2]), dy.dtype)
    back = jax.linear_transpose(lambda x: _patches(x, window), x)
    patches = weight_product(_rows(dy), _rows(w), turned=True)
    return back(patches.reshape(*dy.shape[:-1], -1))[0]


# The primitives.

convolution_p = Primitive("convolution")
kernel_p = Primitive("convolution_kernel_gradient")
input_p = Primitive("convolution_input_gradient")

_MEANINGS = {
    convolution_p: (_by_xla, _by_products),
    kernel_p: (_kernel_by_xla, _kernel_by_products),
    input_p: (_input_by_xla, _input_by_products),
}


def _shape(meaning: Callable, a: Any, b: Any, *, window: Window) -> Any:
    arrays = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (a, b))
    out = jax.eval_shape(functools.partial(meaning, window=window), *arrays)
    return a.update(shape=out.shape, dtype=out.dtype)


def _batch(
    primitive: Primitive,
    operands: Sequence[Array],
    dims: Sequence[int | None],
    *,
    window: Window,
) -> tuple[Array, int]:
    """More examples for the same kernel; with kernels of their own, by XLA."""
    (a, b), (dim, dim_of_w) = operands, dims
    if primitive is kernel_p or dim is None or dim_of_w is not None:
        meaning = functools.partial(_MEANINGS[primitive][0], window=window)
        return jax.vmap(meaning, in_axes=tuple(dims))(*operands), 0
    a = jnp.moveaxis(a, dim, 0)
    folded = a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
    out = primitive.bind(folded, b, window=window)
    return out.reshape(*a.shape[:2], *out.shape[1:]), 0


# With respect to each operand, what its cotangent is made of.
_TRANSPOSES = {
    convolution_p: (
        lambda dy, x, w, **how: input_p.bind(dy, w, **how),
        lambda dy, x, w, **how: kernel_p.bind(x, dy, **how),
    ),
    kernel_p: (
        lambda dw, x, dy, **how: input_p.bind(dy, dw, **how),
        lambda dw, x, dy, **how: convolution_p.bind(x, dw, **how),
    ),
    input_p: (
        lambda dx, dy, w, **how: convolution_p.bind(dx, w, **how),
        lambda dx, dy, w, **how: kernel_p.bind(dx, dy, **how),
    ),
}

for _primitive, (_meaning, _on_cpu) in _MEANINGS.items():
    _primitive.def_impl(compiled(_primitive))
    _primitive.def_abstract_eval(functools.partial(_shape, _meaning))
    ad.defbilinear(_primitive, *_TRANSPOSES[_primitive])
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    for _platform, _rule in ((None, _meaning), ("cpu", _on_cpu)):
        mlir.register_lowering(
            _primitive, mlir.lower_fun(_rule, multiple_results=False), _platform
        )
