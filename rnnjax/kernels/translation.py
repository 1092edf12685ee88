"""From the equations of a step to the nodes that the native engine does."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from rnnjax.kernels.loops import Loop
from rnnjax.kernels.moves import MOVES, gathered, move
from rnnjax.kernels.nodes import (
    BLOCK,
    CONTRACT,
    PRODUCT,
    REDUCE,
    Made,
    Node,
    Ref,
    Unknown,
    ref_of,
)

# What the engine calls the elementwise primitives of JAX, where it is not the same.
_NAMES = {"add_any": "add", "and": "min", "or": "max", "xor": "ne"}


def translate(loop: Loop, operations: Sequence[str]) -> tuple[list[Node], Any]:
    """The nodes of a step, and where its variables are found.

    Raises:
      Unknown: for an equation that none of them does.
    """
    step = loop.step
    places = {v: Ref(v, 0, v.aval.size) for v in step.invars}
    nodes: list[Node] = []

    def ref(atom):
        return ref_of(atom, places)

    def placed(atom):
        """An operand whose elements are in another order, or repeated."""

        def moved(order, shape):
            r = ref(atom)
            if atom.aval.shape == shape or r.splat:
                return r._replace(size=math.prod(shape))
            numbers = np.arange(atom.aval.size).reshape(atom.aval.shape)
            made = Made(jax.ShapeDtypeStruct(shape, atom.aval.dtype), object())
            starts = np.array([0, atom.aval.size])
            return gathered(made, order(numbers).ravel(), [r], starts, places, nodes)

        return moved

    def stored(r):
        """An element that is read as many, as many: only blocks know of the former."""
        if not r.splat:
            return r
        made = Made(jax.ShapeDtypeStruct((r.size,), np.float32), object())
        nodes.append(Node(BLOCK, "copy", Ref(made, 0, r.size), (r,)))
        return nodes[-1].out

    def new(kind, op, v, ins, details=()):
        places[v] = Ref(v, 0, v.aval.size)
        nodes.append(Node(kind, op, places[v], tuple(ins), tuple(details)))

    for eqn in step.eqns:
        name, out = eqn.primitive.name, eqn.outvars[0]
        for v in (*eqn.outvars, *(a for a in eqn.invars if not isinstance(a, Literal))):
            if v.aval.dtype not in (np.float32, np.bool_):
                raise Unknown(f"{name} of {v.aval.dtype}")
        if name in MOVES:
            move(eqn, ref, places, nodes)
        elif name == "dot_general":
            _multiply(
                eqn, lambda a: stored(ref(a)), set(step.invars[: loop.shared]), new
            )
        elif name in ("reduce_sum", "reduce_max", "reduce_min"):
            source, sizes = _reduced(eqn, placed(eqn.invars[0]))
            if sizes[1] == 1:
                places[out] = source
                continue
            new(REDUCE, name, out, [stored(source)], sizes)
        elif name == "convert_element_type":
            if out.aval.dtype == np.bool_:
                new(BLOCK, "ne", out, [ref(eqn.invars[0]), Ref(0.0, splat=True)])
            else:
                places[out] = ref(eqn.invars[0])
        else:
            known = _NAMES.get(name, name) in (*operations, "integer_pow", "square")
            if not known or len(eqn.invars) > 3:
                raise Unknown(name)
            shape = out.aval.shape
            spread = functools.partial(np.broadcast_to, shape=shape)
            ins = [placed(a)(spread, shape) for a in eqn.invars]
            _elementwise(eqn, ins, new)
    return nodes, places


def _elementwise(eqn: Any, ins: list[Ref], new: Callable) -> None:
    name, out = eqn.primitive.name, eqn.outvars[0]
    if name == "square" or (name == "integer_pow" and eqn.params["y"] == 2):
        return new(BLOCK, "mul", out, [ins[0], ins[0]])
    if name == "integer_pow":
        return new(
            BLOCK, "power", out, [ins[0], Ref(float(eqn.params["y"]), splat=True)]
        )
    new(BLOCK, _NAMES.get(name, name), out, ins)


def _reduced(eqn: Any, placed: Callable) -> tuple[Ref, tuple[int, int, int]]:
    """What is reduced, and its ``(outer, reduced, inner)`` sizes."""
    shape, axes = eqn.invars[0].aval.shape, sorted(eqn.params["axes"])
    if axes == list(range(axes[0], axes[-1] + 1)):
        source = placed(lambda numbers: numbers, shape)
        ends = axes[0], axes[-1] + 1
        parts = shape[: ends[0]], shape[slice(*ends)], shape[ends[1] :]
    else:
        kept = [i for i in range(len(shape)) if i not in axes]
        turned = tuple(shape[i] for i in (*kept, *axes))
        source = placed(lambda numbers: numbers.transpose(*kept, *axes), turned)
        parts = turned[: len(kept)], turned[len(kept) :], ()
    return source, (math.prod(parts[0]), math.prod(parts[1]), math.prod(parts[2]))


def _multiply(eqn: Any, ref: Callable, shared: set[Any], new: Callable) -> None:
    a, b = eqn.invars
    (ca, cb), (ba, bb) = eqn.params["dimension_numbers"]
    out = eqn.outvars[0]
    if isinstance(a, Literal) or isinstance(b, Literal):
        raise Unknown("dot_general with a number")
    fixed = b if b in shared else a if a in shared else None
    moving = a if fixed is b else b
    if fixed is not None and len(ca) == 1 and not ba and moving.aval.ndim == 1:
        contracted = (cb if fixed is b else ca)[0]
        if fixed.aval.ndim == 2:
            k, n = fixed.aval.shape[contracted], fixed.aval.shape[1 - contracted]
            return new(
                PRODUCT, "sum", out, [ref(moving), ref(fixed)], [k, n, contracted]
            )
    shapes = a.aval.shape, b.aval.shape
    strides = [_strides(shape) for shape in shapes]
    free = [
        [i for i in range(len(shape)) if i not in (*c, *d)]
        for shape, c, d in zip(shapes, (ca, cb), (ba, bb), strict=True)
    ]
    loops = [
        *(
            (shapes[0][i], strides[0][i], strides[1][j])
            for i, j in zip(ba, bb, strict=True)
        ),
        *((shapes[0][i], strides[0][i], 0) for i in free[0]),
        *((shapes[1][j], 0, strides[1][j]) for j in free[1]),
    ]
    sums = [
        (shapes[0][i], strides[0][i], strides[1][j])
        for i, j in zip(ca, cb, strict=True)
    ]
    loops, sums = _merged(loops), _merged(sums)
    if len(loops) > 3 or len(sums) > 2:
        raise Unknown("dot_general over many axes")
    loops = [(1, 0, 0)] * (3 - len(loops)) + loops
    sums = [(1, 0, 0)] * (2 - len(sums)) + sums
    factors = [ref(a), ref(b)]
    if loops[-1][1:] == (1, 0):
        factors.reverse()
        loops, sums = ([(n, sb, sa) for n, sa, sb in part] for part in (loops, sums))
    details = [x for one in (*loops, *sums) for x in one]
    new(CONTRACT, "contract", out, factors, details)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _merged(loops: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Without axes of one element, and neighbours as one where they can be."""
    merged: list[tuple[int, int, int]] = []
    for size, sa, sb in loops:
        if size == 1:
            continue
        if merged:
            before, pa, pb = merged[-1]
            if pa == size * sa and pb == size * sb:
                merged[-1] = (before * size, sa, sb)
                continue
        merged.append((size, sa, sb))
    return merged
