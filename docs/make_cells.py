"""Write ``cells.md`` from the cells themselves: ``python docs/make_cells.py``.

Equations, references and examples are those of the docstrings, families are those of the
pages in ``api``. The carry and the walks are found by tracing the example.
"""
# A row of a Markdown table is one line, whatever its length.
# ruff: noqa: E501

import doctest
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import rnnjax
from rnnjax import scan

DOCS = pathlib.Path(__file__).parent
PAGE = DOCS / "cells.md"

HEAD = """\
# The cells

Each cell is a `Cell`: four pure functions of one example, with masks, resets, batches
and the contract of `rnnjax.testing.check_cell`. If none of them is yours,
[write it](your-own-cell.md): `rnnjax.recurrence` takes the equations.

## Which cell for what

| what you have | take |
|---|---|
| no reason for another one | [`lstm`](#lstm) or [`gru`](#gru): most published results are theirs, and they run in native kernels |
| little data, few units, or equations to look into | [`gru`](#gru), [`mgu`](#mgu), or [`elman`](#elman) for short memories |
| sequences of thousands of steps | a [deep stack](deep-state-spaces.md) of [`s5`](#s5), [`lru`](#lru) or [`rg_lru`](#rg_lru), which are walked in parallel |
| values to look up by keys that came long before | [`delta_net`](#delta_net), [`gated_delta_net`](#gated_delta_net), [`mlstm`](#mlstm) or [`gated_linear_attention`](#gated_linear_attention) |
| memories over long gaps, without gates | [`cornn`](#cornn), [`lem`](#lem), [`unitary`](#unitary) or [`lipschitz_rnn`](#lipschitz_rnn), which are built so that gradients last |
| samples at uneven times | [`cfc`](#cfc), [`ltc`](#ltc), [`phased_lstm`](#phased_lstm), or [`s5`](#s5) with `timed=True`: see [irregular time](irregular-time.md) |
| frames of a film, maps, volumes | [`conv_lstm`](#conv_lstm) or [`conv_gru`](#conv_gru) |
| a model of neurons | [`leaky_rnn`](#leaky_rnn), [`dale_rnn`](#dale_rnn) or [`low_rank_rnn`](#low_rank_rnn): see [dynamics](dynamics.md) |
| training while the data come in, without a window | [`indrnn`](#indrnn), [`indy_gru`](#indy_gru), [`indy_lstm`](#indy_lstm) or [`min_gru`](#min_gru), whose [online gradients](online.md) are exact and cheap |
| no time to train the recurrence | [`echo_state`](#echo_state) and `rnnjax.ridge_readout` |
| weights that another library trained | [`lstm`](#lstm), [`gru`](#gru), [`full_lstm`](#full_lstm): see [weights in and out](interop.md) |
| both ends of a sequence at once | [`bidirectional`](#bidirectional) around any of them |

Cells that are linear in their carry can be walked in parallel and do not saturate, but
their state cannot choose by itself what happens to it next. Put layers between them, or
take a gated cell where the task has to count or to keep track of a state.

"""

LEGEND = """
## How to read the entries

`x` is the input and `W` are weights, applied from the right; `⊙` is an elementwise
product and `*` a convolution. The carry is that of the example, which calls names in
`rnnjax`.

*Walked by* says what takes the steps by default, the cell's lowering: `scan.default` is
a native loop on a CPU and `scan.deferred` elsewhere, and those in `kernels` run a kernel
where there is one. Every cell takes `scan.hoisted`, `scan.checkpointed` and `scan.static`
as well, by `traversal=`; *in parallel* names those that it admits of the walks that take
all steps at once. [Walking time](walks.md) says when to choose which.
"""

PARALLEL = {
    "scan.associative": scan.associative,
    "scan.chunked": scan.chunked(2),
    "scan.newton": scan.newton(),
}


def page() -> str:
    """The whole page, from the cells that the package exports."""
    families = {
        heading: makers
        for name in ("cells", "combinators")
        for heading, makers in _families(DOCS / "api" / f"{name}.md")
    }
    return (
        HEAD
        + _index(families)
        + LEGEND
        + "".join(
            f"\n## {heading}\n" + "".join(map(section, makers))
            for heading, makers in families.items()
        )
    )


def section(maker: Callable[..., rnnjax.Cell]) -> str:
    """The entry of one cell."""
    doc = inspect.getdoc(maker) or ""
    cell = _example(maker)
    lines = [
        f"Example: `{cell}`",
        f"Carry: `{_outline(rnnjax.carry_spec(cell))}`",
    ]
    if "traversal" in inspect.signature(maker).parameters:
        lines += [f"Walked by {_walks(cell)}", f"Reference: {_reference(doc)}"]
    return (
        f"\n### {maker.__name__}\n\n{_summary(doc)}\n"
        + "".join(f"\n$$\n{block}\n$$\n" for block in _equations(doc))
        + "\n"
        + "".join(f"- {line}\n" for line in lines)
    )


def _families(api: pathlib.Path) -> Iterator[tuple[str, list[Any]]]:
    """The headings of an API page, and the cells that stand below each."""
    for part in api.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading = part.partition("\n")[0]
        names = re.findall(r"autofunction:: rnnjax\.(\w+)$", part, re.MULTILINE)
        makers = [f for name in names if _is_maker(f := getattr(rnnjax, name))]
        if makers:
            yield heading, makers


def _is_maker(function) -> bool:
    return hasattr(function, "__wrapped__") and (
        inspect.signature(function).return_annotation is rnnjax.Cell
    )


def _index(families) -> str:
    rows = [
        f"| {heading} | {', '.join(f'[`{f.__name__}`](#{f.__name__})' for f in makers)} |"
        for heading, makers in families.items()
    ]
    return "\n".join(
        ["## All of them", "", "| family | cells |", "|---|---|", *rows, ""]
    )


def _summary(doc) -> str:
    return re.sub(r"`+", "`", " ".join(doc.split("\n\n")[0].split()))


def _equations(doc) -> list[str]:
    """The TeX of each ``math`` directive."""
    blocks = re.findall(r"\.\. math::(.*?)\n(?=\S|\Z)", doc, re.DOTALL)
    return [inspect.cleandoc("\n" + b).strip().replace("\n\n", "\n") for b in blocks]


def _reference(doc) -> str:
    (found,) = re.findall(r"^References?: (.*?)\n\n", doc, re.DOTALL | re.MULTILINE)
    return " ".join(found.split())


def _example(maker) -> rnnjax.Cell:
    """The first cell of the docstring's example that the function has a part in."""
    namespace: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(maker) or ""):
        exec(example.source, namespace)
        for value in namespace.values():
            if isinstance(value, rnnjax.Cell) and _names(value, maker.__name__):
                return value
    raise ValueError(f"no example of {maker.__name__} makes a cell with it")


def _names(cell, name) -> bool:
    if cell.spec is None:
        return False
    return cell.spec.name == name or any(_names(c, name) for c in cell.spec.cells)


def _walks(cell) -> str:
    admitted = [
        f"`{name}`"
        for name, walk in PARALLEL.items()
        if admitted_by_its_walk(cell.spec.build(traversal=walk), _x(cell))
    ]
    return f"`{_lowering(cell)}`; in parallel: {', '.join(admitted) or 'none'}"


def _lowering(cell) -> str:
    """The traversal that ``unroll`` closes over."""
    inside = inspect.getclosurevars(inspect.unwrap(cell.unroll)).nonlocals
    if "traversal" not in inside:
        return _lowering(inside["cell"])
    traversal = inside["traversal"]
    return f"{traversal.__module__.rpartition('.')[2]}.{traversal.__name__}"


def admitted_by_its_walk(cell, x) -> bool:
    """Whether a cell's traversal takes it: the others it refuses while it is traced."""
    params = jax.eval_shape(cell.init, jax.random.key(0))
    xs = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), x)

    def unroll(params, xs):
        return cell.unroll(params, cell.initial_carry(params), xs)

    try:
        jax.eval_shape(unroll, params, xs)
    except (ValueError, TypeError) as error:
        if "; scan." not in str(error):
            raise
        return False
    return True


def _x(cell):
    """An input of one step: an array, or a pair of it and a time."""
    (_, shape), *_ = cell.spec.arguments
    x = jnp.zeros(shape)
    try:
        jax.eval_shape(_first_step(cell), x)
    except (ValueError, TypeError):
        return x, jnp.zeros(())
    return x


def _first_step(cell):
    def run(x):
        params = cell.init(jax.random.key(0))
        return cell.step(params, cell.initial_carry(params), x)

    return run


def _outline(tree) -> str:
    if isinstance(tree, jax.ShapeDtypeStruct):
        return f"({', '.join(map(str, tree.shape))}{',' * (len(tree.shape) == 1)})"
    if hasattr(tree, "_fields"):
        inside = [f"{k}={_outline(v)}" for k, v in tree._asdict().items()]
        return f"{type(tree).__name__}({', '.join(inside)})"
    return f"({', '.join(map(_outline, tree))}{',' * (len(tree) == 1)})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
