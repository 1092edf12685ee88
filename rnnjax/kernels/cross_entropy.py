r"""The cross-entropy of a softmax, whose gradient is a kernel.

For logits :math:`z` and the number :math:`k` of the right one,

.. math::
    L = n - z_k, \qquad n = \log \textstyle\sum_j e^{z_j}, \qquad
    \frac{\partial L}{\partial z_j} = e^{z_j - n} - [j = k].

The logits of a vocabulary are the largest arrays of a training step. From :math:`n` the
gradient is one pass over them, and on a CPU it is written where they were. The tangent
:math:`\sum_j (\partial L / \partial z_j)\, dz_j` is a primitive that is linear in
:math:`dz`, and the gradient is its transpose.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnjax.kernels import native
from rnnjax.programs import compiled, mapped_size


def cross_entropy(logits: Array, targets: Array) -> Array:
    """One loss for each row: ``logits: (..., v)`` and integers ``targets: (...)``.

    A target below zero counts from the end; one that is no column gives NaN.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels.cross_entropy import cross_entropy
    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
    Array([1.3862944], dtype=float32)
    """
    if not jax.sharding.get_abstract_mesh().empty:
        return _value(logits, targets)[0]
    rows = logits.reshape(-1, logits.shape[-1])
    losses, _ = value_p.bind(rows, targets.reshape(-1).astype(jnp.int32))
    return losses.reshape(targets.shape)


# What each primitive means.


def _wide(a: Array) -> Array:
    return a.astype(_wide_dtype(a.dtype))


def _wide_dtype(dtype: Any) -> Any:
    return dtype if dtype.itemsize > 4 else jnp.dtype(jnp.float32)


def _normalizers(logits: Array) -> Array:
    """``(..., 2)``: the largest logit, and with it subtracted the ``n`` above.

    Large logits would leave few digits to their sum.
    """
    wide = _wide(logits)
    shift = jax.lax.stop_gradient(wide.max(axis=-1, initial=-jnp.inf))
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    rest = jnp.log(jnp.exp(wide - shift[..., None]).sum(axis=-1))
    return jnp.stack([shift, rest], axis=-1)


def _value(logits: Array, targets: Array) -> list[Array]:
    """The losses and the normalizers."""
    normalizers = _normalizers(logits)
    right = jnp.take_along_axis(_wide(logits), targets[..., None], axis=-1)
    losses = normalizers[..., 1] - (right[..., 0] - normalizers[..., 0])
    return [losses.astype(logits.dtype), normalizers]


def _differences(logits: Array, targets: Array, normalizers: Array) -> Array:
    """The softmax, less one at the targets."""
    columns = logits.shape[-1]
    targets = jnp.where(targets < 0, targets + columns, targets)
    softmax = jnp.exp(_wide(logits) - normalizers[:, :1] - normalizers[:, 1:])
    return softmax - jax.nn.one_hot(targets, columns, dtype=softmax.dtype)


def _tangent(logits: Array, targets: Array, normalizers: Array, d: Array) -> Array:
    differences = _differences(logits, targets, normalizers)
    return (differences * _wide(d)).sum(axis=-1).astype(d.dtype)


def _cotangent(logits: Array, targets: Array, normalizers: Array, d: Array) -> Array:
    differences = _differences(logits, targets, normalizers)
    return (differences * _wide(d)[:, None]).astype(d.dtype)


# The primitives. Normalizers are no function of the logits to JAX: what reads them says
# itself how it depends on the logits.

value_p = Primitive("cross_entropy")
value_p.multiple_results = True
tangent_p = Primitive("cross_entropy_tangent")
cotangent_p = Primitive("cross_entropy_cotangent")

_MEANINGS = {value_p: _value, tangent_p: _tangent, cotangent_p: _cotangent}


def _value_shapes(logits: Any, targets: Any) -> list[Any]:
    rows = logits.update(shape=logits.shape[:1])
    wide = _wide_dtype(logits.dtype)
    return [rows, logits.update(shape=(*rows.shape, 2), dtype=wide)]


value_p.def_abstract_eval(_value_shapes)
tangent_p.def_abstract_eval(lambda logits, *_: logits.update(shape=logits.shape[:1]))
cotangent_p.def_abstract_eval(lambda logits, *_: logits.update())


def _value_jvp(primals: Sequence, tangents: Sequence) -> tuple[list, list]:
    losses, normalizers = value_p.bind(*primals)
    d = tangents[0]
    if type(d) is not ad.Zero:
        d = tangent_p.bind(*primals, normalizers, d)
    else:
        d = ad.Zero(jax.typeof(losses).to_tangent_aval())
    nothing = ad.Zero(jax.typeof(normalizers).to_tangent_aval())
    return [losses, normalizers], [d, nothing]


def _linear_jvp(
    primitive: Primitive, primals: Sequence, tangents: Sequence
) -> tuple[Array, Any]:
    out = primitive.bind(*primals)
    (d_logits, *_, d), (*known, _) = tangents, primals
    terms = []
    if type(d) is not ad.Zero:
        terms.append(primitive.bind(*known, d))
    if type(d_logits) is not ad.Zero:

        def of_logits(logits):
            _, targets, _, d = primals
            return _MEANINGS[primitive](logits, targets, _normalizers(logits), d)

        terms.append(jax.jvp(of_logits, primals[:1], (d_logits,))[1])
    return out, functools.reduce(ad.add_tangents, terms)


def _transpose(transposed: Primitive, ct: Any, *operands: Any) -> list[Any]:
    if type(ct) is ad.Zero:
        return [None] * 4
    return [None, None, None, transposed.bind(*operands[:3], ct)]


def _batch(
    primitive: Primitive, operands: Sequence[Any], dims: Sequence[int | None]
) -> tuple[Any, Any]:
    """More rows."""
    size = mapped_size(operands, dims)
    spread = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(operands, dims, strict=True)
    ]
    out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in spread))

    def apart(a):
        return a.reshape(size, a.shape[0] // size if size else 0, *a.shape[1:])

    return jax.tree.map(apart, out), jax.tree.map(lambda _: 0, out)


# On a CPU.


def _native(target: str, meaning: Callable, *operands: Any) -> Any:
    logits, *_ = operands
    shapes = jax.eval_shape(meaning, *operands)
    if logits.dtype not in (jnp.float32, jnp.bfloat16) or 0 in logits.shape:
        return meaning(*operands)
    # Logits are read for the last time, as a rule.
    shared = {0: 0} if target == native.CROSS_ENTROPY_GRADIENT else {}
    return jax.ffi.ffi_call(target, shapes, input_output_aliases=shared)(*operands)


for _primitive, _target in (
    (value_p, native.CROSS_ENTROPY),
    (tangent_p, None),
    (cotangent_p, native.CROSS_ENTROPY_GRADIENT),
):
    _meaning, _several = _MEANINGS[_primitive], _primitive.multiple_results
    _plain = mlir.lower_fun(_meaning, multiple_results=_several)
    _primitive.def_impl(compiled(_primitive))
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    mlir.register_lowering(_primitive, _plain)
    if _target is not None:
        _kernel = functools.partial(_native, _target, _meaning)
        mlir.register_lowering(
            _primitive,
            native.lowering(_kernel, _meaning, _plain, multiple_results=_several),
            platform="cpu",
        )
ad.primitive_jvps[value_p] = _value_jvp
for _linear, _transposed in ((tangent_p, cotangent_p), (cotangent_p, tangent_p)):
    ad.primitive_jvps[_linear] = functools.partial(_linear_jvp, _linear)
    ad.primitive_transposes[_linear] = functools.partial(_transpose, _transposed)
