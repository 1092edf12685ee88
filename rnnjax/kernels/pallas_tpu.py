"""The value and the cotangent on a TPU, as Pallas kernels.

The grid goes over tiles of the batch and, for each of them, over blocks of time. The
recurrent weights are copied to the chip's vector memory (VMEM) once and stay there, and
so does the state, in float32, in scratch memory that lasts from one block of time to
the next. Between them the blocks of inputs, outputs and residuals come and go while the
chip computes. The product with the inputs comes before the kernel and the gradients of
the weights after it, each as one product over all steps and examples.

A register has 128 lanes, so the units of each column are padded with zeros to a
multiple of that: a padded unit gets no input, keeps a carry of zero and feeds nothing.
A block may reach beyond the batch or beyond the last step. What it has there is no
example, and nothing of it is written; what lies beyond the last step is not walked.

The walk is that of `rnnjax.kernels.steps`, as in the reference.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from rnnjax.kernels import reference, steps
from rnnjax.kernels.equations import Arrays, Equations
from rnnjax.kernels.reference import name_operands, split_residuals, without_padding
from rnnjax.kernels.steps import apart, cut, together

LANES = 128
"""Of a register. Units are padded to whole ones."""

ROWS = 128
"""Examples of a tile, at most: as many as the rows of a v5e's matrix unit."""

STEPS = 16
"""Of a block of time, at most. It divides `LANES`, the steps of a block of flags."""

LEAST = 16 * 2**20
"""Bytes of VMEM that a kernel may use if it does not say how many."""

VMEM = 64 * 2**20
"""Bytes of VMEM that are assumed where JAX runs on no TPU: what v5p and v7x have.

A v5e and a v6e have twice as much, and chips before v5 have 16 MiB.
"""


_LEAST = ("default", "fastest", "bfloat16")


class _Sizes(NamedTuple):
    """Sizes of one call, and how a kernel sees them."""

    batch: int
    time: int
    hidden: int
    dtype: Any

    @property
    def rows(self) -> int:
        """Of a tile: all are about as large, and in whole registers."""
        whole = 32 // jnp.dtype(self.dtype).itemsize
        tile = pl.cdiv(self.batch, pl.cdiv(self.batch, ROWS))
        return pl.cdiv(tile, whole) * whole

    @property
    def units(self) -> int:
        return pl.cdiv(self.hidden, LANES) * LANES


def wanted() -> bool:
    """Whether programs are being made for a TPU, there or elsewhere.

    Where JAX runs on something else, `jax.sharding.use_abstract_mesh` says so with an
    `jax.sharding.AbstractDevice`.

    >>> from rnnjax.kernels import pallas_tpu
    >>> pallas_tpu.wanted()
    False
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "tpu"


def capacity() -> int:
    """Bytes of VMEM that a core has.

    >>> from rnnjax.kernels import pallas_tpu
    >>> pallas_tpu.capacity() // 2**20
    64
    """
    return _tpu().get_tpu_info().vmem_capacity_bytes if wanted() else VMEM


def _tpu() -> Any:
    # Half a second, for a module that only programs for a TPU need.
    from jax.experimental.pallas import tpu

    return tpu


def _factors(dtype: Any) -> Any:
    """The dtype in which a product has its factors, as XLA chooses it on a TPU.

    Mosaic knows the least and the highest precision. All between is the highest.
    """
    setting = jax.config.jax_default_matmul_precision  # pyright: ignore
    return jnp.bfloat16 if setting in (None, *_LEAST) else dtype


def _needed(cell: Equations, sizes: _Sizes, block: int) -> int:
    """Bytes of VMEM for blocks of so many steps, of whichever pass needs more."""
    item, units, state = jnp.dtype(sizes.dtype).itemsize, sizes.units, cell.carries
    tile = sizes.rows * units
    weights = cell.columns * units * units * jnp.dtype(_factors(sizes.dtype)).itemsize
    # Inputs, outputs and residuals of each step; back, also both parts of a gradient.
    forward = cell.columns + 1 + cell.saved + state
    backward = cell.saved + cell.reads + 1 + cell.columns * (1 if cell.joined else 2)
    # Everything but the weights is there twice, for one block is copied while another
    # is used. Beside it are the carries, the state, flags and what a step computes.
    blocks = 2 * block * max(forward, backward) * tile * item
    carries = 2 * 3 * state * tile * item + 2 * state * tile * 4
    flags = 2 * 2 * sizes.rows * LANES * 4
    values = 2 * (cell.columns + cell.saved + 2 * state) * tile * 4
    return weights + blocks + carries + flags + values


def _fits(cell: Equations, sizes: _Sizes, block: int, vmem: int) -> bool:
    # Something is left for what the compiler needs, and for other programs.
    return _needed(cell, sizes, block) <= vmem * 7 // 8


def block_of(
    cell: Equations, batch: int, time: int, hidden_size: int, dtype: Any
) -> int:
    """How many steps a block of time has; 0 if there are none, or one is too many.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, pallas_tpu
    >>> [pallas_tpu.block_of(equations.LSTM, 128, 100, h, jnp.float32)
    ...  for h in (128, 1024, 2048)]
    [16, 1, 0]
    """
    if not batch or not time:
        return 0
    sizes, block = _Sizes(batch, time, hidden_size, dtype), min(STEPS, time)
    # Long blocks save little, and what they take is lost to the rest of the program.
    while block > 1 and _needed(cell, sizes, block) > capacity() // 2:
        block = 1 << (block - 1).bit_length() - 1
    return block if _fits(cell, sizes, block, capacity()) else 0


def most_units(cell: Equations, dtype: Any, vmem: int) -> int:
    """The largest hidden size that has a kernel, whatever the batch and the time.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, pallas_tpu
    >>> pallas_tpu.most_units(equations.LSTM, jnp.float32, pallas_tpu.VMEM)
    1280
    """
    units = LANES
    while _fits(cell, _Sizes(ROWS, 1, units, dtype), 1, vmem):
        units += LANES
    return units - LANES


def value(
    *operands: Array, cell: Equations, residuals: bool, interpret: Any = False
) -> list[Array]:
    """What `rnnjax.kernels.reference.value` gives, by one kernel."""
    at = without_padding(name_operands(cell, operands))
    (batch, time, _), hidden, dtype = at.xs.shape, at.w_hh.shape[0], at.xs.dtype
    sizes = _Sizes(batch, time, hidden, dtype)
    if block_of(cell, *sizes) == 0:
        return reference.value(*operands, cell=cell, residuals=residuals, hoist=True)
    w_ih, b = (_widen(a, sizes, cell.columns) for a in (at.w_ih, at.b))
    state, saved = _shape(sizes, time), _shape(sizes, time, columns=cell.saved)
    found = (saved, (state,) * cell.carries) if residuals else None
    (ys, found), last = _call(
        _forward,
        cell,
        sizes,
        shared=(
            _weights(cell, at.w_hh, sizes),
            None if at.b_hn is None else _widen(at.b_hn, sizes)[None],
        ),
        walked=jnp.einsum("bti,ik->tbk", at.xs, w_ih) + b,
        tiled=(
            tuple(_widen(c, sizes) for c in at.carry),
            None
            if at.reset.ndim == 1
            else tuple(_widen(c, sizes) for c in at.reset_carry),
        ),
        flags=(_flags(at.mask), _flags(at.reset)),
        out=((state, found), (_shape(sizes),) * cell.carries),
        reverse=False,
        interpret=interpret,
    )
    out = [_batch_first(ys, sizes), *(_narrow(c, sizes) for c in last)]
    if residuals:
        saved, before = found
        out += [_batch_first(saved, sizes, cell.saved)]
        out += [_batch_first(c, sizes) for c in before]
    return out


def cotangent(*operands: Array, cell: Equations, interpret: Any = False) -> list[Array]:
    """What `rnnjax.kernels.reference.cotangent` gives, by one kernel."""
    known, (d_ys, *d_last) = split_residuals(cell, operands)
    (batch, time, _), hidden = known.saved.shape, known.w_hh.shape[0]
    dtype, absent = known.saved.dtype, known.reset.ndim == 1
    sizes = _Sizes(batch, time, hidden, dtype)
    if block_of(cell, *sizes) == 0:
        return reference.cotangent(*operands, cell=cell)
    part = _shape(sizes, time, columns=cell.columns)
    carry = (_shape(sizes),) * cell.carries
    d_parts, (d_first, d_restart) = _call(
        _backward,
        cell,
        sizes,
        shared=tuple(w.T for w in _weights(cell, known.w_hh, sizes)),
        walked=(
            _time_first(known.saved, sizes, cell.saved),
            tuple(_time_first(c, sizes) for c in known.previous),
            _time_first(d_ys, sizes),
        ),
        tiled=tuple(_widen(d, sizes) for d in d_last),
        flags=(_flags(known.mask), _flags(known.reset)),
        out=((part,) * (1 if cell.joined else 2), (carry, None if absent else carry)),
        reverse=True,
        interpret=interpret,
    )
    nothing = [jnp.zeros(0, dtype)] * cell.carries
    return [
        *(_batch_first(d, sizes, cell.columns) for d in d_parts),
        *(_narrow(d, sizes) for d in d_first),
        *(nothing if absent else [_narrow(d, sizes) for d in d_restart]),
    ]


# The kernels. What has the name of an array is a reference to memory until it is read,
# and what is absent is None.


def _forward(shared, zs, tiled, flags, walked, last, *state, cell, time, at) -> None:
    (weights, b_hn), (first, reset_carry) = shared, tiled
    ys, residuals = walked
    start = at(pl.program_id(1)) * len(zs)

    @pl.when(start == 0)
    def _():
        _write(state, _read(first))

    def body(s, _):
        valid, restart = (_at(flag, start + s) for flag in flags)
        a = apart(zs[s].astype(jnp.float32), cell.columns)

        def step(before):
            u = steps.recur(cell, _product, weights, a, before[-1])
            if b_hn is not None:
                u = (*u[:-1], u[-1] + b_hn[...].astype(jnp.float32))
            saved, after = cell.activate(a, u, before)
            return after, (saved, before)

        restarted = () if restart is None else _read(reset_carry)
        after, y, (saved, before) = steps.advance(
            step, _read(state), valid, restart, restarted
        )
        ys[s] = y.astype(ys.dtype)
        if residuals is not None:
            all_saved, all_before = residuals
            all_saved[s] = together(saved).astype(ys.dtype)
            for all_c, c in zip(all_before, before, strict=True):
                all_c[s] = c.astype(ys.dtype)
        _write(state, after)
        return ()

    lax.fori_loop(0, jnp.minimum(len(zs), time - start), body, ())

    @pl.when(start + len(zs) >= time)
    def _():
        _write(last, _read(state))


def _backward(
    transposed, walked, d_last, flags, d_parts, tiled, *state, cell, time, at
) -> None:
    (all_saved, all_before, d_ys), (d_first, d_reset_carry) = walked, tiled
    d_carry, d_sum = state[: cell.carries], state[cell.carries :]
    start = at(pl.program_id(1)) * len(d_ys)
    walking = jnp.minimum(len(d_ys), time - start)

    @pl.when(start + len(d_ys) >= time)
    def _():
        _write(d_carry, _read(d_last))
        _write(d_sum, steps.zeros(_read(d_sum)))

    def body(done, _):
        s = walking - 1 - done
        valid, restart = (_at(flag, start + s) for flag in flags)
        saved = apart(all_saved[s].astype(jnp.float32), cell.saved)
        previous = tuple(c[s].astype(jnp.float32) for c in all_before)
        pull = functools.partial(
            steps.pull, cell, _product, transposed, saved, previous
        )
        d_y = d_ys[s].astype(jnp.float32)
        d_before, d_restart, parts = steps.retreat(
            pull, _read(d_carry), _read(d_sum), d_y, valid, restart
        )
        for part, d in zip(d_parts, parts, strict=True):
            part[s] = together(d).astype(part.dtype)
        _write(d_carry, d_before)
        _write(d_sum, d_restart)
        return ()

    lax.fori_loop(0, walking, body, ())

    @pl.when(start == 0)
    def _():
        _write(d_first, _read(d_carry))
        if d_reset_carry is not None:
            _write(d_reset_carry, _read(d_sum))


def _product(rows: Array, weights: Any) -> Array:
    """In the weights' dtype, summed in float32."""
    exact = weights.dtype == jnp.float32
    return jnp.dot(
        rows.astype(weights.dtype),
        weights[...],
        precision=lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )


def _at(flags: Any, t: Any) -> Array | None:
    """The flags of a step, beside the units, from a block that has a step a lane."""
    if flags is None:
        return None
    lanes = lax.broadcasted_iota(jnp.int32, flags.shape, 1)
    of_step = jnp.where(lanes == lax.rem(t, LANES), flags[...], 0.0)
    return jnp.sum(of_step, axis=1, keepdims=True) != 0


def _read(refs: Any) -> Arrays:
    return tuple(ref[...].astype(jnp.float32) for ref in refs)


def _write(refs: Any, values: Arrays) -> None:
    for ref, x in zip(refs, values, strict=True):
        ref[...] = x.astype(ref.dtype)


# Around the kernels: arrays as a kernel wants them, and back.


def _call(
    kernel: Callable[..., None],
    cell: Equations,
    sizes: _Sizes,
    *,
    shared: Any,
    walked: Any,
    tiled: Any,
    flags: Any,
    out: Any,
    reverse: bool,
    interpret: Any,
) -> Any:
    """Run a kernel for each tile of the batch and block of time.

    ``shared`` is there whole. ``walked`` and the first part of ``out`` have time first
    and come in blocks of it, ``tiled`` and the second part have no time, and ``flags``
    have time last.
    """
    tpu, rows, block = _tpu(), sizes.rows, block_of(cell, *sizes)
    blocks = pl.cdiv(sizes.time, block)

    def at(j):
        return blocks - 1 - j if reverse else j

    def whole(a):
        # It never changes: one copy of it is enough.
        return pl.BlockSpec(a.shape, lambda i, j: (0, 0), pipeline_mode=pl.Buffered(1))

    def of_steps(a):
        return pl.BlockSpec((block, rows, a.shape[2]), lambda i, j: (at(j), i, 0))

    def of_tile(a):
        return pl.BlockSpec((rows, a.shape[1]), lambda i, j: (i, 0))

    def of_lanes(a):
        return pl.BlockSpec(
            (rows, LANES), lambda i, j: (i, lax.div(at(j) * block, LANES))
        )

    def shape(a):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, manual_axis_type=varying)

    varying = jax.typeof(jax.tree.leaves(walked)[0]).manual_axis_type
    state = tpu.VMEM((rows, sizes.units), jnp.float32)
    run = pl.pallas_call(
        functools.partial(kernel, cell=cell, time=sizes.time, at=at),
        out_shape=jax.tree.map(shape, out),
        grid=(pl.cdiv(sizes.batch, rows), blocks),
        in_specs=(
            jax.tree.map(whole, shared),
            jax.tree.map(of_steps, walked),
            jax.tree.map(of_tile, tiled),
            jax.tree.map(of_lanes, flags),
        ),
        out_specs=(jax.tree.map(of_steps, out[0]), jax.tree.map(of_tile, out[1])),
        scratch_shapes=[state] * len(jax.tree.leaves(out[1])),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=max(_needed(cell, sizes, block), LEAST),
        ),
        interpret=interpret,
    )
    # Mosaic has no integers of 64 bits, which plain numbers are under jax_enable_x64.
    with jax.enable_x64(False):
        return run(shared, walked, tiled, flags)


def _shape(sizes: _Sizes, *axes: int, columns: int = 1) -> jax.ShapeDtypeStruct:
    shape = (*axes, sizes.batch, columns * sizes.units)
    return jax.ShapeDtypeStruct(shape, sizes.dtype)


def _widen(a: Array, sizes: _Sizes, columns: int = 1) -> Array:
    """Pad the units of each column with zeros: ``(..., columns units)``."""
    if sizes.units == sizes.hidden:
        return a
    a = a.reshape(*a.shape[:-1], columns, sizes.hidden)
    more = sizes.units - sizes.hidden
    a = jnp.pad(a, [*[(0, 0)] * (a.ndim - 1), (0, more)])
    return a.reshape(*a.shape[:-2], -1)


def _weights(cell: Equations, w_hh: Array, sizes: _Sizes) -> Arrays:
    wide = _widen(w_hh, sizes, cell.columns).astype(_factors(w_hh.dtype))
    return cut(cell, jnp.pad(wide, [(0, sizes.units - sizes.hidden), (0, 0)]))


def _time_first(a: Array, sizes: _Sizes, columns: int = 1) -> Array:
    return jnp.swapaxes(_widen(a, sizes, columns), 0, 1)


def _batch_first(a: Array, sizes: _Sizes, columns: int = 1) -> Array:
    return _narrow(jnp.swapaxes(a, 0, 1), sizes, columns)


def _narrow(a: Array, sizes: _Sizes, columns: int = 1) -> Array:
    """The opposite of `_widen`."""
    if sizes.units == sizes.hidden:
        return a
    a = a.reshape(*a.shape[:-1], columns, sizes.units)[..., : sizes.hidden]
    return a.reshape(*a.shape[:-2], -1)


def _flags(flags: Array) -> Array | None:
    """In float32, of which the lanes of a register can be added up."""
    if flags.ndim == 1:
        return None
    more = -flags.shape[1] % LANES
    return jnp.pad(flags.astype(jnp.float32), [(0, 0), (0, more)])
