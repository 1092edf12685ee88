"""Write ``cells.md`` from the cells themselves: ``python docs/make_cells.py``.

Equations, references and examples are those of the docstrings, the carry is that of the
example, the lowering is the traversal that the example walks time with.
"""

import doctest
import inspect
import pathlib
import re

import jax

import rnnjax

PAGE = pathlib.Path(__file__).with_name("cells.md")

HEAD = """\
# The cells

Written by `python docs/make_cells.py` from the docstrings; a test keeps both the same.

Each cell is a `Cell`: four pure functions of one example, with masks, resets, batches
and the contract of `rnnjax.testing.check_cell`. `x` is the input and `W` are weights,
applied from the right; `⊙` is an elementwise product and `*` a convolution. The carry
is that of the example. The lowering is the traversal that a cell has by default:
`scan.default` is `scan.fused` on a CPU and `scan.deferred` elsewhere, and those in
`kernels` run a kernel where there is one. Every cell takes another as `traversal=`. The
examples call names in `rnnjax`.

| cell | equations | carry of the example | reference | lowering | example |
|---|---|---|---|---|---|
"""

COMBINED = """
## Cells made of cells, and cells without a recurrence

| cell | what it is | carry of the example | example |
|---|---|---|---|
"""


def page() -> str:
    """The whole page, from the cells that the package exports."""
    made = [getattr(rnnjax, name) for name in rnnjax.__all__]
    makers = [f for f in made if inspect.isfunction(f) and _is_constructor(f)]
    leaves = [f for f in makers if "traversal" in inspect.signature(f).parameters]
    combined = [f for f in makers if f not in leaves]
    return (
        HEAD
        + "".join(_row(_leaf_columns(f)) for f in leaves)
        + COMBINED
        + "".join(_row(_combined_columns(f)) for f in combined)
    )


def _is_constructor(function) -> bool:
    return hasattr(function, "__wrapped__") and (
        inspect.signature(function).return_annotation is rnnjax.Cell
    )


def _leaf_columns(function):
    doc = inspect.getdoc(function)
    cell = _example(function)
    return [
        f"`{function.__name__}`<br>{_summary(doc)}",
        "<br>".join(f"${line}$" for line in _equations(doc)),
        f"`{_outline(rnnjax.carry_spec(cell))}`",
        _reference(doc),
        f"`{_lowering(cell)}`",
        f"`{cell}`",
    ]


def _combined_columns(function):
    doc = inspect.getdoc(function)
    cell = _example(function)
    carry = _outline(rnnjax.carry_spec(cell))
    return [f"`{function.__name__}`", _summary(doc), f"`{carry}`", f"`{cell}`"]


def _row(columns) -> str:
    for column in columns:
        if "|" in column or "\n" in column:
            raise ValueError(
                f"{column!r} would break the table; write \\lvert for a bar"
            )
    return f"| {' | '.join(columns)} |\n"


def _summary(doc) -> str:
    return re.sub(r"`+", "`", " ".join(doc.split("\n\n")[0].split()))


def _equations(doc):
    """One line of TeX for each line of the ``math`` directives."""
    blocks = re.findall(r"\.\. math::(.*?)\n(?=\S|\Z)", doc, re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"\\\\", block)]
    return [" ".join(line.replace("&", "").split()) for line in lines]


def _reference(doc) -> str:
    (found,) = re.findall(r"^References?: (.*?)\n\n", doc, re.DOTALL | re.MULTILINE)
    return " ".join(found.split())


def _example(function) -> rnnjax.Cell:
    """The first cell of the docstring's example that the function has a part in."""
    namespace = {}
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(function)):
        exec(example.source, namespace)
        for value in namespace.values():
            if isinstance(value, rnnjax.Cell) and _names(value, function.__name__):
                return value
    raise ValueError(f"no example of {function.__name__} makes a cell with it")


def _names(cell, name) -> bool:
    if cell.spec is None:
        return False
    return cell.spec.name == name or any(_names(c, name) for c in cell.spec.cells)


def _lowering(cell) -> str:
    """The traversal that ``unroll`` closes over."""
    inside = inspect.getclosurevars(inspect.unwrap(cell.unroll)).nonlocals
    if "traversal" not in inside:
        return _lowering(inside["cell"])
    traversal = inside["traversal"]
    return f"{traversal.__module__.rpartition('.')[2]}.{traversal.__name__}"


def _outline(tree) -> str:
    if isinstance(tree, jax.ShapeDtypeStruct):
        return f"({', '.join(map(str, tree.shape))}{',' * (len(tree.shape) == 1)})"
    if hasattr(tree, "_fields"):
        inside = [f"{k}={_outline(v)}" for k, v in tree._asdict().items()]
        return f"{type(tree).__name__}({', '.join(inside)})"
    return f"({', '.join(map(_outline, tree))}{',' * (len(tree) == 1)})"


if __name__ == "__main__":
    PAGE.write_text(page())
