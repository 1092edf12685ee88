"""How XLA divides calls of the native library over the devices of a mesh.

To XLA's partitioner such a call is opaque: of a sharded batch it would gather all rows
on every device. JAX has the same need for its own calls of LAPACK, and meets it by
targets that are *batch partitionable*, of which XLA divides the leading axes over
devices. A call says how many axes these are; a sharding rule tells the same to Shardy,
which places arrays before XLA divides them.

XLA divides the leading axes of all operands that have so many. Rows therefore get two
more axes of one element, ``(b, 1, 1, ...)``, and weights, of two axes, stay whole.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import jax
from jax import Array
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

_BATCH_AXES = 3  # more than weights have


def devices(ctx: mlir.LoweringRuleContext) -> int:
    """Over how many devices XLA may divide what is lowered here.

    Of a program inside `jax.shard_map` these are the ones that the map leaves to XLA.

    >>> from rnnjax.kernels import partitioning
    >>> def rule(ctx, x):  # for jax.interpreters.mlir.register_lowering
    ...     return divided(ctx, x) if partitioning.devices(ctx) > 1 else plain(ctx, x)
    """
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices
    sizes = context.mesh.shape.items()
    return math.prod(n for name, n in sizes if name not in context.manual_axes)


def whole_call(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether a call that XLA cannot divide may stand in what is lowered here.

    It may on one device, which inside `jax.shard_map` is one that the map leaves
    nothing to divide for.

    >>> from rnnjax.kernels import partitioning
    >>> def rule(ctx, x):  # for jax.interpreters.mlir.register_lowering
    ...     return call(ctx, x) if partitioning.whole_call(ctx) else plain(ctx, x)
    """
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices == 1
    return set(context.manual_axes) == set(context.mesh.axis_names)


def divided(
    fun: Callable[..., Sequence[Array]],
    ctx: mlir.LoweringRuleContext,
    whole: Collection[int],
) -> Callable[..., Sequence[Array]] | None:
    """A function of arrays that each device runs for its rows; None if it cannot.

    That a target is batch partitionable can be said of a library's own calls alone, and
    the compiler for TPUs asks no `jax.experimental.custom_partitioning`. So this says
    where the rows are to be. Types with explicit axes say it. Otherwise it is over all
    devices, in the order that the program has them.

    Args:
      fun: of the operands.
      ctx: of the lowering rule that calls this.
      whole: the places of operands that have no batch.

    >>> from jax.interpreters import mlir
    >>> from rnnjax.kernels import partitioning
    >>> def rule(ctx, *operands):  # for jax.interpreters.mlir.register_lowering
    ...     run = partitioning.divided(lambda x, w: [x @ w], ctx, [1])
    ...     return mlir.lower_fun(run, multiple_results=True)(ctx, *operands)
    """
    if not isinstance(ctx.module_context.axis_context, mlir.ShardingContext):
        return None  # in a `jax.shard_map` that is manual over a part of the mesh
    count, first = devices(ctx), cast("Any", ctx.avals_in[0])
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = AbstractMesh((count,), ("rows",), axis_types=(AxisType.Auto,))
    typed = AxisType.Explicit in mesh.axis_types
    rows = first.sharding.spec[0] if typed else mesh.axis_names
    if mesh.size != count or (not typed and first.shape[0] % count):
        return None

    def spec(i: int, a: Any) -> P:
        return P(rows) if a.ndim > 1 and i not in whole else P()

    def run(*operands: Array) -> Sequence[Array]:
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.shard_map(
                fun,
                in_specs=tuple(itertools.starmap(spec, enumerate(ctx.avals_in))),
                out_specs=[spec(-1, a) for a in ctx.avals_out],
                check_vma=False,
            )(*operands)

    return run


def call_rows(
    target: str,
    ctx: mlir.LoweringRuleContext,
    operands: Sequence[Any],
    whole: Collection[int],
    **attributes: Any,
) -> Sequence[Any]:
    """Call ``target``, divided by the batch: axis 0 of all arrays of two axes or more.

    Args:
      target: its name, of which `register` was told.
      ctx: of the lowering rule that calls this.
      operands: values of MLIR.
      whole: the places of those that have no batch.
      **attributes: of the call.

    >>> from rnnjax.kernels import native, partitioning
    >>> def rule(ctx, *operands):
    ...     of_lstm = {"cell": "lstm", "reverse": False, "residuals": False}
    ...     return partitioning.call_rows(
    ...         native.FORWARD, ctx, operands, range(1, 4), **of_lstm)
    """

    def shapes_of(avals, whole):
        return [
            (a.shape[0], 1, 1, *a.shape[1:])
            if a.ndim > 1 and i not in whole
            else a.shape
            for i, a in enumerate(avals)
        ]

    results = call(
        target,
        ctx,
        list(map(_reshape, operands, shapes_of(ctx.avals_in, whole))),
        shapes_of(ctx.avals_out, ()),
        _BATCH_AXES,
        **attributes,
    )
    return [_reshape(r, a.shape) for r, a in zip(results, ctx.avals_out, strict=True)]


def call(
    target: str,
    ctx: mlir.LoweringRuleContext,
    operands: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    batch_axes: int,
    **attributes: Any,
) -> Sequence[Any]:
    """Call ``target``, divided by the leading axes of what has as many.

    ``shapes`` are those of the results, which have the dtype of the first operand.

    >>> from rnnjax.kernels import native, partitioning
    >>> def rule(ctx, x, dz):
    ...     shapes = [ctx.avals_out[0].shape]
    ...     return partitioning.call(native.WEIGHT_GRADIENT, ctx, [x, dz], shapes, 1)
    """
    given = [tuple(_type(operand).shape) for operand in operands]
    batch = mlir.ir_attribute({"num_batch_dims": str(batch_axes)})
    extra = {"mhlo.frontend_attributes": batch}
    if jax.config.jax_use_shardy_partitioner:  # pyright: ignore
        rule = sharding_rule(given, shapes, batch_axes)
        extra["sdy.sharding_rule"] = mlir.ir.Attribute.parse(rule)
    lower = jax.ffi.ffi_lowering(
        target,
        operand_layouts=list(map(_row_major, given)),
        result_layouts=list(map(_row_major, shapes)),
        result_types=[_like(operands[0], shape) for shape in shapes],
        extra_attributes=extra,
    )
    return lower(ctx, *operands, **attributes)


def sharding_rule(
    operands: Sequence[tuple[int, ...]],
    results: Sequence[tuple[int, ...]],
    batch_axes: int,
) -> str:
    """Shardy's rule: the batch axes go together, and every other axis goes alone.

    >>> from rnnjax.kernels import partitioning
    >>> partitioning.sharding_rule([(8, 2), ()], [(8, 5)], 1)
    '#sdy.op_sharding_rule<([i, j], [])->([i, k]) {i=8, j=2, k=5}, custom>'
    """
    sizes: dict[str, int] = {}

    def name(size):
        n = len(sizes)
        factor = chr(ord("i") + n) if n < 18 else f"z_{n - 17}"  # i ... z, z_1, z_2
        sizes[factor] = size
        return factor

    batch: list[str] = []

    def mapping(shape):
        if len(shape) < batch_axes:
            return list(map(name, shape))
        if not batch:
            batch.extend(map(name, shape[:batch_axes]))
        return batch + list(map(name, shape[batch_axes:]))

    before, after = (
        ", ".join(f"[{', '.join(mapping(shape))}]" for shape in shapes)
        for shapes in (operands, results)
    )
    every = ", ".join(f"{factor}={size}" for factor, size in sizes.items())
    return f"#sdy.op_sharding_rule<({before})->({after}) {{{every}}}, custom>"


def _type(value: Any) -> Any:
    return mlir.ir.RankedTensorType(value.type)


def _like(value: Any, shape: tuple[int, ...]) -> Any:
    return mlir.ir.RankedTensorType.get(shape, _type(value).element_type)


def _reshape(value: Any, shape: tuple[int, ...]) -> Any:
    if tuple(_type(value).shape) == tuple(shape):
        return value
    made = mlir.ir.Operation.create(
        "stablehlo.reshape", results=[_like(value, shape)], operands=[value]
    )
    return made.result


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(reversed(range(len(shape))))
