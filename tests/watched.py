"""What the native engine's programs do to their memory, watched float by float.

A program is run without numbers: each place remembers which element of which variable
is there. Whatever reads a place must find what it asks for, though products and most
operations write whole vectors, values share places, and those of a block are gone after
it.
"""

import contextlib
import itertools

import numpy as np

from rnnjax.kernels import assembly, layout
from rnnjax.kernels.assembly import OPERANDS, TIMED
from rnnjax.kernels.nodes import (
    BLOCK,
    BY_ROWS,
    CONTRACT,
    GATHER,
    LANES,
    PRODUCT,
    REDUCE,
    Ref,
    ref_of,
    up,
)

STRIP = 1024  # kStripSize in rnnjax/kernels/src/engine.cc
UNKNOWN = -1
WHOLE = (layout.STORED, layout.NOW, layout.NEXT, layout.INPUT, layout.OUTPUT)


@contextlib.contextmanager
def programs(monkeypatch):
    """Watch all programs that are assembled from now on."""
    given = []
    lay_out, code = assembly.lay_out, assembly._Code.program

    def laid_out(loop, groups, places):
        made = lay_out(loop, groups, places)
        given.append((loop, groups, places, made))
        return made

    def program(self):
        made = code(self)
        loop, groups, places, laid = given.pop()
        watch(loop, groups, places, laid, made)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "lay_out", laid_out)
        patch.setattr(assembly._Code, "program", program)
        yield


def watch(loop, groups, places, laid, program):
    """Raise AssertionError where a program reads what it does not mean to."""
    for parity in (0, 1):
        _Watch(loop, groups, places, laid, program, parity).run()


class _Watch:
    def __init__(self, loop, groups, places, laid, program, parity):
        self.loop, self.groups, self.places, self.laid = loop, groups, places, laid
        self.firsts, self.floats, self.strip = {}, 0, 0
        self.code, self.at = program.code.tolist(), 0
        _, self.stored, self.carries, shared, temporaries, *_ = self.take(7)
        self.inputs = [self.take(4) for _ in range(*self.take(1))]
        self.outputs = [self.take(4) for _ in range(*self.take(1))]
        for _ in range(*self.take(1)):
            self.take(6)
        self.now = self.stored + parity * self.carries
        self.next = self.stored + (1 - parity) * self.carries
        # What is behind is another row's.
        self.record = self.memory(self.stored + 2 * self.carries)
        self.shared = self.memory(shared)
        self.temporaries = [self.memory(STRIP) for _ in range(temporaries)]
        self.timed_in = [self.memory(size) for _, size, *_ in self.inputs]
        self.timed_out = [
            self.memory(size if role == TIMED else 0) for role, size, *_ in self.outputs
        ]
        for i, j in program.aliases.items():
            self.timed_out[j] = self.timed_in[i]

    def memory(self, size):
        return np.full(size, UNKNOWN)

    def take(self, count):
        self.at += count
        return self.code[self.at - count : self.at]

    def place(self):
        return tuple(self.take(3))

    # ---- what is where ---------------------------------------------------------

    def elements(self, ref, start=0, count=None):
        """The elements of a run, as numbers that no others have."""
        size = 1 if isinstance(ref.root, float) else ref.root.aval.size
        if ref.root not in self.firsts:
            self.firsts[ref.root] = self.floats
            self.floats += size
        count = ref.size - start if count is None else count
        first = self.firsts[ref.root] + ref.offset
        return np.full(count, first) if ref.splat else first + start + np.arange(count)

    def memory_of(self, place):
        """Where a place is: a memory, and the first float."""
        kind, which, offset = place
        if kind == layout.STORED:
            return self.record, offset
        if kind == layout.NOW:
            return self.record, self.now + offset
        if kind == layout.NEXT:
            return self.record, self.next + offset
        if kind in (layout.SHARED, layout.FILLED):
            return self.shared, offset
        if kind in (layout.TEMPORARY, layout.SPREAD):
            return self.temporaries[which], -self.strip
        timed = self.timed_in if kind == layout.INPUT else self.timed_out
        return timed[which], offset

    def read(self, place, ref, start=0, count=None):
        """Find a run, or so many of it, in its place."""
        kind = place[0]
        asked = self.elements(ref, start, count)
        if kind == layout.NUMBER:
            assert isinstance(ref.root, float)
            return
        memory, first = self.memory_of(place)
        if kind == layout.SPREAD:
            there = np.full(len(asked), memory[0])
        elif kind == layout.FILLED:
            there = np.full(len(asked), memory[first])
        else:
            there = memory[first + start : first + start + len(asked)]
        assert np.array_equal(there, asked), f"{ref} is not at {place}"

    def write(self, place, ref, start, count, *, whole):
        """Put so many elements of a run, and unknown ones up to a vector's end."""
        memory, first = self.memory_of(place)
        first += start
        end = first + (up(count) if whole else count)
        assert end <= len(memory), f"{ref} ends behind {place}"
        memory[first:end] = UNKNOWN
        memory[first : first + count] = self.elements(ref, start, count)

    # ---- a step ----------------------------------------------------------------

    def run(self):
        space = self.laid.space
        shared, rows, carry, xs = self.loop.parts(self.loop.step.invars)
        for v in (*shared, *rows, *carry):
            if v in space:
                self.write(space[v], Ref(v, 0, v.aval.size), 0, v.aval.size, whole=True)
        first = len(self.loop.step.invars) - len(xs)
        for i, v in enumerate(xs, first):
            self.timed_in[i][:] = self.elements(Ref(v, 0, v.aval.size))
        (count,) = self.take(1)
        end = count
        for op, out, (_, which, _), size in self.laid.loads:
            v = self.loop.step.invars[which]
            self.block([(op, out, Ref(v, 0, size), (Ref(v, 0, size),))])
            end -= 1
        for group in self.groups:
            node = group[0]
            if node.kind == BLOCK:
                self.block([(n.op, None, n.out, n.ins) for n in group])
            else:
                self.rare(node)
            end -= 1
        copied = {}
        for op, out, r in self.laid.copies:
            copied.setdefault(r.size, []).append((op, out, r, (r,)))
        for copies in copied.values():
            self.block(copies)
            end -= 1
        assert (end, self.at) == (0, len(self.code))
        self.results(rows, carry)

    def results(self, rows, carry):
        """Find all that the step gives, and what the next one finds."""
        space = self.laid.space
        for v in rows:
            self.read(space[v], Ref(v, 0, v.aval.size))
        for i, v in enumerate(self.loop.step.outvars):
            place = (layout.OUTPUT, i, 0)
            if i < len(carry):
                kind, which, offset = space[carry[i]]
                after = layout.NEXT if kind == layout.NOW else kind
                place = (after, which, offset)
            self.read(place, ref_of(v, self.places))

    def block(self, wanted):
        """Do operations ``(op, its place or None, out, ins)``, strip by strip."""
        kind, width, count = self.take(3)
        assert (kind, width) == (BLOCK, wanted[0][2].size)
        steps = []
        for _ in range(count):
            _, exactly = self.take(2)
            steps.append((exactly, [self.place() for _ in range(1 + OPERANDS)]))
        for start in range(0, width, STRIP):
            self.strip = start
            ahead = iter(steps)
            for op, there, out, ins in wanted:
                exactly, places = self.operation(ahead, ins)
                assert there in (None, places[0])
                along = BY_ROWS.get(op, len(ins))
                end = min(start + STRIP, width)
                step = LANES if self.beside(places, width) else end - start
                for at in range(start, end, step):
                    count = min(step, end - at)
                    for r, place in zip(ins[:along], places[1:], strict=False):
                        self.read(place, r, at, count)
                    for r, place in zip(ins[along:], places[1 + along :], strict=False):
                        self.read(place, r)
                    self.write(places[0], out, at, count, whole=not exactly)
            assert next(ahead, None) is None

    def beside(self, places, width):
        """Whether elements of other numbers are read where some are written."""
        memory, first = self.memory_of(places[0])
        others = (self.memory_of(place) for place in places[1:] if place[0] in WHOLE)
        return any(m is memory and 0 < abs(at - first) < width for m, at in others)

    def operation(self, ahead, ins):
        """The next of a block that is not one element for all of a strip."""
        space = self.laid.space
        spread = (
            r
            for r in ins
            if r.splat and space.get(r.root, (None,))[0] != layout.FILLED
            if not isinstance(r.root, float)
        )
        for exactly, places in ahead:
            if places[0][0] != layout.SPREAD:
                return exactly, places
            r = next(spread)._replace(size=1)
            self.read(places[1], r)
            self.temporaries[places[0][1]][:LANES] = self.elements(r)
        raise AssertionError("a block without its last operation")

    def rare(self, node):
        """Do what is done alone."""
        if node.kind == PRODUCT:
            return self.product(node)
        kind, *_ = self.take({REDUCE: 5, GATHER: 2, CONTRACT: 16}.get(node.kind, 0))
        assert kind == node.kind
        out, ins = self.place(), [self.place() for _ in node.ins]
        self.take(len(node.details) if kind == GATHER else 0)
        # It is written while it is read.
        self.write(out, node.out, 0, node.out.size, whole=kind == GATHER)
        for r, place in zip(node.ins, ins, strict=True):
            if kind != GATHER:
                self.read(place, r)
                continue
            for first, size in _runs(node.details):
                self.read(place, r, first, size)

    def product(self, node):
        kind, width, *_ = self.take(2)
        assert (kind, width) == (PRODUCT, node.out.size)
        out, begin, (count,) = self.place(), self.place(), self.take(1)
        factors = [(self.place(), self.take(1))[0] for _ in range(count)]
        start, terms = node.details
        for at in range(0, width, LANES):
            size = min(LANES, width - at)
            for term, place in zip(terms, factors, strict=True):
                self.read(place, term.moving)
            if start is None:
                assert begin[0] == layout.NONE
            else:
                self.read(begin, start, at, size)
            self.write(out, node.out, at, size, whole=True)


def _runs(numbers):
    """Runs ``(first, size)`` of elements that are next to each other."""
    ends = [*(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
    return [(numbers[a], int(b - a)) for a, b in itertools.pairwise([0, *ends])]
