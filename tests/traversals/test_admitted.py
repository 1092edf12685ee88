"""Every cell of the zoo with every walk in parallel that it admits keeps the laws.

A run takes two, which differ from day to day, as in ``tests/core/test_product.py``;
``pytest tests/traversals/test_admitted.py --whole-product`` takes all of them.
"""

import itertools
import random

import jax
import pytest
from cells.test_zoo import CELLS

import rnnjax
from rnnjax import scan
from rnnjax.testing import check_cell

AFFINE = {"associative": scan.associative, "chunked": scan.chunked(3)}
NEWTON = {
    "newton": scan.newton(),
    "blocks": scan.newton(block=3),
    "diagonal": scan.newton(jacobian="diagonal"),
}


def walking(number, walk):
    cell, x = CELLS[number]
    arguments = dict(cell.spec.arguments) | {"traversal": walk}
    return getattr(rnnjax, cell.spec.name)(**arguments), x


def admitted(number, walk):
    """Whether the walk takes the cell: the others it refuses in a sentence."""
    cell, x = walking(number, walk)
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


def pytest_generate_tests(metafunc):
    if "row" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    rows = []
    for walks in (AFFINE, NEWTON):
        places = list(itertools.product(range(len(CELLS)), walks.items()))
        random.Random(options.draw_seed).shuffle(places)
        taken = ((n, w) for n, (_, w) in places if admitted(n, w))
        rows += taken if options.whole_product else itertools.islice(taken, 1)
    metafunc.parametrize("row", rows, ids=lambda row: str(walking(*row)[0]))


def test_the_laws(row):
    cell, x = walking(*row)
    check_cell(cell, x)


@pytest.mark.float32
def test_which_cells_are_affine():
    found = {
        str(cell)
        for number, (cell, _) in enumerate(CELLS)
        if admitted(number, scan.associative)
    }
    assert {"min_gru(2, 3)", "min_lstm(2, 3)", "sru(2, 3)", "lru(2, 3)"} <= found
    assert {"mlstm(2, 2)", "delta_net(2, 2)", "gated_delta_net(2, 2)"} <= found
    refused = {"gru(2, 3)", "indrnn(2, 3)", "sru(2, 2, recurrent_gates=True)"}
    assert not refused & found


def test_cells_of_any_carry_are_solved():
    """Trees of leaves of several shapes, a time among them, and images."""
    for number, (cell, _) in enumerate(CELLS):
        if cell.spec.name in ("phased_lstm", "conv_gru", "full_lstm", "grid_lstm"):
            assert admitted(number, NEWTON["newton"]), cell
