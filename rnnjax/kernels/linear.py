"""What runs a linear recurrence: a kernel in C++ or in Pallas, or prefix scans.

A walk of one step after the other reads a and b and writes h, once each, and on a CPU
and on a TPU is as fast as the memory; a prefix scan of logarithmic depth reads and
writes them several times. A GPU has too many threads for the walk, and gets that scan.

Where a coefficient is zero both kernels forget the state, whatever it was: a reset
brings back a state that has overflowed, which a product with zero does not.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.interpreters import mlir

from rnnjax.kernels import native, partitioning
from rnnjax.traversals.solver import prefix, solver_p

_DTYPES = (jnp.float32, jnp.float64)

# A TPU's kernel: lanes of a register, rows of lanes in a tile, and steps of a block.
# Three arrays of such blocks, each there twice, are 6 MiB of the chip's memory.
_LANES, _ROWS, _STEPS = 128, 32, 64


def _native(a: Array, b: Array, *, reverse: bool) -> Array:
    bind = functools.partial(solver_p.bind, reverse=reverse)
    # What is added is read for the last time, as a rule: the states take its place.
    call = jax.ffi.ffi_call(
        native.LINEAR, jax.eval_shape(bind, a, b), input_output_aliases={1: 0}
    )
    return call(a, b, reverse=reverse)


def _divided(ctx: Any, a: Any, b: Any, *, reverse: bool) -> Sequence[Any]:
    of_a, of_b = ctx.avals_in
    if of_a.shape[0] == of_b.shape[0]:
        return partitioning.call_rows(native.LINEAR, ctx, (a, b), (), reverse=reverse)

    def repeated(a, b):
        a = jnp.broadcast_to(a, (len(b), *a.shape[1:]))
        return solver_p.bind(a, b, reverse=reverse)

    return mlir.lower_fun(repeated, multiple_results=False)(ctx, a, b)


def on_tpu(a: Array, b: Array, *, reverse: bool, interpret: Any = False) -> Array:
    """The recurrence of units that see only themselves, ``b: (n, t, u, 1)``, in Pallas.

    All numbers of a step are apart, so they fill tiles of whole registers. The grid
    goes over these and, for each, over blocks of time; the state stays in scratch
    memory from one block to the next.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import linear
    >>> a, b = jnp.full((1, 3, 2, 1, 1), 2.0), jnp.ones((1, 3, 2, 1))
    >>> linear.on_tpu(a, b, reverse=False, interpret=True)[0, :, 0, 0]
    Array([1., 3., 7.], dtype=float32)
    """
    # Half a second, for a module that only programs for a TPU need.
    from jax.experimental.pallas import tpu as mosaic

    (rows, time, units, _), count = b.shape, b.shape[0] * b.shape[2]
    tiles = pl.cdiv(count, _LANES)

    def fill(x):
        x = jnp.broadcast_to(x.reshape(len(x), time, units), (rows, time, units))
        x = jnp.swapaxes(x, 0, 1).reshape(time, count)
        x = jnp.pad(x, ((0, 0), (0, tiles * _LANES - count)))
        return x.reshape(time, tiles, _LANES)

    tile, block = min(_ROWS, tiles), min(_STEPS, time)
    blocks = pl.cdiv(time, block)

    def at(j):
        return blocks - 1 - j if reverse else j

    spec = pl.BlockSpec((block, tile, _LANES), lambda i, j: (at(j), i, 0))
    walked = fill(a), fill(b)
    run = pl.pallas_call(
        functools.partial(_walk, time=time, reverse=reverse, at=at),
        out_shape=jax.ShapeDtypeStruct(
            walked[1].shape,
            b.dtype,
            manual_axis_type=jax.typeof(walked[1]).manual_axis_type,
        ),
        grid=(pl.cdiv(tiles, tile), blocks),
        in_specs=(spec, spec),
        out_specs=spec,
        scratch_shapes=[mosaic.VMEM((tile, _LANES), b.dtype)],
        compiler_params=mosaic.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
        interpret=interpret,
    )
    # Mosaic has no integers of 64 bits, which plain numbers are under jax_enable_x64.
    with jax.enable_x64(False):
        h = run(*walked)
    h = h.reshape(time, -1)[:, :count].reshape(time, rows, units, 1)
    return jnp.swapaxes(h, 0, 1)


def _walk(a, b, h, state, *, time, reverse, at) -> None:
    """A block of time; ``state`` is h, or in reverse what it gives to the next."""
    start = at(pl.program_id(1)) * len(b)
    walking = jnp.minimum(len(b), time - start)

    @pl.when(pl.program_id(1) == 0)
    def _():
        state[...] = jnp.zeros_like(state)

    def times(decay, x):
        return jnp.where(decay == 0, jnp.zeros_like(x), decay * x)

    def body(done, _):
        s = walking - 1 - done if reverse else done
        if reverse:
            h[s] = state[...] + b[s]
            state[...] = times(a[s], h[s])
        else:
            state[...] = times(a[s], state[...]) + b[s]
            h[s] = state[...]
        return ()

    lax.fori_loop(0, walking, body, ())


_PREFIX = mlir.lower_fun(prefix, multiple_results=False)
_CPU = native.lowering(_native, prefix, _divided, multiple_results=False)


def cpu(ctx: Any, a: Any, b: Any, *, reverse: bool) -> Any:
    """The rule by which the primitive is lowered for a CPU."""
    known = ctx.avals_in[1].dtype in _DTYPES
    return (_CPU if known else _PREFIX)(ctx, a, b, reverse=reverse)


def tpu(ctx: Any, a: Any, b: Any, *, reverse: bool) -> Any:
    """The same for a TPU."""
    of_a, of_b = ctx.avals_in

    def run(a, b):
        return [on_tpu(a, b, reverse=reverse)]

    fun = run
    if not partitioning.whole_call(ctx):
        shared = of_a.shape[0] != of_b.shape[0]
        fun = partitioning.divided(run, ctx, [0] if shared else [])
    apart = of_b.shape[-1] == 1 and of_b.dtype == jnp.float32
    # A program that `jax.export` makes may run on another chip than is known here.
    exporting = ctx.module_context.lowering_parameters.for_export
    if not apart or fun is None or exporting:
        return _PREFIX(ctx, a, b, reverse=reverse)
    return mlir.lower_fun(fun, multiple_results=True)(ctx, a, b)
