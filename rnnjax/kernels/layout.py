"""Where the native engine keeps what a step reads, makes and puts out."""

import itertools
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnjax.kernels.lifetimes import Lifetimes
from rnnjax.kernels.loops import Loop
from rnnjax.kernels.nodes import (
    BLOCK,
    BY_ROWS,
    GATHER,
    LANES,
    PRODUCT,
    Node,
    Ref,
    ref_of,
    up,
)

# Where an operand is, as in rnnjax/kernels/src/program.h.
NONE, STORED, NOW, NEXT, TEMPORARY, SHARED, FILLED, NUMBER = range(-1, 7)
INPUT, OUTPUT, SPREAD = range(7, 10)

Place = tuple[int, int, int]
"""Where an operand is, which of several there are, and from which element on."""


class Layout(NamedTuple):
    """Where everything is, and what has to be copied before and after a step.

    Attributes:
      space: the place of each variable; what is missing never leaves its block.
      loads: inputs over time that a step copies first: operation, place, source, size.
      copies: carries and outputs that a step copies last: operation, place, source.
      aliases: inputs, by number, that outputs are written over.
      stored, carries, shared: floats of each kind of memory.
    """

    space: dict[Any, Place]
    loads: list[tuple[str, Place, Place, int]]
    copies: list[tuple[str, Place, Ref]]
    aliases: dict[int, int]
    stored: int
    carries: int
    shared: int


class Memory:
    """Rows of whole vectors, one after the other."""

    def __init__(self) -> None:
        self.floats = 0

    def take(self, size: int) -> int:
        """The first element of a new row."""
        start = self.floats
        self.floats += up(size)
        return start


def lay_out(loop: Loop, groups: list[list[Node]], places: dict[Any, Ref]) -> Layout:
    """A place for each variable of a step whose nodes are done in this order."""
    shared, rows, carry, xs = loop.parts(loop.step.invars)
    nodes = list(itertools.chain.from_iterable(groups))
    stored, carries, constants = Memory(), Memory(), Memory()
    lifetimes = Lifetimes(groups)
    in_place = _in_place(loop, lifetimes, places)
    space: dict[Any, Place] = {}
    for v in carry:
        kind, memory = (STORED, stored) if v in in_place else (NOW, carries)
        space[v] = (kind, 0, memory.take(v.aval.size))
    space |= {made: space[v] for v, made in in_place.items()}
    by_vectors = _by_vectors(nodes)
    copies = list(_results(loop, nodes, places, by_vectors, in_place, space))
    loads = list(_inputs(loop, xs, by_vectors, stored, space))
    for v in rows:
        space[v] = (STORED, 0, stored.take(v.aval.size))
    read = {r.root for n in nodes for r in n.ins} | {r.root for _, _, r in copies}
    for v in shared:
        if v in read:
            kind = FILLED if v.aval.size == 1 else SHARED
            space[v] = (kind, 0, constants.take(v.aval.size))
    _values(groups, [r for _, _, r in copies], stored, space)
    sizes = stored.floats, carries.floats, constants.floats
    aliases = _shared_places(loop, lifetimes, copies, space) if loop.spent else {}
    return Layout(space, loads, copies, aliases, *sizes)


def _in_place(
    loop: Loop, lifetimes: Lifetimes, places: dict[Any, Ref]
) -> dict[Any, Any]:
    """The carries that their next values are written over, and these."""
    _, _, carry, _ = loop.parts(loop.step.invars)
    ends = [ref_of(v, places) for v in loop.step.outvars]
    roots = [r.root for r in ends]
    found: dict[Any, Any] = {}
    for v, r in zip(carry, ends, strict=False):
        size = v.aval.size
        alone = len(lifetimes.makers.get(r.root, ())) == 1 and v not in roots
        whole = r == Ref(r.root, 0, size) and r.root not in found.values()
        if alone and whole and lifetimes.over(v, size, r.root):
            found[v] = r.root
    return found


def _shared_places(
    loop: Loop,
    lifetimes: Lifetimes,
    copies: list[Any],
    space: dict[Any, Place],
) -> dict[int, int]:
    """Inputs over time that nothing else reads, and outputs to be written over them."""
    outvars = loop.step.outvars
    copied = {r.root for _, _, r in copies}
    direct = {place[1]: v for v, place in space.items() if place[0] == OUTPUT}
    found: dict[int, int] = {}
    for i, (v, spent) in enumerate(zip(loop.step.invars, loop.spent, strict=True)):
        if not spent or v.aval.dtype != np.float32 or v in copied:
            continue
        loaded = space.get(v, (STORED, 0, 0))[0] == STORED
        for j, out in enumerate(outvars[loop.carry :], loop.carry):
            fits = out.aval.dtype == v.aval.dtype and out.aval.shape == v.aval.shape
            if not fits or j in found.values():
                continue
            if loaded or lifetimes.over(v, v.aval.size, direct.get(j)):
                found[i] = j
                break
    return found


def _by_vectors(nodes: list[Node]) -> set[Any]:
    """The variables that are read or written past their end, to that of a vector."""
    refs: list[Ref] = []
    for node in nodes:
        if node.kind in (PRODUCT, GATHER):
            refs.append(node.out)
        if node.kind == PRODUCT and node.details[0] is not None:
            refs.append(node.details[0])
        if node.kind == BLOCK and node.op in BY_ROWS:
            refs += node.ins
    past = (r for r in refs if not r.splat and (r.offset % LANES or r.size % LANES))
    return {r.root for r in past}


def _results(
    loop: Loop,
    nodes: list[Node],
    places: dict[Any, Ref],
    by_vectors: Container[Any],
    in_place: Container[Any],
    space: dict[Any, Place],
) -> Iterator[tuple[str, Place, Ref]]:
    """Have carries and outputs written where they are to be; the rest is copied."""
    produced = {n.out.root for n in nodes}

    def whole(r):
        made = not r.splat and r.root in produced and r.root not in space
        return made and (r.offset, r.size) == (0, r.root.aval.size)

    outvars = loop.step.outvars
    for v, after in zip(loop.parts(loop.step.invars)[2], outvars, strict=False):
        if v in in_place:
            continue
        r, at = ref_of(after, places), space[v][2]
        if whole(r):
            space[r.root] = (NEXT, 0, at)
        else:
            yield "copy", (NEXT, 0, at), r
    for i, v in enumerate(outvars[loop.carry :], loop.carry):
        r = ref_of(v, places)
        flags = v.aval.dtype == np.bool_
        if whole(r) and not flags and r.root not in by_vectors:
            space[r.root] = (OUTPUT, i, 0)
        else:
            yield "store_flags" if flags else "copy", (OUTPUT, i, 0), r


def _inputs(
    loop: Loop,
    xs: list[Any],
    by_vectors: Container[Any],
    stored: Memory,
    space: dict[Any, Place],
) -> Iterator[tuple[str, Place, Place, int]]:
    """Have inputs over time read where they are, if that is no more than there is."""
    for i, v in enumerate(xs, len(loop.step.invars) - len(xs)):
        if v.aval.dtype == np.float32 and v not in by_vectors:
            space[v] = (INPUT, i, 0)
        else:
            space[v] = (STORED, 0, stored.take(v.aval.size))
            op = "load_flags" if v.aval.dtype == np.bool_ else "copy"
            yield op, space[v], (INPUT, i, 0), v.aval.size


def _values(
    groups: list[list[Node]],
    copied: list[Ref],
    stored: Memory,
    space: dict[Any, Place],
) -> None:
    """What is read in one block alone, and as it was written, is never stored."""
    readers: dict[Any, list[tuple[int, Ref]]] = {}
    makers: dict[Any, list[tuple[int, Node]]] = {}
    for i, group in enumerate(groups):
        for n in group:
            makers.setdefault(n.out.root, []).append((i, n))
            for r in n.ins:
                readers.setdefault(r.root, []).append((i, r))
    for r in copied:
        readers.setdefault(r.root, []).append((len(groups), r))
    for v, made in makers.items():
        i, first = made[0]
        inside = (
            len(made) == 1
            and first.kind == BLOCK
            and all(
                j == i and not r.splat and (r.offset, r.size) == (0, first.out.size)
                for j, r in readers.get(v, ())
            )
        )
        if v not in space and not inside:
            # Products of several parts write whole vectors past the last one's end.
            most = max(n.out.offset + up(n.out.size) for _, n in made)
            space[v] = (STORED, 0, stored.take(max(v.aval.size, most)))
