"""Which program runs each primitive on each platform: a native kernel or the scan.

On a CPU the value and the cotangent primitive are calls of the native library, where
it is compiled. Everything else is the reference, which multiplies the inputs inside the
loop on a CPU, where XLA fuses that with the gates, and in front of it elsewhere. On a
TPU they are Pallas kernels as long as the weights fit into the chip's vector memory. A
cell with a program of its own runs that on the program's platform.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

from rnnjax.cell import Cell
from rnnjax.kernels import (
    cudnn,
    linear,
    native,
    native_loop,
    pallas_tpu,
    partitioning,
    reference,
    shared_memory,
)
from rnnjax.kernels.equations import (
    ELMAN_RELU,
    ELMAN_TANH,
    GRU,
    GRU_BEFORE,
    LSTM,
    Equations,
)
from rnnjax.kernels.primitives import (
    cotangent_p,
    linear_weights,
    tangent_p,
    value_p,
    value_weights,
)
from rnnjax.traversals.solver import solver_p


def _native_value(
    *operands: Array, cell: Equations, residuals: bool
) -> Sequence[Array]:
    bind = functools.partial(value_p.bind, cell=cell, residuals=residuals)
    call = jax.ffi.ffi_call(native.FORWARD, jax.eval_shape(bind, *operands))
    how = {"cell": cell.name, "reverse": cell.reverse}
    return call(*operands, residuals=residuals, **how)


def _native_cotangent(*operands: Array, cell: Equations) -> Sequence[Array]:
    shapes = jax.eval_shape(functools.partial(cotangent_p.bind, cell=cell), *operands)
    # What was saved is read for the last time, as a rule: its memory, the most of all
    # that a forward pass keeps, becomes the gradient's where that has its shape.
    shared = {0: 0} if shapes[0].shape == operands[0].shape else {}
    call = jax.ffi.ffi_call(native.BACKWARD, shapes, input_output_aliases=shared)
    return call(*operands, cell=cell.name, reverse=cell.reverse)


def _divided_value(
    ctx: mlir.LoweringRuleContext, *operands: Any, cell: Equations, residuals: bool
) -> Sequence[Any]:
    how = {"cell": cell.name, "reverse": cell.reverse, "residuals": residuals}
    whole = value_weights(cell)
    return partitioning.call_rows(native.FORWARD, ctx, operands, whole, **how)


def _divided_cotangent(
    ctx: mlir.LoweringRuleContext, *operands: Any, cell: Equations
) -> Sequence[Any]:
    how = {"cell": cell.name, "reverse": cell.reverse}
    whole = linear_weights(cell)
    return partitioning.call_rows(native.BACKWARD, ctx, operands, whole, **how)


def _register(primitive: Primitive, part: str, **rules: mlir.LoweringRule) -> None:
    """Each platform's default, in place of which a cell's own program may run."""
    for platform, default in rules.items():
        rule = functools.partial(_preferring_its_own, platform, part, default)
        mlir.register_lowering(primitive, rule, platform=platform)


def _preferring_its_own(
    platform: str,
    part: str,
    default: mlir.LoweringRule,
    ctx: mlir.LoweringRuleContext,
    *operands: Any,
    cell: Equations,
    **params: Any,
) -> Any:
    rule = default
    if cell.program is not None and cell.program.platform == platform:
        rule = _lowered(getattr(cell.program, part))
    return rule(ctx, *operands, cell=cell, **params)


def _lowered(fun: Callable) -> mlir.LoweringRule:
    return mlir.lower_fun(fun, multiple_results=True)


def _on_tpu(
    kernel: Callable[..., Sequence[Array]],
    otherwise: mlir.LoweringRule,
    weights: Callable[[Equations], range],
) -> mlir.LoweringRule:
    """The kernel, divided over several devices where that is possible.

    A program that `jax.export` makes gets the reference, as on a CPU: the chip that is
    to run it, and what it can hold, are unknown.
    """

    def rule(ctx, *operands, cell, **params):
        fun = functools.partial(kernel, cell=cell, **params)
        fun = _backwards(fun) if cell.reverse else fun
        if not partitioning.whole_call(ctx):
            fun = partitioning.divided(fun, ctx, weights(cell))
        if fun is None or ctx.module_context.lowering_parameters.for_export:
            return otherwise(ctx, *operands, cell=cell, **params)
        return _lowered(fun)(ctx, *operands)

    return rule


def _backwards(kernel: Callable[..., Sequence[Array]]) -> Callable:
    """A kernel that walks forwards only, between sequences that are turned round."""

    def turned(a):
        timed = a.ndim == 3 or (a.ndim == 2 and a.dtype == bool)
        return jnp.flip(a, 1) if timed else a

    def run(*operands):
        return [*map(turned, kernel(*map(turned, operands)))]

    return run


_VALUE = _lowered(functools.partial(reference.value, hoist=True))
_COTANGENT = _lowered(reference.cotangent)

mlir.register_lowering(value_p, _VALUE)
mlir.register_lowering(tangent_p, _lowered(reference.tangent))
mlir.register_lowering(cotangent_p, _COTANGENT)
_register(
    value_p,
    "value",
    cpu=native.lowering(
        _native_value,
        functools.partial(reference.value, hoist=False),
        _divided_value,
    ),
    cuda=_VALUE,
    tpu=_on_tpu(pallas_tpu.value, _VALUE, value_weights),
)
_register(
    cotangent_p,
    "cotangent",
    cpu=native.lowering(_native_cotangent, reference.cotangent, _divided_cotangent),
    cuda=_COTANGENT,
    tpu=_on_tpu(pallas_tpu.cotangent, _COTANGENT, linear_weights),
)
mlir.register_lowering(solver_p, linear.cpu, platform="cpu")
mlir.register_lowering(solver_p, linear.tpu, platform="tpu")


class Lowering(NamedTuple):
    """What a cell's kernel is compiled to here, and why."""

    name: str
    reason: str


class Status(NamedTuple):
    """The lowering of each cell on the default device; printed, a table.

    A cell has one row for all of its kernels: `gru` for both places of its reset, and
    `elman` for both of its activations.
    """

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


def running() -> Lowering:
    """What runs every kernel that has no program of its own, on the default device."""
    platform = jax.default_backend()
    if platform == "cpu":
        name = "native" if native.available() else "reference"
        return Lowering(name, native.reason())
    if platform == "tpu":
        return Lowering("pallas", "untimed")
    return Lowering("reference", f"there is no kernel for {platform}")


@overload
def status() -> Status: ...
@overload
def status(cell: Cell, x: Any) -> Lowering: ...
def status(cell: Cell | None = None, x: Any = None) -> Status | Lowering:
    """Which program runs the kernel of each cell on the default device, and why.

    Of a cell, and an input ``x`` of one example at one time, it is what
    `rnnjax.scan.default` makes of its step: ``native``, or ``scan`` and the first
    operation, forward or back, that the native loop does not know.

    >>> import jax.numpy as jnp, rnnjax
    >>> print(rnnjax.kernels.status())  # doctest: +SKIP
    platform: cpu
    lstm   native     avx512
    gru    native     avx512
    elman  native     avx512
    >>> cell = rnnjax.conv_lstm((4, 2), 2)
    >>> rnnjax.kernels.status(cell, jnp.ones((4, 2), jnp.float32)).name
    'scan'
    """
    if cell is not None:
        lacking = native_loop.unknown(cell, x)
        if lacking:
            return Lowering("scan", f"the native loop has no {lacking}")
        return Lowering("native", native.reason())
    platform, (name, reason) = jax.default_backend(), running()
    reasons = [reason] * 3
    if platform == "gpu":
        reasons = _gpu_options(reason)
    elif platform == "tpu":
        reasons = [_tpu_limits(*cells) for cells in _ROWS]
    return Status(platform, *(Lowering(name, reason) for reason in reasons))


_ROWS = (LSTM,), (GRU, GRU_BEFORE), (ELMAN_TANH, ELMAN_RELU)


def _tpu_limits(*cells: Equations) -> str:
    """Up to how many units the kernels of a row hold their weights on the chip."""
    vmem = pallas_tpu.capacity()
    wide, narrow = (
        min(pallas_tpu.most_units(cell, dtype, vmem) for cell in cells)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    return (
        f"untimed; with more than {wide:,} units ({narrow:,} in bfloat16) the weights "
        "do not fit into the chip's vector memory, and the scan walks"
    )


def _gpu_options(otherwise: str) -> list[str]:
    """For each cell the traversals that nobody has timed, and so are no default."""
    without = cudnn.reason()
    library = f"no lstm_cudnn, for {without}" if without else "or lstm_cudnn"
    return [
        f"untimed options: kernels.lstm_pallas up to {_units(LSTM)}, {library}",
        f"untimed option: kernels.gru_pallas up to {_units(GRU)}, if reset_after=True",
        otherwise,
    ]


def _units(cell: Equations) -> str:
    """Up to which size the kernels in Pallas run here."""
    most = (
        f"{shared_memory.most_units(cell, dtype)} in {jnp.dtype(dtype).name}"
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    return f"{' and '.join(most)} units"
