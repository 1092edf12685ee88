"""The LSTM and the GRU as Pallas kernels for a GPU: an option, and untimed.

One program of the grid takes a tile of the batch through all of time. The recurrent
weights are read once and stay on the chip with the state, and so does everything
between the recurrent product and the new carry. The product with the inputs comes
before the kernel and the gradients of the weights after it, each as one product over
all steps and examples.

Pallas's Triton backend works on blocks whose sides are powers of two, and its products
need 16 or more. Units and batch are padded with zeros up to there: a padded unit gets
no input, keeps a carry of zero and feeds nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from rnnjax.kernels import cudnn, reference, shared_memory, steps
from rnnjax.kernels.equations import Arrays, Equations, Program
from rnnjax.kernels.reference import name_operands, split_residuals, without_padding

ROWS = 16
"""Examples that one program of the grid takes: the least a product can have."""


class _Sizes(NamedTuple):
    """Sizes of one call, and how a kernel sees them."""

    batch: int
    time: int
    hidden: int

    @property
    def rows(self) -> int:
        return pl.cdiv(self.batch, ROWS) * ROWS

    @property
    def units(self) -> int:
        return shared_memory.padded(self.hidden)


def value(
    *operands: Array,
    cell: Equations,
    residuals: bool,
    within: int | None = None,
    interpret: bool = False,
) -> list[Array]:
    """What `rnnjax.kernels.reference.value` gives, by one kernel.

    ``within`` are the KiB of shared memory; those of the device if None.
    """
    at = without_padding(name_operands(cell, operands))
    (batch, time, inputs), (hidden, k) = at.xs.shape, at.w_hh.shape
    dtype, carries = at.xs.dtype, cell.carries
    if batch == 0 or not _covers(cell, hidden, dtype, within):
        return reference.value(*operands, cell=cell, residuals=residuals, hoist=True)
    sizes = _Sizes(batch, time, hidden)
    zs = (at.xs.reshape(-1, inputs) @ at.w_ih + at.b).reshape(batch, time, k)
    state, last = _shape(sizes, dtype, time), _shape(sizes, dtype)
    saved = _shape(sizes, dtype, time, cell.saved)
    ys, after, found = _call(
        functools.partial(_forward, cell=cell, time=time),
        sizes,
        shared=(
            _columns(at.w_hh, sizes),
            None if at.b_hn is None else _columns(at.b_hn, sizes),
        ),
        tiled=(
            _tiles(_apart(zs, hidden), sizes),
            _tiles(at.carry, sizes),
            _flags(at.mask, sizes),
            _flags(at.reset, sizes),
            None if at.reset.ndim == 1 else _tiles(at.reset_carry, sizes),
        ),
        out=(state, (last,) * carries, (saved, (state,) * carries))
        if residuals
        else (state, (last,) * carries, None),
        interpret=interpret,
    )
    out = [_cut(ys, sizes), *(_cut(c, sizes) for c in after)]
    if residuals:
        saved, before = found
        out += [_together(saved, sizes), *(_cut(c, sizes) for c in before)]
    return out


def cotangent(
    *operands: Array,
    cell: Equations,
    within: int | None = None,
    interpret: bool = False,
) -> list[Array]:
    """What `rnnjax.kernels.reference.cotangent` gives, by one kernel."""
    known, (d_ys, *d_carry) = split_residuals(cell, operands)
    (batch, time, _), (hidden, k) = known.saved.shape, known.w_hh.shape
    dtype, absent = known.saved.dtype, known.reset.ndim == 1
    if batch == 0 or not _covers(cell, hidden, dtype, within):
        return reference.cotangent(*operands, cell=cell)
    sizes = _Sizes(batch, time, hidden)
    part = _shape(sizes, dtype, time, k // hidden)
    carry = (_shape(sizes, dtype),) * cell.carries
    d_parts, d_first, d_reset_carry = _call(
        functools.partial(_backward, cell=cell, time=time),
        sizes,
        shared=jnp.swapaxes(_columns(known.w_hh, sizes), 1, 2),
        tiled=(
            _tiles(_apart(known.saved, hidden), sizes),
            _tiles(known.previous, sizes),
            _flags(known.mask, sizes),
            _flags(known.reset, sizes),
            _tiles(d_ys, sizes),
            _tiles(tuple(d_carry), sizes),
        ),
        out=((part,) * (1 if cell.joined else 2), carry, None if absent else carry),
        interpret=interpret,
    )
    nothing = [jnp.zeros(0, dtype)] * cell.carries
    return [
        *(_together(d, sizes) for d in d_parts),
        *(_cut(d, sizes) for d in d_first),
        *(nothing if absent else [_cut(d, sizes) for d in d_reset_carry]),
    ]


PROGRAM = Program("cuda", value, cotangent)
"""For cells of `rnnjax.kernels` that are to run these kernels on an NVIDIA GPU."""

INTERPRETED = Program(
    "cpu",
    functools.partial(value, within=shared_memory.KNOWN["H100"], interpret=True),
    functools.partial(cotangent, within=shared_memory.KNOWN["H100"], interpret=True),
)
"""The same on a CPU, interpreted and slow: to test a kernel or to look into it."""


def _covers(cell: Equations, hidden: int, dtype: Any, within: int | None) -> bool:
    """Whether there is a kernel for such a layer, with the products asked for.

    Products of float32 without rounding to TF32 do not run on tensor cores. The
    compiler makes of them what spills even with 64 units, and takes minutes with 128.
    """
    exact = dtype == jnp.float32 and cudnn.precision() is lax.Precision.HIGHEST
    return not exact and shared_memory.fits(cell, hidden, dtype, within)


def _dot(a: Array, b: Array) -> Array:
    """On tensor cores, whatever JAX's setting: bfloat16 loses nothing by that."""
    return jnp.dot(
        a, b, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32
    )


# The kernels. What has the name of an array is a reference to memory until it is read,
# and what is absent is None.


def _forward(shared, tiled, ys, last, residuals, *, cell: Equations, time: int) -> None:
    w_hh, b_hn = shared
    zs, first, mask, reset, reset_carry = tiled
    columns = range(cell.columns)
    weights = [w_hh[k] for k in columns]
    restart = () if reset_carry is None else _read(reset_carry)

    def body(t, carry):
        def step(before):
            h = before[-1].astype(w_hh.dtype)
            u = [_dot(h, w) for w in weights]
            if b_hn is not None:
                u[-1] += b_hn[0].astype(jnp.float32)[None]
            a = [zs[:, t, k].astype(jnp.float32) for k in columns]
            saved, after = cell.activate(tuple(a), tuple(u), before)
            return after, (saved, before)

        after, y, found = steps.advance(
            step, carry, _at(mask, t), _at(reset, t), restart
        )
        ys[:, t] = y.astype(ys.dtype)
        if residuals is not None:
            (saved, before), (all_saved, all_before) = found, residuals
            for k, x in enumerate(saved):
                all_saved[:, t, k] = x.astype(ys.dtype)
            for all_c, c in zip(all_before, before, strict=True):
                all_c[:, t] = c.astype(ys.dtype)
        return after

    _write(last, lax.fori_loop(0, time, body, _read(first)))


def _backward(
    shared, tiled, d_parts, d_first, d_reset_carry, *, cell: Equations, time: int
) -> None:
    all_saved, all_before, mask, reset, d_ys, d_last = tiled
    weights = [shared[k] for k in range(shared.shape[0])]

    def body(s, state):
        t = time - 1 - s
        d_after, d_restart = state
        saved = [all_saved[:, t, k].astype(jnp.float32) for k in range(cell.saved)]
        previous = tuple(c[:, t].astype(jnp.float32) for c in all_before)

        def back(d_carry):
            d_a, d_u, d_before = cell.differentiate(tuple(saved), previous, d_carry)
            for d_k, w in zip(d_u, weights, strict=True):
                d_h = _dot(d_k.astype(w.dtype), w)
                d_before = (*d_before[:-1], d_before[-1] + d_h)
            return (d_u,) if cell.joined else (d_a, d_u), d_before

        d_y = d_ys[:, t].astype(jnp.float32)
        d_before, d_restart, found = steps.retreat(
            back, d_after, d_restart, d_y, _at(mask, t), _at(reset, t)
        )
        for d, part in zip(found, d_parts, strict=True):
            for k, d_k in enumerate(d):
                part[:, t, k] = d_k.astype(part.dtype)
        return d_before, d_restart

    start = _read(d_last)
    d_restart = () if reset is None else steps.zeros(start)
    d_before, d_restart = lax.fori_loop(0, time, body, (start, d_restart))
    _write(d_first, d_before)
    if reset is not None:
        _write(d_reset_carry, d_restart)


def _at(flags: Any, t: Any) -> Array | None:
    return None if flags is None else flags[:, t][:, None] != 0


def _read(refs: Any) -> Arrays:
    return tuple(ref[...].astype(jnp.float32) for ref in refs)


def _write(refs: Any, values: Arrays) -> None:
    for ref, x in zip(refs, values, strict=True):
        ref[...] = x.astype(ref.dtype)


# Around the kernels: arrays as a kernel wants them, and back.


def _call(
    kernel: Callable[..., None],
    sizes: _Sizes,
    *,
    shared: Any,
    tiled: Any,
    out: Any,
    interpret: bool,
) -> Any:
    """Run a kernel for each tile of the batch, on all of ``shared``."""

    def whole(a):
        return pl.BlockSpec(a.shape, lambda i: (0,) * a.ndim)

    def tile(a):
        return pl.BlockSpec((ROWS, *a.shape[1:]), lambda i: (i, *(0,) * (a.ndim - 1)))

    options = {}
    if not interpret:
        # Not every JAX that runs the rest of this package has Triton's backend.
        from jax.experimental.pallas import triton

        options["compiler_params"] = triton.CompilerParams(
            # Four warps have too few registers for 128 units: the compiler spills.
            num_warps=4 if sizes.units <= 64 else 8,
            # Nothing in the loop is worth loading ahead in copies of the weights' size.
            num_stages=1,
        )
    return pl.pallas_call(
        kernel,
        out_shape=out,
        grid=(sizes.rows // ROWS,),
        in_specs=(jax.tree.map(whole, shared), jax.tree.map(tile, tiled)),
        out_specs=jax.tree.map(tile, out),
        interpret=interpret,
        **options,
    )(shared, tiled)


def _shape(sizes: _Sizes, dtype: Any, *axes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((sizes.rows, *axes, sizes.units), dtype)


def _columns(a: Array, sizes: _Sizes) -> Array:
    """The blocks of columns, apart and padded: ``(columns, …, units)``."""
    a = jnp.moveaxis(_apart(a, sizes.hidden), -2, 0)
    more = sizes.units - sizes.hidden
    return jnp.pad(a, [(0, 0), *[(0, more)] * (a.ndim - 1)])


def _apart(a: Array, hidden: int) -> Array:
    return a.reshape(*a.shape[:-1], -1, hidden)


def _together(a: Array, sizes: _Sizes) -> Array:
    a = _cut(a, sizes)
    return a.reshape(*a.shape[:-2], -1)


def _tiles(tree: Any, sizes: _Sizes) -> Any:
    """Arrays ``(batch, …, hidden)``, padded to whole tiles and units."""
    rows, units = sizes.rows - sizes.batch, sizes.units - sizes.hidden
    return jax.tree.map(
        lambda a: jnp.pad(a, [(0, rows), *[(0, 0)] * (a.ndim - 2), (0, units)]), tree
    )


def _cut(a: Array, sizes: _Sizes) -> Array:
    return a[: sizes.batch, ..., : sizes.hidden]


def _flags(flags: Array, sizes: _Sizes) -> Array | None:
    """One integer a flag: a GPU cannot address single bits."""
    if flags.ndim == 1:
        return None
    rows = sizes.rows - sizes.batch
    return jnp.pad(flags.astype(jnp.int32), [(0, rows), (0, 0)])
