"""Every cell of the zoo with every walk in parallel that it admits keeps the laws.

In float32 and float64. A run takes two, which differ from day to day, as in
``tests/core/test_product.py``; ``pytest tests/traversals/test_admitted.py
--whole-product`` takes all of them.
"""

import itertools
import random
import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import pytest
from cells.test_zoo import CELLS

import rnnjax
from rnnjax import scan
from rnnjax.testing import check_cell

DOCS = Path(__file__).parents[2] / "docs"
ADMITTED = runpy.run_path(str(DOCS / "make_cells.py"))["admitted_by_its_walk"]

AFFINE = {"associative": scan.associative, "chunked": scan.chunked(3)}
NEWTON = {
    "newton": scan.newton(),
    "blocks": scan.newton(block=3),
    "diagonal": scan.newton(jacobian="diagonal"),
}

DTYPES = (jnp.float32, jnp.float64)


def walking(number, walk):
    cell, x = CELLS[number]
    arguments = dict(cell.spec.arguments) | {"traversal": walk}
    return getattr(rnnjax, cell.spec.name)(**arguments), x


def admitted(number, walk):
    return ADMITTED(*walking(number, walk))


def name(row):
    number, walk, dtype = row
    return f"{walking(number, walk)[0]}-{dtype.__name__}"


def pytest_generate_tests(metafunc):
    if "row" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    rows = []
    for walks in (AFFINE, NEWTON):
        places = list(itertools.product(range(len(CELLS)), walks.items(), DTYPES))
        random.Random(options.draw_seed).shuffle(places)
        taken = ((n, w, dtype) for n, (_, w), dtype in places if admitted(n, w))
        rows += taken if options.whole_product else itertools.islice(taken, 1)
    metafunc.parametrize("row", rows, ids=name)


def test_the_laws(row):
    number, walk, dtype = row
    cell, x = walking(number, walk)
    check_cell(cell, x, dtype=dtype)


@pytest.mark.float32
def test_the_page_says_which_cells_are_affine():
    """By name; of a cell that is so only with some options all rows are looked at."""
    found, refused = set(), set()
    for number, (cell, _) in enumerate(CELLS):
        (found if admitted(number, scan.associative) else refused).add(cell.spec.name)
    assert found & refused == {"sru"}
    sentence = (
        (DOCS / "walks.md").read_text().split("Affine are ")[1].split(", and a cell")[0]
    )
    named = set(re.findall(r"`(\w+)`", sentence)) - {"recurrent_gates"}
    assert named == found


def test_cells_of_any_carry_are_solved():
    """Trees of leaves of several shapes, a time among them, and images."""
    for number, (cell, _) in enumerate(CELLS):
        if cell.spec.name in ("phased_lstm", "conv_gru", "full_lstm", "grid_lstm"):
            assert admitted(number, NEWTON["newton"]), cell
