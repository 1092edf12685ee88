"""Which program runs each primitive on each platform: a native kernel or the scan.

On a CPU the value and the cotangent primitive are calls of the native library, if it
can be had. Everything else is the reference, which multiplies the inputs inside the
loop on a CPU, where XLA fuses that with the gates, and in front of it elsewhere.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

from rnnjax.kernels import native, reference
from rnnjax.kernels.equations import Equations
from rnnjax.kernels.primitives import cotangent_p, tangent_p, value_p
from rnnjax.kernels.reference import name_operands


def _native_value(
    *operands: Array, cell: Equations, residuals: bool
) -> Sequence[Array]:
    bind = functools.partial(value_p.bind, cell=cell, residuals=residuals)
    at = name_operands(cell, operands)
    biases = [at.b_ih]
    if at.b_hh is not None:
        biases.append(at.b_hh[2 * at.w_hh.shape[0] :])  # the native GRU's b_hn
    return jax.ffi.ffi_call(
        f"rnnjax_{cell.target}_forward" + ("_residuals" if residuals else ""),
        jax.eval_shape(bind, *operands),
    )(
        *(at.xs, at.w_ih, at.w_hh, *biases, *at.carry),
        *(at.mask, at.reset, *at.reset_carry),
        **dict(cell.attributes),
    )


def _native_cotangent(*operands: Array, cell: Equations) -> Sequence[Array]:
    bind = functools.partial(cotangent_p.bind, cell=cell)
    parts, *rest = jax.eval_shape(bind, *operands)
    if cell.joined:
        shapes = [parts, *rest]
    else:
        # The native GRU packs what its two parts share: n, r and z, q.
        b, t, k = parts.shape
        shapes = [jax.ShapeDtypeStruct((b, t, k // 3 * 4), parts.dtype), *rest[1:]]
    out = jax.ffi.ffi_call(f"rnnjax_{cell.target}_backward", shapes)(
        *operands, **dict(cell.attributes)
    )
    if cell.joined:
        return out
    n, r, z, q = jnp.split(out[0], 4, axis=-1)
    by_input = jnp.concatenate([r, z, n], axis=-1)
    return [by_input, jnp.concatenate([r, z, q], axis=-1), *out[1:]]


def exporting(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether `jax.export` asks: its programs run where no library of ours is loaded.

    JAX says so to each lowering rule, so nothing has to be switched off around an
    export, other threads go on with their kernels, and no cached trace can be wrong.
    """
    return ctx.module_context.lowering_parameters.for_export


def _on_cpu(native_fun: Callable, reference_fun: Callable) -> mlir.LoweringRule:
    """The native function, or the reference where the native library is missing."""

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        found = not exporting(ctx) and native.available()
        if found:
            native.register()
        fun = native_fun if found else reference_fun
        return mlir.lower_fun(fun, multiple_results=True)(ctx, *operands, **params)

    return rule


def _everywhere(primitive: Primitive, fun: Callable) -> None:
    rule = mlir.lower_fun(fun, multiple_results=True)
    mlir.register_lowering(primitive, rule)


_everywhere(value_p, functools.partial(reference.value, hoist=True))
_everywhere(tangent_p, reference.tangent)
_everywhere(cotangent_p, reference.cotangent)
mlir.register_lowering(
    value_p,
    _on_cpu(_native_value, functools.partial(reference.value, hoist=False)),
    platform="cpu",
)
mlir.register_lowering(
    cotangent_p, _on_cpu(_native_cotangent, reference.cotangent), platform="cpu"
)


class Lowering(NamedTuple):
    """What a cell's kernel is compiled to here, and why."""

    name: str
    reason: str


class Status(NamedTuple):
    """The lowering of each cell on the default device; printed, a table."""

    platform: str
    lstm: Lowering
    gru: Lowering
    elman: Lowering

    def __str__(self) -> str:
        rows = zip(self._fields[1:], self[1:], strict=True)
        return "\n".join(
            [f"platform: {self.platform}"]
            + [f"{cell:6} {by.name:10} {by.reason}" for cell, by in rows]
        )


def status() -> Status:
    """Which program runs the kernel of each cell on the default device, and why.

    >>> import rnnjax
    >>> print(rnnjax.kernels.status())  # doctest: +SKIP
    platform: cpu
    lstm   native     avx512
    gru    native     avx512
    elman  native     avx512
    """
    platform = jax.default_backend()
    if platform != "cpu":
        found = Lowering("reference", f"there is no native kernel for {platform}")
    else:
        name = "native" if native.available() else "reference"
        found = Lowering(name, native.reason())
    return Status(platform, found, found, found)
