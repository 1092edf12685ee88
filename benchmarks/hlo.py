"""What a compiled program does, read from its text.

`read` takes the text of an optimised program, `jax.stages.Compiled.as_text`; the other
functions answer questions about what came back.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# An instruction is ``%name = type opcode(operands), attributes``, where a type may be a
# tuple, and a layout has brackets of its own.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<rest>.*)")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> .* \{$")
_SHAPE = re.compile(r"\b(?P<dtype>pred|bf16|[sufc]\d+\w*)\[(?P<dims>[\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation"
    r"|(?:branch|called)_computations)=(?:\{([^}]*)\}|([^\s,]+))"
)
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "ragged-all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
_LIBRARY = 'custom_call_target="__cublas'
_PALLAS = 'custom_call_target="tpu_custom_call"'
_COPIES = ("copy", "copy-start", "transpose")
# These name memory, and nothing runs for them.
_NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
_UPDATE = "dynamic-update-slice"


class Shape(NamedTuple):
    """An array of the program: its dtype as XLA writes it, and its axes."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """The memory of the elements, without the padding of a layout."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) // 8 if bits else 1)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: what it does.
      shapes: of its result, several if that is a tuple.
      operands: the text between the brackets.
      calls: the computations that it runs.
      attributes: the text after the operands.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: str
    calls: tuple[str, ...]
    attributes: str


class Program(NamedTuple):
    """The computations by their names, and which of them is the program."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str


def read(text: str) -> Program:
    """Read the text of one module.

    Raises:
      ValueError: the text has no entry computation.
    """
    found: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = found[head["name"]] = []
            entry = head["name"] if head["entry"] else entry
        elif instruction := _INSTRUCTION.fullmatch(line):
            current.append(_instruction(instruction["name"], instruction["rest"]))
    if not entry:
        raise ValueError(
            "the text has no ENTRY computation; expected that of an optimised program. "
            "Write compiled.as_text()."
        )
    return Program({name: tuple(body) for name, body in found.items()}, entry)


def _instruction(name: str, rest: str) -> Instruction:
    shape, rest = _until(rest, " ")
    opcode, _, rest = rest.partition("(")
    operands, attributes = _until(rest, ")")
    called = [one or other for one, other in _CALLED.findall(attributes)]
    calls = tuple(c.lstrip("%") for part in called for c in re.split(r",\s*", part))
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(shape)
    )
    return Instruction(name, opcode, shapes, operands, calls, attributes)


def _until(text: str, end: str) -> tuple[str, str]:
    """Cut at the first ``end`` that stands in no brackets."""
    depth = 0
    for i, letter in enumerate(text):
        if depth == 0 and letter == end:
            return text[:i], text[i + 1 :]
        depth += (letter in "([{") - (letter in ")]}")
    return text, ""


def everything(program: Program) -> Iterator[Instruction]:
    """All instructions, those of fusions and loops too."""
    for body in program.computations.values():
        yield from body


def loops(program: Program) -> list[Instruction]:
    """All loops, those inside of loops too."""
    return [at for at in everything(program) if at.opcode == "while"]


def inside(program: Program, instruction: Instruction) -> list[Instruction]:
    """What runs in an instruction: all that it calls, and all that those call."""
    seen, ahead = set(), list(instruction.calls)
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += (c for at in program.computations[name] for c in at.calls)
    return [at for name in sorted(seen) for at in program.computations[name]]


def innermost(program: Program) -> list[Instruction]:
    """What runs in the loops that have no loop in them, once each."""
    found = {}
    for loop in loops(program):
        body = inside(program, loop)
        if not any(at.opcode == "while" for at in body):
            found |= {at.name: at for at in body}
    return list(found.values())


def collectives(program: Program) -> list[tuple[str, tuple[Shape, ...]]]:
    """The exchanges between devices, each with the shapes that it exchanges.

    One that is started and awaited counts once, when it is done: what starts it may
    give its operands too. Arrays that are combined in one exchange are one entry.
    """
    return [
        (name, at.shapes)
        for at in everything(program)
        if (name := at.opcode.removesuffix("-done")) in _COLLECTIVES
    ]


def kernels(program: Program) -> list[Instruction]:
    """The calls of kernels that were written in Pallas for a TPU."""
    return [
        at
        for at in everything(program)
        if at.opcode == "custom-call" and _PALLAS in at.attributes
    ]


def products(instructions: Iterable[Instruction]) -> list[Shape]:
    """The results of matrix products, whatever the compiler made of them."""
    return [
        at.shapes[0]
        for at in instructions
        if at.opcode in ("dot", "convolution")
        or (at.opcode == "custom-call" and _LIBRARY in at.attributes)
    ]


def copies(instructions: Iterable[Instruction], least: int) -> list[Instruction]:
    """Those that move an array of at least so many bytes and compute nothing."""
    return [
        at
        for at in instructions
        if at.opcode in _COPIES and any(shape.bytes >= least for shape in at.shapes)
    ]


def body(loop: Instruction) -> str:
    """The name of the computation that a loop repeats."""
    name = re.search(r"\bbody=%?([\w.-]+)", loop.attributes)
    assert name is not None
    return name[1]


def launched(program: Program, computation: str) -> list[Instruction]:
    """What runs in a computation, itself and not what is in its loops.

    What is started and awaited counts once, when it is started.
    """
    return [
        at
        for at in program.computations[computation]
        if at.opcode not in _NAMES and not at.opcode.endswith("-done")
    ]


def moved(program: Program, computation: str) -> int:
    """Bytes that the kernels of a computation read and write, those in its loops aside.

    Every kernel counts each of its operands and results once. Of an array that it cuts
    a part from, or puts a part into, the part counts.
    """
    shapes = {at.name: at.shapes for at in program.computations[computation]}
    kernels = launched(program, computation)
    return sum(_moved(program, at, shapes) for at in kernels if at.opcode != "while")


def _moved(
    program: Program, at: Instruction, shapes: dict[str, tuple[Shape, ...]]
) -> int:
    operands = [shapes[name] for name in _named(at)]
    if at.opcode.removesuffix("-start") != "fusion":
        return sum(s.bytes for group in (*operands, at.shapes) for s in group)
    inner = program.computations[at.calls[0]]
    known = {one.name: one for one in inner}
    read = 0
    for one in inner:
        if one.opcode == "parameter":
            whole = sum(shape.bytes for shape in operands[int(one.operands)])
            read += min(whole, _read(inner, one))
    return read + _written(known, inner[-1])


def _named(at: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", at.operands)


def _read(inner: tuple[Instruction, ...], source: Instruction) -> int:
    """Bytes that a fusion reads of one of its arrays, or more than it has."""
    total = 0
    for at in inner:
        named = _named(at)
        if source.name not in named:
            continue
        if at.opcode == "bitcast":
            total += _read(inner, at)
        elif at.opcode == "dynamic-slice":
            total += at.shapes[0].bytes
        elif at.opcode != _UPDATE or named.index(source.name) != 0:
            total += sum(shape.bytes for shape in source.shapes)
    return total


def _written(known: dict[str, Instruction], root: Instruction) -> int:
    """Bytes that a fusion writes."""
    if root.opcode == "tuple":
        return sum(_written(known, known[name]) for name in _named(root))
    if root.opcode == "bitcast":
        return _written(known, known[_named(root)[0]])
    if root.opcode == _UPDATE:
        root = known[_named(root)[1]]
    return sum(shape.bytes for shape in root.shapes)
