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
