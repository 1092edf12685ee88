"""What only moves elements, which is mostly no work for the native engine.

A slice is another place to read, and a part of a concatenation another place to write.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rnnjax.kernels.nodes import (
    BLOCK,
    GATHER,
    LONG,
    PRODUCT,
    Made,
    Node,
    Ref,
    Unknown,
    by_vectors,
    up,
)

# The primitives that move elements: the numbers of the elements of each result, from
# those of the operands.
MOVES: dict[str, Callable[..., Any]] = {
    "reshape": lambda e, a: [a.reshape(e.outvars[0].aval.shape)],
    "squeeze": lambda e, a: [a.reshape(e.outvars[0].aval.shape)],
    "expand_dims": lambda e, a: [a.reshape(e.outvars[0].aval.shape)],
    "name": lambda e, a: [a],
    "copy": lambda e, a: [a],
    "stop_gradient": lambda e, a: [a],
    "optimization_barrier": lambda e, *a: list(a),
    "broadcast_in_dim": lambda e, a: [_broadcast(e, a)],
    "slice": lambda e, a: [a[_slices(e)]],
    "split": lambda e, a: np.split(
        a, np.cumsum(e.params["sizes"])[:-1], e.params["axis"]
    ),
    "transpose": lambda e, a: [a.transpose(e.params["permutation"])],
    "rev": lambda e, a: [np.flip(a, e.params["dimensions"])],
    "concatenate": lambda e, *a: [np.concatenate(a, e.params["dimension"])],
    "unstack": lambda e, a: list(np.moveaxis(a, e.params["axis"], 0)),
    "stack": lambda e, *a: [np.stack(a, e.params["axis"])],
    "pad": lambda e, a, value: [_padded(e, a, value)],
}


def _broadcast(eqn: Any, a: np.ndarray) -> np.ndarray:
    shape = eqn.params["shape"]
    there = eqn.params["broadcast_dimensions"]
    own = [1] * len(shape)
    for axis, size in zip(there, a.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(a.reshape(own), shape)


def _slices(eqn: Any) -> tuple[slice, ...]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return tuple(map(slice, p["start_indices"], p["limit_indices"], strides))


def _padded(eqn: Any, a: np.ndarray, value: np.ndarray) -> np.ndarray:
    config = eqn.params["padding_config"]
    if any(low < 0 or high < 0 or inside for low, high, inside in config):
        raise Unknown("pad with holes")
    return np.pad(a, [c[:2] for c in config], constant_values=value.item())


def move(eqn: Any, ref: Callable, places: dict, nodes: list[Node]) -> None:
    """Say where the results of an equation that only moves elements are."""
    refs = [ref(a) for a in eqn.invars]
    sizes = [a.aval.size for a in eqn.invars]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    numbers = [
        start + np.arange(size).reshape(a.aval.shape)
        for start, size, a in zip(starts[:-1], sizes, eqn.invars, strict=True)
    ]
    for v, order in zip(
        eqn.outvars, MOVES[eqn.primitive.name](eqn, *numbers), strict=True
    ):
        places[v] = gathered(v, order.ravel(), refs, starts, places, nodes)


def gathered(
    v: Any, order: np.ndarray, refs: list[Ref], starts: Any, places: dict, nodes: Any
) -> Ref:
    """Where the elements ``order`` of several runs are: there, or in a new variable."""
    if order.size == 0:
        raise Unknown("array without elements")

    def read(first, size):
        i = int(np.searchsorted(starts, first, side="right")) - 1
        r = refs[i]
        if r.splat:
            return r._replace(size=size)
        return Ref(r.root, r.offset + int(first - starts[i]), size)

    operand = np.searchsorted(starts, order, side="right")
    splats = np.array([r.splat for r in refs])[operand - 1]
    if (order == order[0]).all() or (splats.all() and (operand == operand[0]).all()):
        one = read(order[0], 1)
        return one._replace(size=order.size, splat=one.splat or order.size > 1)
    spread = splats[1:]  # all elements of such an operand are the same
    follows = ((np.diff(order) == 1) | spread) & (np.diff(operand) == 0)
    firsts = [0, *(np.flatnonzero(~follows) + 1)]
    if len(firsts) == 1:
        return read(order[0], order.size)
    whole = Ref(v, 0, order.size)
    used = sorted(set((operand - 1).tolist()))
    one = len(used) == 1 and not refs[used[0]].splat
    spread = _rows(order) if one else None
    if spread is not None:
        op, count, *sizes = spread
        ins = read(order[0], count), *(Ref(float(n), splat=True) for n in sizes)
        nodes.append(Node(BLOCK, op, whole, ins))
        return whole
    if len(firsts) <= 16 and (not one or len(firsts) < order.size):
        at = 0
        for first, end in itertools.pairwise([*firsts, order.size]):
            piece = read(order[first], end - first)
            # What is a piece twice may have gone to the place of the first.
            root, start, _, _ = places.get(piece.root, Ref(piece.root))
            piece = piece._replace(root=root, offset=start + piece.offset)
            if not _placed(v, at, piece, order.size, places, nodes):
                out = Ref(v, at, piece.size)
                nodes.append(Node(BLOCK, "copy", out, (piece,)))
            at += piece.size
        return whole
    if one:
        r, index = refs[used[0]], order - starts[used[0]]
    else:
        r, index = _joined(used, operand - 1, order - starts[operand - 1], refs, nodes)
    nodes.append(Node(GATHER, "gather", whole, (r,), tuple(index.tolist())))
    return whole


def _joined(
    used: list[int], operand: np.ndarray, index: np.ndarray, refs: list[Ref], nodes: Any
) -> tuple[Ref, np.ndarray]:
    """One run of several operands, and where in it elements of them are."""
    sizes = [1 if refs[i].splat else refs[i].size for i in used]
    firsts = np.cumsum([0, *map(up, sizes)])
    made = Made(jax.ShapeDtypeStruct((int(firsts[-1]),), np.float32), object())
    place = np.empty_like(index)
    for i, size, first in zip(used, sizes, firsts, strict=False):
        piece = refs[i]._replace(size=size)
        nodes.append(Node(BLOCK, "copy", Ref(made, int(first), size), (piece,)))
        here = operand == i
        place[here] = first if refs[i].splat else first + index[here]
    return Ref(made, 0, int(firsts[-1])), place


def _rows(order: np.ndarray) -> tuple[str, int, int, int] | None:
    """Whether elements are repeated, each or rows of them, in long rows.

    That is the operation, of how many elements, and the sizes that it asks for.
    """
    steps = np.diff(order)
    width = int(np.argmax(steps != steps[0])) + 1
    if steps[0] not in (0, 1) or width < LONG or order.size % width:
        return None
    rows = order.reshape(-1, width)
    if steps[0] == 0:
        each = (rows == order[0] + np.arange(len(rows))[:, None]).all()
        return ("repeat", len(rows), width, len(rows)) if each else None
    starts = rows[:, 0] - order[0]
    height = int(np.argmax(starts != 0)) or len(rows)
    blocks = np.arange(len(rows)) // height
    whole = (rows == order[0] + blocks[:, None] * width + np.arange(width)).all()
    return ("tile", (blocks[-1] + 1) * width, width, height) if whole else None


def _placed(
    v: Any, at: int, piece: Ref, whole: int, places: dict, nodes: list[Node]
) -> bool:
    """Have a piece written where it is to be, if nothing speaks against it."""
    root = piece.root
    if piece.splat or isinstance(root, float) or root is v:
        return False
    if piece.offset:
        return False
    makers = [i for i, node in enumerate(nodes) if node.out.root is root]
    if len(makers) != 1 or nodes[makers[0]].out.size != piece.size:
        return False
    kind = nodes[makers[0]].kind
    if kind not in (BLOCK, PRODUCT):
        return False
    there = Ref(v, at, piece.size)
    if kind == PRODUCT and not by_vectors(there, whole):
        return False

    def moved(r):
        if r.root is not root:
            return r
        return r._replace(root=v, offset=at + r.offset)

    for i, node in enumerate(nodes):
        nodes[i] = node._replace(out=moved(node.out), ins=tuple(map(moved, node.ins)))
    for variable, r in places.items():
        places[variable] = moved(r)
    places[root] = there
    return True
