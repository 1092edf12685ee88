"""The native engine: what runs the loops of `rnnjax.kernels.loops` on a CPU.

On several devices, where XLA divides the loop, and in a program that `jax.export`
makes, a loop is `jax.lax.scan`. So is one whose step has an operation that the engine
does not know; a loop and its way back are looked at apart.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from rnnjax import observation
from rnnjax.cell import Cell
from rnnjax.checks import time_steps
from rnnjax.kernels import (
    apart,
    assembly,
    loop_derivatives,  # noqa: F401 (its rules are wanted)
    loops,
    native,
    remade,
)
from rnnjax.signals import backwards, gated
from rnnjax.traversals.by_scan import by_scan

# Batches with fewer rows do the products that wait for no step apart from it.
_FEW_ROWS = 5


def _native(*operands: Any, loop: loops.Loop) -> Sequence[Any]:
    try:
        if operands[loop.shared].shape[0] < _FEW_ROWS:
            return apart.walk(operands, loop, _walked)
        return _walked(operands, loop)
    except assembly.Unknown:
        return loops.reference(*operands, loop=loop)


def _walked(
    operands: Sequence[Any], loop: loops.Loop, maker: remade.Maker | None = None
) -> Sequence[Any]:
    if maker is not None:
        return _both(native.LOOP_AHEAD, maker, operands, loop)
    program, first = _assembled(loop), jax.typeof(operands[loop.shared])
    call = jax.ffi.ffi_call(
        native.LOOP,
        loops.shapes_like(first, loop),
        input_output_aliases=program.aliases,
    )
    count = first.shape[0]
    return call(*operands, code=program.code, numbers=program.numbers, batch=count)


def _both(
    target: str, maker: remade.Maker, operands: Sequence[Any], loop: loops.Loop
) -> Sequence[Any]:
    """The results of a loop, of which some operands are what the maker makes."""
    making, program = _assembled(maker.loop), _assembled(loop)
    there = [i for i, o in enumerate(operands) if not isinstance(o, remade.Promised)]
    places = [i for i in range(len(operands)) if i not in there]
    first = jax.typeof(maker.operands[maker.loop.shared])
    before = len(maker.operands)
    call = jax.ffi.ffi_call(
        target,
        loops.shapes_like(first, loop),
        input_output_aliases={
            before + there.index(i): out for i, out in program.aliases.items()
        },
    )
    return call(
        *maker.operands,
        *(operands[i] for i in there),
        maker_code=making.code,
        maker_numbers=making.numbers,
        code=program.code,
        numbers=program.numbers,
        places=np.array(places, np.int64),
        batch=first.shape[0],
    )


def _remade(
    *operands: Any, loop: loops.Loop, maker: loops.Loop, places: Sequence[int]
) -> Sequence[Any]:
    given, own = remade.parted(operands, loop, maker, places)
    walked = functools.partial(_both, native.REMADE_LOOP, remade.Maker(maker, given))
    try:
        if operands[maker.shared].shape[0] < _FEW_ROWS:
            return apart.walk(own, loop, walked)
        return walked(own, loop)
    except assembly.Unknown:
        both = {"loop": loop, "maker": maker, "places": places}
        return remade.one_by_one(_native, *operands, **both)


for _primitive, _run, _reference in (
    (loops.loop_p, _native, loops.reference),
    (loops.tangent_p, _native, loops.reference),
    (remade.remade_p, _remade, remade.reference),
):
    _scan = mlir.lower_fun(_reference, multiple_results=True)
    mlir.register_lowering(
        _primitive, native.lowering(_run, _reference, _scan), platform="cpu"
    )


def reason(params: Any, carry: Any, xs: Any) -> str:
    """Why the engine cannot walk with these arrays here, or nothing.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import native_loop
    >>> native_loop.reason((), jnp.zeros(2, jnp.bfloat16), jnp.ones((3, 2))) != ""
    True
    """
    if jax.default_backend() != "cpu" or not native.available():
        return f"native library on {jax.default_backend()}: {native.reason()}"
    if observation.watched():
        return "step whose values are looked at"
    if jax.config.jax_disable_jit:  # pyright: ignore
        return "step whose operations run one at a time"
    if not jax.sharding.get_abstract_mesh().empty:
        return "way over a mesh of devices"
    for dtype in map(jnp.result_type, jax.tree.leaves((params, carry, xs))):
        if dtype not in (jnp.float32, jnp.bool_):
            return f"array of {dtype}"
    return (
        ""
        if jax.tree.leaves(carry) and jax.tree.leaves(xs)
        else "loop without a carry or inputs"
    )


@gated
def walk(
    project: Any, step: Any, params: Any, carry: Any, xs: Any, *, reverse: bool = False
) -> tuple[Any, Any]:
    """Walk with the engine, or with `jax.lax.scan` where it cannot."""
    if not reason(params, carry, xs):
        try:
            return _loop(project, step, params, carry, xs, _assembled, reverse)
        except assembly.Unknown:
            pass
    scan = backwards(by_scan) if reverse else by_scan
    return scan(project, step, params, carry, xs)


def _assembled(loop: loops.Loop) -> assembly.Program:
    return assembly.assemble(loop, native.operations())


def _loop(
    project: Any,
    step: Any,
    params: Any,
    carry: Any,
    xs: Any,
    check: Callable[[loops.Loop], Any],
    reverse: bool = False,
) -> tuple[Any, Any]:
    shared, of_params = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    states, of_carry = jax.tree.flatten(jax.tree.map(jnp.asarray, carry))
    inputs, of_xs = jax.tree.flatten(jax.tree.map(jnp.asarray, xs))
    outputs = []

    def flat_step(shared, rows, carry, x):
        params = of_params.unflatten(shared)
        z = project(params, of_xs.unflatten(x))
        after, y = step(params, of_carry.unflatten(carry), z)
        y, of_y = jax.tree.flatten(jax.tree.map(jnp.asarray, y))
        outputs.append(of_y)
        return jax.tree.leaves(after), y

    # One sequence is a batch of one; jax.vmap makes the batch larger.
    after, ys = loops.bind(
        flat_step,
        shared,
        [],
        [a[None] for a in states],
        [a[None] for a in inputs],
        length=time_steps(xs),
        reverse=reverse,
        inline_derivatives=False,
        check=check,
    )
    last = of_carry.unflatten([a[0] for a in after])
    return last, outputs[0].unflatten([y[0] for y in ys])


def unknown(cell: Cell, x: Any) -> str:
    """What the engine lacks for a cell and an input like ``x``, forward or back.

    >>> import jax.numpy as jnp, rnnjax
    >>> from rnnjax.kernels import native_loop
    >>> native_loop.unknown(rnnjax.conv_lstm((4, 2), 2), jnp.ones((4, 2), jnp.float32))
    'convolution'
    """
    params = jax.eval_shape(cell.init, jax.random.key(0))
    carry = jax.eval_shape(cell.initial_carry, params)
    xs = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), x)
    place = reason(params, carry, xs)
    if place:
        return place
    why: list[str] = []

    def check(loop):
        try:
            _assembled(loop)
        except assembly.Unknown as error:
            why.append(str(error))

    def walked(params, carry, xs):
        return _loop(lambda _, x: x, cell.step, params, carry, xs, check)

    def back(params, carry, xs):
        out, vjp = jax.vjp(walked, params, carry, xs)
        return vjp(out)

    jaxpr = jax.make_jaxpr(back)(params, carry, xs)
    for eqn in jaxpr.eqns:
        for part in ("loop", "maker"):
            if part in eqn.params:
                check(eqn.params[part])
    return why[0] if why else ""
