"""Descriptions say what the cells themselves say."""

import importlib.util
import pathlib
import re
import xml.etree.ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan


def zoo():
    path = pathlib.Path(__file__).parents[1] / "cells" / "test_zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CELLS


X = np.ones(3)


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


def size(tree):
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def every(described):
    yield described
    for cell in described.cells:
        yield from every(cell)


def agrees_with_the_cell(described, cell, x):
    params = cell.init(jax.random.key(0))
    carry = cell.initial_carry(params)
    xs = jax.tree.map(lambda a: jnp.stack([a, a, a]), x)
    _, ys = jax.eval_shape(cell.unroll, params, carry, xs)
    assert described.parameters == size(params)
    assert shapes(described.params) == shapes(params)
    assert shapes(described.carry) == shapes(carry)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), ys)
    assert shapes(described.output) == shapes(one)


@pytest.mark.parametrize(("cell", "x"), zoo(), ids=lambda v: repr(v)[:60])
def test_every_cell_of_the_zoo(cell, x):
    described = rnnjax.describe(cell, x)
    agrees_with_the_cell(described, cell, x)
    assert described.call == repr(cell)
    assert described.cells == ()
    assert f"{described.parameters:,} parameters" in str(described)
    assert described.call in "".join(svg_texts(described))


GRU = rnnjax.gru(3, 4)


@rnnjax.constructor
def hidden(size, *, inner=rnnjax.gru):
    return rnnjax.stack(rnnjax.dense(3, size), inner(size, 2))


@rnnjax.constructor
def more_hidden(size):
    return hidden(size)


@rnnjax.constructor
def around(cell):
    return rnnjax.stack(cell, rnnjax.dense(4, 2))


# The cell, and each row of its table: how deep it stands, and what is called.
COMBINED = [
    (
        rnnjax.stack(GRU, rnnjax.dropout(0.5), rnnjax.dense(4, 2)),
        ["0 stack", "1 0 gru(3, 4)", "1 1 dropout(0.5)", "1 2 dense(4, 2)"],
    ),
    (
        rnnjax.bidirectional(GRU),
        ["0 bidirectional", "1 forward gru(3, 4)", "1 backward gru(3, 4)"],
    ),
    (
        rnnjax.bidirectional(GRU, rnnjax.lstm(3, 2)),
        ["0 bidirectional", "1 forward gru(3, 4)", "1 backward lstm(3, 2)"],
    ),
    (
        rnnjax.parallel(GRU, GRU, merge=jnp.add),
        ["0 parallel(merge=add)", "1 0 gru(3, 4)", "1 1 gru(3, 4)"],
    ),
    (rnnjax.reverse(GRU), ["0 reverse", "1 cell gru(3, 4)"]),
    (rnnjax.learned_carry(GRU), ["0 learned_carry", "1 cell gru(3, 4)"]),
    (
        rnnjax.residual(rnnjax.zoneout(rnnjax.gru(3, 3), 0.1)),
        ["0 residual", "1 cell zoneout(0.1)", "2 cell gru(3, 3)"],
    ),
    (
        rnnjax.with_dropout(rnnjax.drop_connect(GRU, 0.2), state=0.3),
        ["0 with_dropout(state=0.3)", "1 cell drop_connect(0.2)", "2 cell gru(3, 4)"],
    ),
    (rnnjax.highway(rnnjax.gru(3, 3), 3), ["0 highway(3)", "1 cell gru(3, 3)"]),
    (
        rnnjax.skip_stack(GRU, rnnjax.gru(7, 2)),
        ["0 skip_stack", "1 0 gru(3, 4)", "1 1 gru(7, 2)"],
    ),
    (
        rnnjax.attention(rnnjax.gru(8, 4), 3, 5, (6, 2)),
        ["0 attention(3, 5, (6, 2))", "1 cell gru(8, 4)"],
    ),
    (
        rnnjax.attention_window(GRU, 3, 5, 2),
        ["0 attention_window(3, 5, 2)", "1 cell gru(3, 4)"],
    ),
    (hidden(5), ["0 hidden(5)", "1 0 dense(3, 5)", "1 1 gru(5, 2)"]),
    (around(GRU), ["0 around", "1 0 gru(3, 4)", "1 1 dense(4, 2)"]),
    (more_hidden(5), ["0 more_hidden(5)", "1 0 dense(3, 5)", "1 1 gru(5, 2)"]),
]


def outline(described, depth=0):
    yield f"{depth} {described.name} {described.call}".replace("  ", " ")
    for cell in described.cells:
        yield from outline(cell, depth + 1)


@pytest.mark.parametrize(("cell", "rows"), COMBINED, ids=lambda v: repr(v)[:60])
def test_cells_made_of_cells(cell, rows):
    described = rnnjax.describe(cell, X)
    agrees_with_the_cell(described, cell, X)
    assert list(outline(described)) == rows
    for one in every(described):
        # A combinator may add parameters of its own, and lose none.
        assert one.parameters >= sum(inner.parameters for inner in one.cells)
        if one.kind == "stack":
            assert one.parameters == sum(inner.parameters for inner in one.cells)
            flows = [one.input, *(inner.output for inner in one.cells)]
            assert flows[:-1] == [inner.input for inner in one.cells]
            assert flows[-1] == one.output
    table = str(described).splitlines()
    assert len(table) == len(rows) + 2
    for line, row in zip(table[1:], rows, strict=False):
        assert row.split(" ", 1)[1] in line


@rnnjax.constructor
def hidden_pair(size):
    return rnnjax.bidirectional(rnnjax.gru(3, size))


@rnnjax.constructor
def bidirectional(cell):
    """A user's, with a name that is taken and other arguments."""
    return rnnjax.stack(cell, rnnjax.dense(4, 2))


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (GRU, "gru"),
        (bidirectional(GRU), "stack"),
        (hidden(5), "stack"),
        (hidden_pair(4), "bidirectional"),
        (rnnjax.bidirectional(GRU), "bidirectional"),
    ],
    ids=repr,
)
def test_kinds(cell, kind):
    assert rnnjax.describe(cell, X).kind == kind


def test_boxes_side_by_side_do_not_go_by_a_name():
    assert not rnnjax.describe(bidirectional(GRU), X).across
    assert rnnjax.describe(hidden_pair(4), X).across


def without_spec():
    def zeros(params):
        return jnp.zeros_like(params)

    def init(key):
        return jax.random.normal(key, (3,))

    def step(params, h, z):
        return h + z, h

    return rnnjax.recurrence(init, zeros, lambda p, x: p * x, step)


def lowerings(cell):
    return [one.lowering for one in every(rnnjax.describe(cell, np.ones(3, "f")))]


IN_A_LOOP = "step by step, in the loop around it"


@pytest.mark.float32
@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (rnnjax.mgu(3, 4), ["scan.default"]),
        (rnnjax.lstm(3, 4, traversal=scan.hoisted), ["scan.hoisted"]),
        (rnnjax.dense(3, 4), ["all steps at once"]),
        (rnnjax.zoneout(GRU, 0.1), ["scan.default", IN_A_LOOP]),
        (
            rnnjax.zoneout(rnnjax.stack(GRU, rnnjax.dense(4, 2)), 0.1),
            ["scan.default", "", IN_A_LOOP, IN_A_LOOP],
        ),
        (without_spec(), ["scan.default"]),
    ],
    ids=lambda v: repr(v) if getattr(v, "spec", None) else None,  # no addresses
)
def test_lowerings(cell, expected):
    assert lowerings(cell) == expected


@pytest.mark.float32
@pytest.mark.parametrize(
    "cell",
    [
        *(GRU, rnnjax.gru(3, 4, reset_after=False)),
        *(rnnjax.lstm(3, 4), rnnjax.elman(3, 4)),
    ],
    ids=repr,
)
def test_kernels_are_named_as_their_status_does(cell):
    (found,) = lowerings(cell)
    status = getattr(rnnjax.kernels.status(), cell.spec.name)
    assert found.startswith(f"{status.name} kernel")
    assert (status.name == "native") == found.endswith(status.reason)


def test_kernels_do_not_take_double_precision():
    described = rnnjax.describe(rnnjax.lstm(3, 4), X)  # tests run in float64
    assert described.lowering == "scan.default"


@pytest.mark.float32
def test_the_table_in_full():
    inner = rnnjax.bidirectional(rnnjax.lstm(3, 4, traversal=scan.fused))
    cell = rnnjax.stack(rnnjax.embedding(9, 3), inner, rnnjax.pointwise(jnp.tanh))
    found = str(rnnjax.describe(cell, 1))
    calls = ["lstm(3, 4, traversal=fused)"] * 2
    carry = "c f32[4], h f32[4]"
    expected = [
        ["cell", "input", "output", "parameters", "carry", "lowering"],
        ["stack", "i32[]", "f32[8]", "283"],
        ["├─ 0 embedding(9, 3)", "i32[]", "f32[3]", "27", "all steps at once"],
        ["├─ 1 bidirectional", "f32[3]", "f32[8]", "256"],
        *(
            [f"│  {mark} {name} {call}", "f32[3]", "f32[4]", "128", carry, "scan.fused"]
            for mark, name, call in zip(
                ("├─", "└─"), ("forward", "backward"), calls, strict=True
            )
        ),
        ["└─ 2 pointwise(tanh)", "f32[8]", "f32[8]", "0", "all steps at once"],
        ["283 parameters, 1,132 bytes; the carry of an example: 16 numbers, 64 bytes"],
    ]
    assert [re.split(r" {2,}(?![├└])", line) for line in found.splitlines()] == expected


def test_shapes_stand_for_an_input():
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    described = rnnjax.describe(rnnjax.elman(3, 4), shape)
    assert described.input == shape
    assert described.parameters == 4 * (3 + 4 + 1)


def test_a_cell_without_a_spec_says_so():
    described = rnnjax.describe(without_spec(), X)
    assert described.kind == ""
    assert described.call == "a cell without a spec"
    assert described.parameters == 3


def test_inputs_that_do_not_fit_are_refused_as_by_the_cell():
    with pytest.raises(ValueError, match="input_size=5"):
        rnnjax.describe(GRU, np.ones(5))


# Pictures.


def svg_texts(described):
    root = xml.etree.ElementTree.fromstring(described.svg())
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return [text.text or "" for text in found]


def boxes(element, x=0.0, y=0.0):
    """Rectangles ``(left, top, right, bottom)``, those inside of one behind it."""
    found = []
    for child in element:
        tag = child.tag.rpartition("}")[2]
        if tag == "g":
            at = re.fullmatch(r"translate\((.+),(.+)\)", child.attrib["transform"])
            assert at is not None
            found += boxes(child, x + float(at[1]), y + float(at[2]))
        elif tag == "rect" and child.get("class"):
            wide, high = float(child.attrib["width"]), float(child.attrib["height"])
            found.append((x, y, x + wide, y + high))
    return found


@pytest.mark.parametrize(("cell", "rows"), COMBINED, ids=lambda v: repr(v)[:60])
def test_boxes_lie_in_the_picture_and_in_or_beside_each_other(cell, rows):
    described = rnnjax.describe(cell, X)
    texts = svg_texts(described)
    for row in rows:
        assert row.split(" ", 1)[1] in texts
    root = xml.etree.ElementTree.fromstring(described.svg())
    found = boxes(root)
    assert len(found) == len(rows)
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    for one in found:
        assert 0 <= one[0] < one[2] <= wide
        assert 0 <= one[1] < one[3] <= high
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            inside = all(a <= b for a, b in zip(one[:2], other[:2], strict=True)) and (
                other[2] <= one[2] and other[3] <= one[3]
            )
            apart = (
                other[0] >= one[2]
                or other[2] <= one[0]
                or other[1] >= one[3]
                or other[3] <= one[1]
            )
            assert inside != apart


def test_a_notebook_gets_the_picture_with_names_escaped():
    def a_b(x):
        return x

    a_b.__name__ = "<a & b>"
    described = rnnjax.describe(rnnjax.pointwise(a_b), X)
    assert described._repr_svg_() == described.svg()
    assert "pointwise(<a & b>)" in svg_texts(described)
