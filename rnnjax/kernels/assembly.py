"""From the step of a loop to the program that the native engine runs.

The engine keeps each value of a step as rows of floats, padded to whole vectors, and
flags as 0 and 1. What moves elements is mostly no work: a slice is another place to
read, a part of a concatenation another place to write. What is left are products with
weights and *blocks*, elementwise operations of one width that are done strip by strip,
so that values inside a block never leave the first-level cache.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from rnnjax.kernels import flat
from rnnjax.kernels.loops import Loop

LANES = 16  # what every width is padded to: the widest vector of any machine

# Where an operand is, as in rnnjax/kernels/src/program.h.
NONE, STORED, NOW, NEXT, TEMPORARY, SHARED, FILLED, NUMBER, INPUT, OUTPUT = range(-1, 9)
BLOCK, PRODUCT, REDUCE, GATHER, CONTRACT = range(5)


class Unknown(Exception):
    """The engine has no such operation."""


class Program(NamedTuple):
    """What the engine is told: whole numbers, and the floats among the operands."""

    code: np.ndarray
    numbers: np.ndarray


class Ref(NamedTuple):
    """A run of elements of a variable; splat, one element read as any number."""

    root: Any  # a variable, or a float
    offset: int = 0
    size: int = 1
    splat: bool = False


class Made(NamedTuple):
    """A variable that the step does not have; no other one equals it."""

    aval: Any
    mark: object


class Node(NamedTuple):
    """One thing to do; elementwise if its kind is BLOCK."""

    kind: int
    op: Any
    out: Ref
    ins: tuple[Ref, ...]
    details: tuple[Any, ...] = ()


# What the engine calls the elementwise primitives of JAX, where it is not the same.
_NAMES = {"add_any": "add", "and": "min", "or": "max", "xor": "ne"}

# The primitives that move elements: the numbers of the elements of each result, from
# those of the operands.
_MOVES: dict[str, Callable[..., Any]] = {
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


def assemble(loop: Loop, operations: Sequence[str]) -> Program:
    """The program of a loop for an engine with these elementwise operations.

    Raises:
      Unknown: it has no such operation, or not for these arrays.
    """
    # What has a derivative of its own is needed whole no longer.
    step, consts = flat.trace(
        flat.as_fun(loop.step), [v.aval for v in loop.step.invars]
    )
    if consts:
        raise Unknown("array in a function with its own derivative")
    loop = loop._replace(step=step)
    for v in (*step.invars, *step.outvars):
        if v.aval.dtype not in (np.float32, np.bool_):
            raise Unknown(f"array of {v.aval.dtype}")
    nodes, alias = _nodes(loop, operations)
    return _emit(loop, _scheduled(nodes), alias, operations)


# ---- from equations to nodes ----


def _nodes(loop: Loop, operations: Sequence[str]) -> tuple[list[Node], Any]:
    step = loop.step
    places = {v: Ref(v, 0, v.aval.size) for v in step.invars}
    nodes: list[Node] = []

    def ref(atom):
        return _ref(atom, places)

    def placed(atom):
        """An operand whose elements are in another order, or repeated."""

        def moved(order, shape):
            r = ref(atom)
            if atom.aval.shape == shape or r.splat:
                return r._replace(size=math.prod(shape))
            numbers = np.arange(atom.aval.size).reshape(atom.aval.shape)
            made = Made(jax.ShapeDtypeStruct(shape, atom.aval.dtype), object())
            starts = np.array([0, atom.aval.size])
            return _gathered(made, order(numbers).ravel(), [r], starts, places, nodes)

        return moved

    def new(kind, op, v, ins, details=()):
        places[v] = Ref(v, 0, v.aval.size)
        nodes.append(Node(kind, op, places[v], tuple(ins), tuple(details)))

    for eqn in step.eqns:
        name, out = eqn.primitive.name, eqn.outvars[0]
        for v in (*eqn.outvars, *(a for a in eqn.invars if not isinstance(a, Literal))):
            if v.aval.dtype not in (np.float32, np.bool_):
                raise Unknown(f"{name} of {v.aval.dtype}")
        if name in _MOVES:
            _move(eqn, ref, places, nodes)
        elif name == "dot_general":
            _multiply(eqn, ref, set(step.invars[: loop.shared]), new)
        elif name in ("reduce_sum", "reduce_max", "reduce_min"):
            source, sizes = _reduced(eqn, placed(eqn.invars[0]))
            new(REDUCE, name, out, [source], sizes)
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
    return _joined(nodes, step), places


def _ref(atom: Any, places: dict[Any, Ref]) -> Ref:
    """Where an operand of an equation is."""
    if isinstance(atom, Literal):
        return Ref(float(atom.val), 0, np.size(atom.val), True)
    return places[atom]


def _elementwise(eqn: Any, ins: list[Ref], new: Callable) -> None:
    name, out = eqn.primitive.name, eqn.outvars[0]
    if name == "square" or (name == "integer_pow" and eqn.params["y"] == 2):
        return new(BLOCK, "mul", out, [ins[0], ins[0]])
    if name == "integer_pow":
        return new(
            BLOCK, "power", out, [ins[0], Ref(float(eqn.params["y"]), splat=True)]
        )
    new(BLOCK, _NAMES.get(name, name), out, ins)


def _move(eqn: Any, ref: Callable, places: dict, nodes: list[Node]) -> None:
    refs = [ref(a) for a in eqn.invars]
    sizes = [a.aval.size for a in eqn.invars]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    numbers = [
        start + np.arange(size).reshape(a.aval.shape)
        for start, size, a in zip(starts[:-1], sizes, eqn.invars, strict=True)
    ]
    for v, order in zip(
        eqn.outvars, _MOVES[eqn.primitive.name](eqn, *numbers), strict=True
    ):
        places[v] = _gathered(v, order.ravel(), refs, starts, places, nodes)


def _gathered(
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
    follows = (np.diff(order) == 1) & (np.diff(operand) == 0)
    ends = [*(np.flatnonzero(~follows) + 1), order.size]
    first, pieces = 0, []
    for end in ends:
        pieces.append(read(order[first], end - first))
        first = end
    if len(pieces) == 1:
        return pieces[0]
    whole = Ref(v, 0, order.size)
    if len(pieces) <= 16 and any(p.size > 1 for p in pieces):
        at = 0
        for piece in pieces:
            if not _placed(v, at, piece, order.size, places, nodes):
                out = Ref(v, at, piece.size)
                nodes.append(Node(BLOCK, "copy", out, (piece,)))
            at += piece.size
        return whole
    used = sorted(set((operand - 1).tolist()))
    if len(used) > 1 or refs[used[0]].splat:
        raise Unknown(f"mixture of {len(pieces)} pieces")
    r = refs[used[0]]
    index = tuple((order - starts[used[0]]).tolist())
    nodes.append(Node(GATHER, "gather", whole, (r,), index))
    return whole


def _placed(
    v: Any, at: int, piece: Ref, whole: int, places: dict, nodes: list[Node]
) -> bool:
    """Have a piece written where it is to be, if nothing speaks against it."""
    root = piece.root
    if piece.splat or piece.offset or at % LANES or isinstance(root, float):
        return False
    if piece.size % LANES and at + piece.size < whole:
        return False
    makers = [i for i, node in enumerate(nodes) if node.out.root is root]
    if len(makers) != 1 or nodes[makers[0]].out.size != piece.size:
        return False
    if nodes[makers[0]].kind not in (BLOCK, PRODUCT):
        return False
    there = Ref(v, at, piece.size)

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
    if len(loops) > 3 or len(sums) > 1:
        raise Unknown("dot_general over many axes")
    loops = [(1, 0, 0)] * (3 - len(loops)) + loops
    sums = sums or [(1, 0, 0)]
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


def _joined(nodes: list[Node], step: Any) -> list[Node]:
    """Sums of products, and of a product and what is there, as one product."""
    reads: dict[Any, int] = {}
    for node in nodes:
        for r in node.ins:
            reads[r.root] = reads.get(r.root, 0) + 1
    results = {id(v) for v in step.outvars}
    made: dict[Any, Node] = {}
    left = []
    for node in nodes:
        if node.kind == PRODUCT:
            terms = ((node.ins[0], node.ins[1], node.details),)
            node = node._replace(ins=(), details=(None, terms))
        elif node.kind == BLOCK and node.op == "add":
            parts = [
                made.get(r.root)
                if reads[r.root] == 1 and id(r.root) not in results
                else None
                for r in node.ins
            ]
            parts = [
                p if p is not None and p.out == r else None
                for p, r in zip(parts, node.ins, strict=True)
            ]
            joined = _sum(node, parts)
            if joined is not None:
                for p in parts:
                    if p is not None and p in left and p.out.root in joined[1]:
                        left.remove(p)
                node = joined[0]
        if node.kind == PRODUCT:
            made[node.out.root] = node
        left.append(node)
    return [_with_reads(node) for node in left]


def _sum(node: Node, parts: list[Node | None]) -> tuple[Node, set[Any]] | None:
    present = [p for p in parts if p is not None]
    if not present:
        return None
    if len(present) == 2:
        starts = [p.details[0] for p in present if p.details[0] is not None]
        if len(starts) < 2:
            terms = present[0].details[1] + present[1].details[1]
            start = starts[0] if starts else None
            roots = {p.out.root for p in present}
            return Node(PRODUCT, "sum", node.out, (), (start, terms)), roots
        present = present[:1]
    product = present[0]
    other = node.ins[1] if product is parts[0] else node.ins[0]
    if product.details[0] is not None or other.splat:
        return None
    details = (other, product.details[1])
    return Node(PRODUCT, "sum", node.out, (), details), {product.out.root}


def _with_reads(node: Node) -> Node:
    if node.kind != PRODUCT:
        return node
    start, terms = node.details
    ins = [r for r, _, _ in terms] + ([] if start is None else [start])
    return node._replace(ins=tuple(ins))


# ---- the order ----


def _scheduled(nodes: list[Node]) -> list[list[Node]]:
    """Groups of nodes in order; one of several nodes is a block of one width."""
    writers: dict[Any, list[Node]] = {}
    for node in nodes:
        writers.setdefault(node.out.root, []).append(node)

    def before(r):
        """The nodes that write what is read."""
        return [
            w
            for w in writers.get(r.root, ())
            if w.out.offset < r.offset + r.size and r.offset < w.out.offset + w.out.size
        ]

    done: set[int] = set()
    waiting = list(nodes)
    groups = []

    def ready(node, block):
        for r in node.ins:
            for w in before(r):
                if id(w) in done:
                    continue
                same = (w.out.offset, w.out.size) == (r.offset, r.size)
                if id(w) not in block or r.splat or not same:
                    return False
        return True

    while waiting:
        group = next(([n] for n in waiting if n.kind != BLOCK and ready(n, ())), [])
        if not group:
            best: list[Node] = []
            for width in dict.fromkeys(n.out.size for n in waiting if n.kind == BLOCK):
                block: dict[int, Node] = {}
                for n in waiting:
                    if n.kind == BLOCK and n.out.size == width and ready(n, block):
                        block[id(n)] = n
                if len(block) > len(best):
                    best = list(block.values())
            group = best
        assert group, "a step that reads what it has not made"
        done.update(map(id, group))
        taken = set(map(id, group))
        waiting = [n for n in waiting if id(n) not in taken]
        groups.append(group)
    return groups


# ---- the program ----


def _up(size: int) -> int:
    return -(-size // LANES) * LANES


def _emit(
    loop: Loop, groups: list[list[Node]], places: Any, operations: Sequence[str]
) -> Program:
    step = loop.step
    shared, rows, carry, xs = loop.parts(step.invars)
    number_of: dict[float, int] = {}
    inputs = {v: i for i, v in enumerate(step.invars)}

    # Carries and outputs that a node writes are written where they are to be.
    space: dict[Any, tuple[int, int, int]] = {}
    at = 0
    now = []
    for v in carry:
        now.append(at)
        space[v] = (NOW, 0, at)
        at += _up(v.aval.size)
    carry_floats = at
    produced = {n.out.root for group in groups for n in group}
    copies = []

    starts = [r for g in groups for n in g for r in n.ins if n.kind != PRODUCT]
    starts += [
        n.details[0]
        for g in groups
        for n in g
        if n.kind == PRODUCT and n.details[0] is not None
    ]
    awkward = {
        r.root for r in starts if not r.splat and (r.offset % LANES or r.size % LANES)
    }

    def whole(v):
        r = _ref(v, places)
        return r, not r.splat and r.root in produced and r.offset == 0 and (
            r.size == r.root.aval.size
        )

    for place, v in zip(now, step.outvars[: loop.carry], strict=True):
        r, direct = whole(v)
        if direct and r.root not in space:
            space[r.root] = (NEXT, 0, place)
        else:
            copies.append(("copy", (NEXT, 0, place), r))
    for i, v in enumerate(step.outvars[loop.carry :], loop.carry):
        r, direct = whole(v)
        flags = v.aval.dtype == np.bool_
        if (
            direct
            and r.root not in space
            and r.size % LANES == 0
            and not flags
            and (r.root not in awkward)
        ):
            space[r.root] = (OUTPUT, i, 0)
        else:
            copies.append(("store_flags" if flags else "copy", (OUTPUT, i, 0), r))

    # Inputs over time are read where they are, if vectors end where they end.
    loads = []
    stored = 0
    for i, v in enumerate(xs, len(step.invars) - len(xs)):
        reads = [r for g in groups for n in g for r in n.ins if r.root is v]
        reads += [r for _, _, r in copies if r.root is v]
        products = [
            r
            for g in groups
            for n in g
            if n.kind == PRODUCT
            for r, _, _ in n.details[1]
            if r.root is v
        ]
        direct = v.aval.dtype == np.float32 and all(
            r.splat or not (v.aval.size % LANES or r.offset % LANES or r.size % LANES)
            for r in reads
            if not any(r is p for p in products)
        )
        if direct:
            space[v] = (INPUT, i, 0)
        else:
            space[v] = (STORED, 0, stored)
            stored += _up(v.aval.size)
            op = "load_flags" if v.aval.dtype == np.bool_ else "load"
            loads.append((op, space[v], (INPUT, i, 0), v.aval.size))
    for v in rows:
        space[v] = (STORED, 0, stored)
        stored += _up(v.aval.size)
    shared_floats = 0
    reads = {r.root for g in groups for n in g for r in n.ins}
    reads |= {r.root for _, _, r in copies}
    for v in shared:
        if v in reads:
            if v.aval.size == 1:
                space[v] = (FILLED, 0, shared_floats)
            else:
                space[v] = (SHARED, 0, shared_floats)
            shared_floats += _up(v.aval.size)

    # What is read in one block alone, and as it was written, is never stored.
    readers: dict[Any, list[tuple[int, Ref]]] = {}
    makers: dict[Any, list[tuple[int, Node]]] = {}
    for i, group in enumerate(groups):
        for n in group:
            makers.setdefault(n.out.root, []).append((i, n))
            for r in n.ins:
                readers.setdefault(r.root, []).append((i, r))
    last = len(groups)
    for _, _, r in copies:
        readers.setdefault(r.root, []).append((last, r))
    for v, made in makers.items():
        if v in space:
            continue
        i, first = made[0]
        if (
            len(made) == 1
            and first.kind == BLOCK
            and all(
                j == i and not r.splat and (r.offset, r.size) == (0, first.out.size)
                for j, r in readers.get(v, ())
            )
        ):
            continue
        # Products of several parts write whole vectors past the last one's end.
        size = _up(
            max(v.aval.size, max(n.out.offset + _up(n.out.size) for _, n in made))
        )
        space[v] = (STORED, 0, stored)
        stored += size

    code: list[int] = []
    packs: list[tuple[int, ...]] = []
    cost = 0
    most = 0

    def operand(r, temporaries):
        if isinstance(r.root, float):
            return (NUMBER, number_of.setdefault(r.root, len(number_of)), 0)
        if r.root in temporaries:
            return (TEMPORARY, temporaries[r.root], 0)
        kind, which, offset = space[r.root]
        return (kind, which, offset + r.offset)

    count = 0

    def emit(instruction):
        nonlocal count
        code.extend(instruction)
        count += 1

    def block(width, instructions):
        nonlocal cost
        emit((BLOCK, width, len(instructions)))
        for op, out, *ins in instructions:
            ins = [*ins, *[(NONE, 0, 0)] * (3 - len(ins))]
            code.extend((operations.index(op), *out, *(x for i in ins for x in i)))
        cost += width * len(instructions) * 2

    for op, out, source, size in loads:
        block(size, [(op, out, source)])
    for i, group in enumerate(groups):
        n = group[0]
        if n.kind == BLOCK:
            instructions, used = _block(group, space, readers, i, operand)
            most = max(most, used)
            block(n.out.size, instructions)
            continue
        out = operand(n.out, {})
        if n.kind == PRODUCT:
            start, terms = n.details
            begin = (NONE, 0, 0) if start is None else operand(start, {})
            numbers = []
            for r, w, (k, width, turned) in terms:
                pack = (inputs[w.root], w.offset, k, width, int(turned))
                if pack not in packs:
                    packs.append(pack)
                numbers += [*operand(r, {}), packs.index(pack)]
                cost += k * width
            emit([PRODUCT, n.out.size, *out, *begin, len(terms), *numbers])
        elif n.kind == REDUCE:
            which = ("reduce_sum", "reduce_max", "reduce_min").index(n.op)
            emit([REDUCE, which, *n.details, *out, *operand(n.ins[0], {})])
            cost += n.ins[0].size
        elif n.kind == GATHER:
            emit([GATHER, n.out.size, *out, *operand(n.ins[0], {}), *n.details])
            cost += 2 * n.out.size
        else:
            a, b = (operand(r, {}) for r in n.ins)
            emit([CONTRACT, *n.details, *out, *a, *b])
            cost += n.out.size * n.details[9]
    copied: dict[int, list[Any]] = {}
    for op, out, r in copies:
        place, instructions = operand(r, {}), copied.setdefault(r.size, [])
        if r.splat and place[0] not in (NUMBER, FILLED):
            instructions.append(("splat", (TEMPORARY, 0, 0), place))
            place, most = (TEMPORARY, 0, 0), max(most, 1)
        instructions.append((op, out, place))
    for width, instructions in copied.items():
        block(width, instructions)

    header: list[int] = [
        cost,
        stored,
        carry_floats,
        shared_floats,
        most,
        loop.length,
        int(loop.reverse),
    ]
    header.append(len(step.invars))
    roles = [0] * len(shared) + [1] * len(rows) + [2] * len(carry) + [3] * len(xs)
    for role, v in zip(roles, step.invars, strict=True):
        place = space.get(v, (NONE, 0, -1))
        offset = place[2] if role < 3 else 0
        header += [role, v.aval.size, int(v.aval.dtype == np.bool_), offset]
    header.append(len(step.outvars))
    for i, v in enumerate(step.outvars):
        offset = now[i] if i < loop.carry else -1
        header += [
            int(i >= loop.carry),
            v.aval.size,
            int(v.aval.dtype == np.bool_),
            offset,
        ]
    header.append(len(packs))
    for pack in packs:
        header += pack
    header.append(count)
    numbers = np.array([*number_of, 0.0], np.float32)
    return Program(np.array([*header, *code], np.int64), numbers)


def _block(group, space, readers, number, operand):
    """The instructions of a block, and how many temporaries they take."""
    temporaries: dict[Any, int] = {}
    free: list[int] = []
    used = 0
    ends: dict[Any, int] = {}
    for i, n in enumerate(group):
        for r in n.ins:
            ends[r.root] = i
    instructions = []

    def take():
        nonlocal used
        if free:
            return free.pop()
        used += 1
        return used - 1

    for i, n in enumerate(group):
        spread, ins = [], []
        for r in n.ins:
            place = operand(r, temporaries)
            if r.splat and place[0] not in (NUMBER, FILLED):
                t = take()
                spread.append(t)
                instructions.append(("splat", (TEMPORARY, t, 0), place))
                place = (TEMPORARY, t, 0)
            ins.append(place)
        free.extend(spread)
        over = {r.root for r in n.ins if r.root in temporaries and ends[r.root] == i}
        free.extend(temporaries[v] for v in over)
        if n.out.root not in space:
            temporaries[n.out.root] = take()
        instructions.append((n.op, operand(n.out, temporaries), *ins))
        if n.out.root in temporaries and n.out.root not in ends:
            free.append(temporaries[n.out.root])
    return instructions, used
