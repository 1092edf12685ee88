"""What there is to do in a step of a loop, for the native engine: its nodes.

The engine keeps each value of a step as rows of floats, padded to whole vectors, and
flags as 0 and 1. What is done is a product with weights, or an elementwise operation in
a *block* of others of its width, or one of a few that are rare.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal

LANES = 16  # what every width is padded to: the widest vector of any machine

# What a node is, as in rnnjax/kernels/src/program.h.
BLOCK, PRODUCT, REDUCE, GATHER, CONTRACT = range(5)

# The operations of a block that read elements of other numbers than they write, but of
# so many of their operands.
BY_ROWS = {
    **{"outer": 0, "repeat": 0, "tile": 0},
    **{"add_outer": 1, "rows_gated_add_outer": 1, "matrices_gated_add_outer": 1},
    **{"gated_add_outer": 2, "multiply_repeated": 1, "multiply_add_repeated": 2},
}
LONG = 8  # what their rows are at least; shorter ones are not worth the turns


class Unknown(Exception):
    """The engine has no such operation."""


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


class Term(NamedTuple):
    """A product that is added to others: of a vector and a matrix of weights."""

    moving: Ref
    weights: Ref
    rows: int
    columns: int
    turned: bool
    negative: bool = False


def ref_of(atom: Any, places: dict[Any, Ref]) -> Ref:
    """Where an operand of an equation is."""
    if isinstance(atom, Literal):
        return Ref(float(atom.val), 0, np.size(atom.val), True)
    return places[atom]


def up(size: int) -> int:
    """The floats of the whole vectors that hold so many."""
    return -(-size // LANES) * LANES


def by_vectors(out: Ref, whole: int) -> bool:
    """Whether whole vectors are written over nothing but this part of so many."""
    last = out.offset + out.size == whole
    return out.offset % LANES == 0 and (out.size % LANES == 0 or last)


def scheduled(nodes: list[Node]) -> list[list[Node]]:
    """Groups of nodes in order; one of several nodes is a block of one width.

    A block is one pass over what it reads, so there are to be few.
    """
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

    def ready(node, block, done):
        """Whether a node can be done in a block, after what is done."""
        for r in node.ins:
            for w in before(r):
                if id(w) in done:
                    continue
                same = (w.out.offset, w.out.size) == (r.offset, r.size)
                if id(w) not in block or r.splat or not same:
                    return False
        return True

    def block_of(width, last):
        """All of a width that can be done now, or after all else that can be."""
        block: dict[int, Node] = {}
        before_it = set(done)
        for n in waiting:
            if n.kind == BLOCK and n.out.size == width:
                if ready(n, block, before_it):
                    block[id(n)] = n
            elif last and ready(n, (), before_it):
                before_it.add(id(n))
        return list(block.values())

    while waiting:
        rare = (n for n in waiting if n.kind != BLOCK)
        group = next(([n] for n in rare if ready(n, (), done)), [])
        if not group:
            # One that waiting would make no longer, or else the longest.
            widths = dict.fromkeys(n.out.size for n in waiting if n.kind == BLOCK)
            blocks = [(block_of(n, last=False), block_of(n, last=True)) for n in widths]
            group, _ = max(
                (pair for pair in blocks if pair[0]),
                key=lambda pair: (len(pair[0]) == len(pair[1]), len(pair[0])),
                default=([], []),
            )
        assert group, "a step that reads what it has not made"
        done.update(map(id, group))
        taken = set(map(id, group))
        waiting = [n for n in waiting if id(n) not in taken]
        groups.append(group)
    return groups
