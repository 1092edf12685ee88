"""From the step of a loop to the program that the native engine runs.

Blocks of elementwise operations are done strip by strip, so that values inside a block
never leave the first-level cache.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnjax.kernels import flat
from rnnjax.kernels.fusions import fused, joined, needed
from rnnjax.kernels.layout import (
    FILLED,
    INPUT,
    NONE,
    NUMBER,
    OUTPUT,
    SPREAD,
    STORED,
    TEMPORARY,
    Layout,
    Place,
    lay_out,
)
from rnnjax.kernels.loops import Loop
from rnnjax.kernels.nodes import (
    BLOCK,
    CONTRACT,
    GATHER,
    PRODUCT,
    REDUCE,
    Node,
    Ref,
    Unknown,
    ref_of,
    scheduled,
)
from rnnjax.kernels.translation import translate

# What an input or an output is, as in rnnjax/kernels/src/program.h: a carry that has
# one place alone is a row's.
_, ROW, CARRY, TIMED = range(4)

# What an elementwise operation reads at most, and the multiply-adds of a product that
# take as long as it does for one number.
OPERANDS = 6
COST = 8


class Program(NamedTuple):
    """What the engine is told: whole numbers, and the floats among the operands.

    It writes outputs over inputs, by their numbers, that nothing else reads.
    """

    code: np.ndarray
    numbers: np.ndarray
    aliases: dict[int, int]


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
    nodes, places = translate(loop, operations)
    results = {ref_of(v, places).root for v in step.outvars}
    nodes = joined(needed(nodes, results), results)
    groups = fused(scheduled(nodes), results)
    code = _Code(loop, lay_out(loop, groups, places), operations)
    code.load()
    for group in groups:
        code.add(group)
    code.copy()
    return code.program()


class _Code:
    """The instructions of a step, as they are written."""

    def __init__(self, loop: Loop, layout: Layout, operations: Sequence[str]):
        self.loop, self.layout, self.operations = loop, layout, operations
        self.inputs = {v: i for i, v in enumerate(loop.step.invars)}
        self.numbers: dict[float, int] = {}
        self.packs: dict[tuple[int, ...], int] = {}
        self.code: list[int] = []
        self.count = self.cost = self.temporaries = 0

    def load(self) -> None:
        """Copy the inputs that cannot be read where they are."""
        for op, out, source, size in self.layout.loads:
            self._block(size, [(op, False, out, source)])

    def add(self, group: list[Node]) -> None:
        """Do one node, or a block of them."""
        node = group[0]
        if node.kind == BLOCK:
            instructions, used = _block(group, self.layout.space, self._operand)
            self.temporaries = max(self.temporaries, used)
            return self._block(node.out.size, instructions)
        out = self._operand(node.out)
        if node.kind == PRODUCT:
            return self._product(node, out)
        ins = [x for r in node.ins for x in self._operand(r)]
        if node.kind == REDUCE:
            which = ("reduce_sum", "reduce_max", "reduce_min").index(node.op)
            self._emit([REDUCE, which, *node.details, *out, *ins])
            self.cost += node.ins[0].size
        elif node.kind == GATHER:
            self._emit([GATHER, node.out.size, *out, *ins, *node.details])
            self.cost += 2 * node.out.size
        else:
            self._emit([CONTRACT, *node.details, *out, *ins])
            self.cost += node.out.size * node.details[9] * node.details[12]

    def copy(self) -> None:
        """Put carries and outputs where no node has written them."""
        copied: dict[int, list[Any]] = {}
        for op, out, r in self.layout.copies:
            place, instructions = self._operand(r), copied.setdefault(r.size, [])
            if r.splat and place[0] not in (NUMBER, FILLED):
                instructions.append(("splat", False, (SPREAD, 0, 0), place))
                place = (SPREAD, 0, 0)
                self.temporaries = max(self.temporaries, 1)
            instructions.append((op, False, out, place))
        for width, instructions in copied.items():
            self._block(width, instructions)

    def program(self) -> Program:
        """With the header that the engine reads first."""
        loop, layout = self.loop, self.layout
        header = [self.cost, layout.stored, layout.carries, layout.shared]
        header += [self.temporaries, loop.length, int(loop.reverse)]
        invars, outvars = loop.step.invars, loop.step.outvars
        header.append(len(invars))
        space, (*_, carry, _) = layout.space, loop.parts(invars)
        roles = enumerate(loop.parts(invars))
        for role, v in [(role, v) for role, part in roles for v in part]:
            place = space.get(v, (NONE, 0, -1))
            if role == CARRY and place[0] == STORED:
                role = ROW
            header += [role, *_form(v), place[2] if role != TIMED else 0]
        header.append(len(outvars))
        for v, before in itertools.zip_longest(outvars, carry):
            if before is None:
                header += [TIMED, *_form(v), -1]
            else:
                role = ROW if space[before][0] == STORED else CARRY
                header += [role, *_form(v), space[before][2]]
        header.append(len(self.packs))
        for pack in self.packs:
            header += pack
        code = np.array([*header, self.count, *self.code], np.int64)
        numbers = np.array([*self.numbers, 0.0], np.float32)
        return Program(code, numbers, layout.aliases)

    def _emit(self, instruction: Sequence[int]) -> None:
        self.code.extend(instruction)
        self.count += 1

    def _operand(self, r: Ref, temporaries: dict[Any, int] | None = None) -> Place:
        if isinstance(r.root, float):
            return (NUMBER, self.numbers.setdefault(r.root, len(self.numbers)), 0)
        if temporaries and r.root in temporaries:
            return (TEMPORARY, temporaries[r.root], 0)
        kind, which, offset = self.layout.space[r.root]
        return (kind, which, offset + r.offset)

    def _block(self, width: int, instructions: list[Any]) -> None:
        self._emit((BLOCK, width, len(instructions)))
        for op, part, *places in instructions:
            # What comes after these elements is another's.
            exactly = part or any(kind in (INPUT, OUTPUT) for kind, _, _ in places)
            places += [(NONE, 0, 0)] * (1 + OPERANDS - len(places))
            number = self.operations.index(op)
            self.code.extend((number, int(exactly), *(x for p in places for x in p)))
        self.cost += width * len(instructions) * COST

    def _product(self, node: Node, out: Place) -> None:
        start, terms = node.details
        begin = (NONE, 0, 0) if start is None else self._operand(start)
        numbers = []
        for term in terms:
            w, form = term.weights, (term.rows, term.columns)
            pack = (self.inputs[w.root], w.offset, *form, term.turned, term.negative)
            number = self.packs.setdefault(tuple(map(int, pack)), len(self.packs))
            numbers += [*self._operand(term.moving), number]
            self.cost += term.rows * term.columns
        self._emit([PRODUCT, node.out.size, *out, *begin, len(terms), *numbers])


def _form(v: Any) -> tuple[int, int]:
    """The number of elements, and whether they are flags."""
    return v.aval.size, int(v.aval.dtype == np.bool_)


def _block(
    group: list[Node], space: dict[Any, Place], operand: Callable[..., Place]
) -> tuple[list[Any], int]:
    """The instructions of a block, and how many temporaries they take.

    Each is an operation, whether it makes a part of a variable, and its places.
    """
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
                instructions.append(("splat", False, (SPREAD, t, 0), place))
                place = (SPREAD, t, 0)
            ins.append(place)
        over = [r.root for r in n.ins if r.root in temporaries and ends[r.root] == i]
        free.extend(temporaries[v] for v in dict.fromkeys(over))
        if n.out.root not in space:
            temporaries[n.out.root] = take()
        # One vector for all of a row cannot be written over while the row is read.
        free.extend(spread)
        part = n.out.size < n.out.root.aval.size
        instructions.append((n.op, part, operand(n.out, temporaries), *ins))
        if n.out.root in temporaries and n.out.root not in ends:
            free.append(temporaries[n.out.root])
    return instructions, used
