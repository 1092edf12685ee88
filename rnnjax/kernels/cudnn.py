r"""The LSTM through cuDNN, by `jax.experimental.rnn`: an option, and untimed.

cuDNN keeps what its backward pass needs in a form and a size of its own, and gives the
gradients of inputs and weights at once, so it does not fit between the primitives of
`rnnjax.kernels.primitives`. The three here have the same operands, and the tangent and
cotangent are those of the value as a whole:

.. math:: y = f(p), \qquad dy = J_f(p)\,dp, \qquad \bar p = J_f(p)^T\,\bar y.

What each of them *means* is the traversal `rnnjax.kernels.lstm`, which is also what
runs, differentiates and is batched wherever cuDNN does not do it. The forward pass
stands in the program twice, for the value and for the cotangent, as equal calls on
equal operands, which XLA makes one of, unless a checkpoint keeps them apart.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import rnn
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnjax import programs
from rnnjax.kernels import primitives
from rnnjax.kernels.cudnn_layout import flatten_weights
from rnnjax.kernels.equations import Equations
from rnnjax.kernels.reference import name_operands, without_padding

_COUNT = 10  # operands of the value
_FLAGS = (6, 7)  # those that are the mask and the reset


@functools.cache
def reason() -> str:
    """Why cuDNN cannot be called here; empty if it can.

    >>> import jax
    >>> from rnnjax.kernels import cudnn
    >>> cudnn.reason() != "" or jax.default_backend() == "gpu"
    True
    """
    if jax.default_backend() != "gpu":
        return f"there is no GPU: JAX's platform is {jax.default_backend()}"
    sizes = [(1, 1, 1), (1, 1, 1), (1, 1, 1), (16,)]
    operands = [jax.ShapeDtypeStruct(s, jnp.float32) for s in sizes]
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    try:
        # JAX asks the library for the size of its buffers at this point.
        jax.eval_shape(lambda *a: rnn.lstm(*a, 1, 1, 1, 0.0, False), *operands, lengths)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f"JAX's GPU plugin has no cuDNN: {error}"
    return ""


def library_value(*operands: Array, cell: Equations) -> Sequence[Array]:
    """The value by cuDNN, for any mask and no reset."""
    at = without_padding(name_operands(cell, operands))
    (batch, time, inputs), hidden = at.xs.shape, at.w_hh.shape[0]
    (c, h), xs, mask = at.carry, at.xs, at.mask
    if mask.ndim == 1:
        lengths = jnp.full((batch,), time, jnp.int32)
    else:
        # A masked step does nothing, so it may as well come after all that count.
        lengths = mask.sum(axis=1, dtype=jnp.int32)
        order = jnp.argsort(~mask, axis=1, stable=True)
        xs = jnp.take_along_axis(xs, order[..., None], axis=1)
    ys, h_last, c_last = rnn.lstm(  # pyright: ignore[reportGeneralTypeIssues]
        *(xs, h[None], c[None], flatten_weights(at.w_ih, at.w_hh, at.b)),
        # cuDNN's versions differ in whether a sequence may be empty.
        jnp.maximum(lengths, 1),
        *(inputs, hidden, 1, 0.0, False),
        precision=precision(),
    )
    h_last, c_last = h_last[0], c_last[0]
    if mask.ndim > 1:
        place = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        ys = jnp.take_along_axis(ys, place[..., None], axis=1)
        ys = jnp.where(mask[..., None], ys, 0.0)
        some = lengths[:, None] > 0
        h_last, c_last = jnp.where(some, h_last, h), jnp.where(some, c_last, c)
    return [ys, c_last, h_last]


def precision() -> jax.lax.Precision:
    """Whether float32 products may round their factors, as JAX's setting says."""
    setting = jax.config.jax_default_matmul_precision  # pyright: ignore
    exact = setting in ("highest", "float32")
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH


# The primitives. Every operand but the two flags has a tangent, in the same order.


def _value(*operands: Array, cell: Equations) -> Sequence[Array]:
    return primitives.value_p.bind(*operands, cell=cell, residuals=False)


def _floats(operands: Sequence) -> list:
    return [operand for i, operand in enumerate(operands) if i not in _FLAGS]


def _of_floats(value: Callable, operands: Sequence[Array], cell: Equations) -> Callable:
    def fun(*floats):
        rest = iter(floats)
        return value(
            *(o if i in _FLAGS else next(rest) for i, o in enumerate(operands)),
            cell=cell,
        )

    return fun


def _tangent(*operands: Array, cell: Equations) -> Sequence[Array]:
    at, tangents = operands[:_COUNT], operands[_COUNT:]
    return jax.jvp(_of_floats(_value, at, cell), _floats(at), list(tangents))[1]


def _cotangent(
    *operands: Array, cell: Equations, value: Callable = _value
) -> Sequence[Array]:
    at, cotangents = operands[:_COUNT], operands[_COUNT:]
    pull = jax.vjp(_of_floats(value, at, cell), *_floats(at))[1]
    return pull(list(cotangents))


value_p = primitives.make_primitive("cudnn_lstm")
tangent_p = primitives.make_primitive("cudnn_lstm_tangent")
cotangent_p = primitives.make_primitive("cudnn_lstm_cotangent")


def _value_shapes(*operands: Any, cell: Equations) -> list[Any]:
    at = name_operands(cell, operands[:_COUNT])
    (batch, time, _), hidden = at.xs.shape, at.w_hh.shape[0]
    return [at.xs.update(shape=(batch, time, hidden)), *at.carry]


def _cotangent_shapes(*operands: Any, cell: Equations) -> list[Any]:
    return _floats(operands[:_COUNT])


def _jvp(primals: Sequence, tangents: Sequence, *, cell: Equations) -> tuple[Any, Any]:
    moved = map(ad.instantiate_zeros, _floats(tangents))
    out = value_p.bind(*primals, cell=cell)
    return out, tangent_p.bind(*primals, *moved, cell=cell)


def _linear_jvp(
    primitive: Primitive,
    fun: Callable,
    primals: Sequence,
    tangents: Sequence,
    *,
    cell: Equations,
) -> tuple[Any, Any]:
    fun = functools.partial(fun, cell=cell)
    moved = programs.jvp_of_moving(fun, primals, tangents)[1]
    return primitive.bind(*primals, cell=cell), moved


def _transpose(
    transposed: Primitive, cotangents: Sequence, *operands: Any, cell: Equations
) -> list:
    at, linear = operands[:_COUNT], operands[_COUNT:]
    reached = map(ad.instantiate_zeros, cotangents)
    out = transposed.bind(*at, *reached, cell=cell)
    return [None] * _COUNT + [
        ct if ad.is_undefined_primal(operand) else None
        for operand, ct in zip(linear, out, strict=True)
    ]


def _batch(
    fun: Callable, operands: Sequence[Array], dims: Sequence, *, cell: Equations
) -> tuple[Sequence[Array], list[int]]:
    """Derivatives for each example, for which one call of cuDNN gives the sum."""
    out = jax.vmap(functools.partial(fun, cell=cell), dims)(*operands)
    return out, [0] * len(out)


value_p.def_abstract_eval(_value_shapes)
tangent_p.def_abstract_eval(_value_shapes)
cotangent_p.def_abstract_eval(_cotangent_shapes)

ad.primitive_jvps[value_p] = _jvp
batching.primitive_batchers[value_p] = functools.partial(
    primitives.fold, value_p, primitives.value_weights
)
for _linear, _fun, _transposed in (
    (tangent_p, _tangent, cotangent_p),
    (cotangent_p, _cotangent, tangent_p),
):
    ad.primitive_jvps[_linear] = functools.partial(_linear_jvp, _linear, _fun)
    ad.primitive_transposes[_linear] = functools.partial(_transpose, _transposed)
    batching.primitive_batchers[_linear] = functools.partial(_batch, _fun)

for _primitive, _default, _library in (
    (value_p, _value, library_value),
    (tangent_p, _tangent, _tangent),
    (cotangent_p, _cotangent, functools.partial(_cotangent, value=library_value)),
):
    for _platform, _meaning in ((None, _default), ("cuda", _library)):
        mlir.register_lowering(
            _primitive, mlir.lower_fun(_meaning, multiple_results=True), _platform
        )
