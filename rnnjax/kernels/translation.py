"""From the equations of a step to the nodes that the native engine does."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from rnnjax.kernels import contractions
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

    def contract(out, work):
        ins, rows = [stored(ref(a)) for a in work.factors], work.rows()
        if rows is None:
            return new(CONTRACT, "contract", out, ins, work.details)
        new(BLOCK, "outer", out, [*ins, *(Ref(float(n), splat=True) for n in rows)])

    products = contractions.Products(step)
    shared = set(step.invars[: loop.shared])
    for eqn in step.eqns:
        name, out = eqn.primitive.name, eqn.outvars[0]
        for v in (*eqn.outvars, *(a for a in eqn.invars if not isinstance(a, Literal))):
            if v.aval.dtype not in (np.float32, np.bool_):
                raise Unknown(f"{name} of {v.aval.dtype}")
        found = products.contraction(eqn)
        work = found.work() if found is not None else None
        if work is not None and not work.scaled():
            contract(out, work)
        elif name in MOVES:
            move(eqn, ref, places, nodes)
            products.follow(eqn)
        elif name == "dot_general":
            weights = _weights(eqn, shared)
            if weights is None:
                contract(out, _between_values(eqn))
            else:
                moving, fixed, details = weights
                ins = [stored(ref(moving)), ref(fixed)]
                new(PRODUCT, "sum", out, ins, details)
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
            known = {*operations, "integer_pow", "square", "one_minus_square"}
            if _NAMES.get(name, name) not in known or len(eqn.invars) > 3:
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
    if name == "one_minus_square":
        one = Ref(1.0, splat=True)
        return new(BLOCK, "subtract_product", out, [ins[0], ins[0], one])
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


def _weights(eqn: Any, shared: set[Any]) -> tuple[Any, Any, list[int]] | None:
    """The vector, the weights, and their rows, columns and whether they are turned."""
    a, b = eqn.invars
    (summed_a, summed_b), (blocks, _) = eqn.params["dimension_numbers"]
    if isinstance(a, Literal) or isinstance(b, Literal):
        raise Unknown("dot_general with a number")
    moving, fixed, summed = (a, b, summed_b) if b in shared else (b, a, summed_a)
    ranks = moving.aval.ndim, fixed.aval.ndim
    if fixed not in shared or ranks != (1, 2) or len(summed) != 1 or blocks:
        return None
    k, n = fixed.aval.shape[summed[0]], fixed.aval.shape[1 - summed[0]]
    return moving, fixed, [k, n, summed[0]]


def _between_values(eqn: Any) -> contractions.Work:
    work = contractions.of_product(eqn).work()
    if work is None:
        raise Unknown("dot_general over many axes")
    return work
