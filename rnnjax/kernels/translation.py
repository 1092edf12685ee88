"""From the equations of a step to the nodes that the native engine does."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from rnnjax.kernels import flat
from rnnjax.kernels.loops import Loop
from rnnjax.kernels.moves import MOVES, gathered, move
from rnnjax.kernels.nodes import (
    BLOCK,
    CONTRACT,
    LANES,
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

    strided = _Strided(step)
    for eqn in step.eqns:
        name, out = eqn.primitive.name, eqn.outvars[0]
        for v in (*eqn.outvars, *(a for a in eqn.invars if not isinstance(a, Literal))):
            if v.aval.dtype not in (np.float32, np.bool_):
                raise Unknown(f"{name} of {v.aval.dtype}")
        terms = strided.product(eqn)
        if terms is not None and (loops := _contraction(*terms)) is not None:
            factors, details = loops
            ins = [stored(ref(a)) for a in factors]
            if (sizes := _outer(details)) is not None:
                new(BLOCK, "outer", out, [*ins, *sizes])
            else:
                new(CONTRACT, "contract", out, ins, details)
        elif name in MOVES:
            move(eqn, ref, places, nodes)
            strided.follow(eqn)
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
    found = _contraction(a, b, loops, sums)
    if found is None:
        raise Unknown("dot_general over many axes")
    factors, details = found
    new(CONTRACT, "contract", out, map(ref, factors), details)


_Loops = list[tuple[int, int, int]]
"""The sizes of nested loops, and the strides of both factors of a product in them."""


def _contraction(
    a: Any, b: Any, loops: _Loops, sums: _Loops
) -> tuple[list[Any], list[int]] | None:
    """The factors and the details of a CONTRACT node, if it has so many loops."""
    loops, sums, factors = _merged(loops), _merged(sums), [a, b]
    if len(loops) > 3 or len(sums) > 2:
        return None
    loops = [(1, 0, 0)] * (3 - len(loops)) + loops
    sums = [(1, 0, 0)] * (2 - len(sums)) + sums
    if loops[-1][1:] == (1, 0):
        factors.reverse()
        loops, sums = ([(n, sb, sa) for n, sa, sb in part] for part in (loops, sums))
    return factors, [x for one in (*loops, *sums) for x in one]


def _outer(details: list[int]) -> list[Ref] | None:
    """The sizes of an outer product that a block can do, vector by vector."""
    (i, ai, bi), (j, aj, bj), (l, al, bl) = zip(*[iter(details[:9])] * 3, strict=True)
    plain = (al, bl, aj, bj) == (0, 1, 1, 0) and (i == 1 or (ai, bi) == (j, l))
    if not plain or details[9:] != [1, 0, 0] * 2 or l % LANES:
        return None
    return [Ref(float(n), splat=True) for n in (l, j)]


class _Strided:
    """Products of arrays that were broadcast, and sums of products, in a step.

    They are done without the broadcast array, or the product, ever being there.
    """

    def __init__(self, step: Any):
        self.makers = {v: eqn for eqn in step.eqns for v in eqn.outvars}
        reads = [v for eqn in step.eqns for v in flat.variables(eqn.invars)]
        self.reads = Counter([*reads, *flat.variables(step.outvars)])
        self.sources: dict[Any, tuple[Any, list[int]]] = {}

    def follow(self, eqn: Any) -> None:
        """Note of a broadcast where its elements come from."""
        source = eqn.invars[0]
        if eqn.primitive.name != "broadcast_in_dim" or isinstance(source, Literal):
            return
        base, strides = self._source(source)
        spread = [0] * len(eqn.params["shape"])
        along = zip(
            eqn.params["broadcast_dimensions"], source.aval.shape, strides, strict=True
        )
        for axis, size, stride in along:
            spread[axis] = stride if size > 1 else 0
        if any(spread):
            self.sources[eqn.outvars[0]] = base, spread

    def product(self, eqn: Any) -> tuple[Any, Any, _Loops, _Loops] | None:
        """An outer product, or a sum of products: factors, loops and loops of sums."""
        summed: Sequence[int] = ()
        if eqn.primitive.name == "reduce_sum":
            summed = eqn.params["axes"]
            eqn = self.makers.get(eqn.invars[0])
            if eqn is None or self.reads[eqn.outvars[0]] > 1:
                return None
        if eqn.primitive.name != "mul" or any(
            isinstance(a, Literal) for a in eqn.invars
        ):
            return None
        (a, along_a), (b, along_b) = map(self._source, eqn.invars)
        shape = eqn.outvars[0].aval.shape
        none = [0] * len(shape)  # a number among arrays has no axes
        every = list(zip(shape, along_a or none, along_b or none, strict=True))
        loops = [every[i] for i in range(len(shape)) if i not in summed]
        outer = every and every[-1][1:] in ((0, 1), (1, 0))
        if not summed and not (outer and any(along_a) and any(along_b)):
            return None
        return a, b, loops, [every[i] for i in summed]

    def _source(self, atom: Any) -> tuple[Any, list[int]]:
        """Where an array is, and the strides of its axes: none where it is repeated."""
        shape = atom.aval.shape
        along = zip(shape, _strides(shape), strict=True)
        return self.sources.get(atom) or (atom, [s if n > 1 else 0 for n, s in along])


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _merged(loops: _Loops) -> _Loops:
    """Without axes of one element, and neighbours as one where they can be."""
    merged: _Loops = []
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
