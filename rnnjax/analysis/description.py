"""What a cell is made of, as a table to print and a picture for a notebook."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from rnnjax import checks, scan
from rnnjax.analysis import diagram, opening
from rnnjax.cell import Cell, Spec
from rnnjax.combinators.layers import bidirectional, parallel
from rnnjax.kernels.lowerings import running
from rnnjax.kernels.primitives import value_p

_STEPS = 2  # of the sequence with which a cell is traced
_IN_A_LOOP = "step by step, in the loop around it"


class Description(NamedTuple):
    """A cell and the cells in it; ``print`` it, or ask for an ``svg``.

    Attributes:
      name: its place in the cell around it: ``"0"``, ``"backward"``, ``"cell"``.
      call: the call that made it, without the cells in it.
      kind: the name of its constructor, or of the combinator that your own constructor
        returns; empty for a cell without a spec.
      input: shapes and dtypes of one input, of one example at one time step.
      output: those of one output.
      carry: those of the carry of one example.
      params: those of the parameters.
      lowering: what walks through time; empty where the cells in it say so.
      cells: descriptions of the cells in it, in their order.
      across: whether these stand side by side, as in `parallel` and `bidirectional`.
    """

    name: str
    call: str
    kind: str
    input: Any
    output: Any
    carry: Any
    params: Any
    lowering: str
    cells: tuple["Description", ...]
    across: bool

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold, those of the cells in it included."""
        return _numbers(self.params)

    def __str__(self) -> str:
        """A table with a row for each cell, and a line with sums."""
        head = ("cell", "input", "output", "parameters", "carry", "lowering")
        rows = [head, *_rows(self, "", "")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                text.rjust(width) if name == "parameters" else text.ljust(width)
                for name, text, width in zip(head, row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]
        sums = (
            f"{self.parameters:,} parameters, {_bytes(self.params):,} bytes; the carry "
            f"of an example: {_numbers(self.carry):,} numbers, "
            f"{_bytes(self.carry):,} bytes"
        )
        return "\n".join([*lines, sums])

    def svg(self) -> str:
        """The same as a picture: boxes in boxes, data flowing downwards."""
        return diagram.draw(_block(self), forms(self.input), forms(self.output))

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.svg()


def describe(cell: Cell, x: Any) -> Description:
    """Layers, shapes, parameter counts, carries and lowerings of a cell.

    Nothing is computed: the cell is traced on shapes alone. Cells in a combinator stand
    below it, and so do those in what your own constructor returns; a cell that is made
    of plain functions is one row. Lowerings are those on the default device without a
    key: a native or a reference kernel, or the traversal.

    Args:
      cell: any cell.
      x: an input of one example at one time step, or `jax.ShapeDtypeStruct` in its
        place.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.lstm(28, 128), rnnjax.dense(128, 10))
    >>> described = rnnjax.describe(cell, jnp.zeros(28))
    >>> described.parameters, [inner.parameters for inner in described.cells]
    (81674, [80384, 1290])
    >>> print(described.cells[1])
    cell              input     output   parameters  carry  lowering
    1 dense(128, 10)  f32[128]  f32[10]       1,290         all steps at once
    1,290 parameters, 5,160 bytes; the carry of an example: 0 numbers, 0 bytes
    """
    checks.cell("cell", cell)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    return _describe("", cell, params, _shapes(x), whole=True)


class _Call(NamedTuple):
    """Shapes with which a cell was called, and whether with all steps at once."""

    params: Any
    x: Any
    whole: bool


def _describe(name: str, cell: Cell, params: Any, x: Any, whole: bool) -> Description:
    spec, calls = opening.combinator(cell), {}
    opened = cell if spec is None else opening.rebuild(spec, _noting(calls))
    carry, y, jaxpr = _run(opened, params, x, whole)
    parts = [] if spec is None else opening.parts(spec)
    called = [(part, calls[part]) for part in parts if part in calls]
    cells = tuple(_describe(p.place, p.cell, *call) for p, call in called)
    if cells:
        loops = whole and not all(call.whole for call in calls.values())
        lowering = "scan.default" if loops else ""
    else:
        lowering = _lowering(cell, carry, jaxpr) if whole else _IN_A_LOOP
    made = spec if cells else cell.spec
    return Description(
        name=name,
        call=_call(cell.spec),
        kind="" if made is None else made.name,
        input=x,
        output=y,
        carry=carry,
        params=params,
        lowering=lowering,
        cells=cells,
        across=made is not None and made.constructor in (parallel, bidirectional),
    )


def _noting(calls: dict[opening.Part, _Call]) -> Callable[[opening.Part], Cell]:
    """Take the place of parts and note how each is called the first time."""

    def noting(part):
        def step(params, carry, x):
            calls.setdefault(part, _Call(_shapes(params), _shapes(x), whole=False))
            return part.cell.step(params, carry, x)

        def unroll(params, carry, xs, **signals):
            x = jax.tree.map(lambda a: a[0], xs)
            whole = {len(a) for a in jax.tree.leaves(xs)} == {_STEPS}
            calls.setdefault(part, _Call(_shapes(params), _shapes(x), whole))
            return part.cell.unroll(params, carry, xs, **signals)

        # No spec: two equal cells in one combinator must stay apart.
        return Cell(part.cell.init, part.cell.initial_carry, step, unroll)

    return noting


def _run(cell: Cell, params: Any, x: Any, whole: bool) -> tuple[Any, Any, Any]:
    """Shapes of the carry and of one output, and the jaxpr."""

    def run(params, x):
        carry = cell.initial_carry(params)
        if not whole:
            return carry, cell.step(params, carry, x)[1]
        xs = jax.tree.map(lambda a: jnp.broadcast_to(a, (_STEPS, *a.shape)), x)
        _, ys = cell.unroll(params, carry, xs)
        return carry, jax.tree.map(lambda a: a[0], ys)

    jaxpr, (carry, y) = jax.make_jaxpr(run, return_shape=True)(params, x)
    return *_shapes((carry, y)), jaxpr.jaxpr


def _lowering(cell: Cell, carry: Any, jaxpr: Any) -> str:
    if not jax.tree.leaves(carry):
        return "all steps at once"
    if _binds(jaxpr, value_p):
        found = running()
        why = f", {found.reason}" if found.name == "native" else ""
        return f"{found.name} kernel{why}"
    walked = opening.walked(cell)
    given = scan.default
    if walked is not None and walked["traversal"] is not None:
        given = walked["traversal"]
    while isinstance(given, functools.partial):
        given = given.func
    name = getattr(given, "__name__", repr(given))
    if getattr(scan, name, None) is given:
        return f"scan.{name}"
    # A kernel that does not take these dtypes leaves them to the default.
    return "scan.default" if given.__module__.startswith("rnnjax.kernels") else name


def _binds(jaxpr: Any, primitive: Any) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive is primitive:
            return True
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and _binds(inner, primitive):
                return True
    return False


def _call(spec: Spec | None) -> str:
    if spec is None:
        return "a cell without a spec"

    def plain(value):
        several = value if isinstance(value, tuple) else (value,)
        return not any(isinstance(item, Cell) for item in several)

    kept = tuple((n, v) for n, v in spec.arguments if not spec.cells or plain(v))
    return repr(Spec(spec.constructor, kept)).removesuffix("()")


def _rows(described: Description, first: str, rest: str) -> Iterator[tuple[str, ...]]:
    """A row for the cell and, below it, those of its cells after branches."""
    carry = "" if described.cells else forms(described.carry)
    yield (
        f"{first}{described.name} {described.call}".strip(),
        forms(described.input),
        forms(described.output),
        f"{described.parameters:,}",
        carry,
        described.lowering,
    )
    for i, cell in enumerate(described.cells):
        last = i == len(described.cells) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from _rows(cell, rest + branch, rest + below)


def _block(described: Description) -> diagram.Block:
    """What the picture shows of a cell."""
    lines = []
    if described.parameters:
        lines.append(f"{described.parameters:,} parameters")
    if not described.cells and jax.tree.leaves(described.carry):
        lines.append(f"carry {forms(described.carry)}")
    if described.lowering:
        lines.append(described.lowering)
    return diagram.Block(
        title=f"{described.name} {described.call}".strip(),
        lines=tuple(lines),
        recurrent=bool(jax.tree.leaves(described.carry)),
        across=described.across,
        output=forms(described.output),
        blocks=tuple(map(_block, described.cells)),
    )


def forms(tree: Any) -> str:
    """Shapes and dtypes in a few letters: ``"c f32[8], h f32[8]"``."""
    texts = []
    for path, leaf in tree_leaves_with_path(tree):
        name = keystr(path, simple=True, separator=".")
        kind = str(leaf.dtype)
        for long, short in (("uint", "u"), ("int", "i"), ("float", "f")):
            kind = kind.replace(long, short)
        texts.append(f"{name} {kind}[{','.join(map(str, leaf.shape))}]".strip())
    more = [f"{len(texts) - 4} more"] if len(texts) > 4 else []
    return ", ".join(texts[:4] + more)


def _shapes(tree: Any) -> Any:
    return jax.eval_shape(lambda tree: tree, tree)


def _numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
