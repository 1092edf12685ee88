# pyright: reportOptionalMemberAccess=false
"""Every cell x traversal x combinator x dtype keeps the laws, with all signals.

There are thousands of rows, so a run takes a sample, which differs from day to day;
``pytest tests/core/test_product.py --whole-product`` takes them all. The laws go
through masks, resets and both in every row.
"""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS

import rnnjax
from rnnjax import combinators, kernels, scan
from rnnjax.testing import check_cell

SAMPLE = 12

WALKS = {
    "fused": scan.fused,
    "hoisted": scan.hoisted,
    "deferred": scan.deferred,
    "checkpointed": scan.checkpointed,
    "static": scan.static,
}
# Other programs for the equations of a kernel.
PROGRAMS = {
    kernels.lstm: {"cudnn": kernels.lstm_cudnn, "pallas": kernels.lstm_pallas},
    kernels.gru: {"pallas": kernels.gru_pallas},
}
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float64)


def traversals(cell):
    """All that a cell takes, by name; its own default where that is a kernel."""
    own = cell.spec["traversal"]
    default = {} if own in (scan.default, *WALKS.values()) else {"default": own}
    return default | WALKS | PROGRAMS.get(own, {})


def walking(cell, traversal):
    arguments = dict(cell.spec.arguments) | {"traversal": traversal}
    return getattr(rnnjax, cell.spec.name)(**arguments)


def draws(cell):
    return bool(dict(cell.spec.arguments).get("noise"))


def halved(cell):
    def init(key):
        return cell.initial_carry(cell.init(key))

    def start(carry):
        return jax.tree.map(lambda a: (a * 0.5).astype(a.dtype), carry)

    return rnnjax.with_initial_carry(cell, init, start)


def fields(cell):
    leaves = jax.tree_util.tree_leaves_with_path(cell.init(jax.random.key(0)))
    names = (getattr(path[-1], "name", None) for path, _ in leaves if path)
    return tuple(sorted({name for name in names if name}))


ANY = {
    "alone": lambda cell: cell,
    "reverse": rnnjax.reverse,
    "bidirectional": rnnjax.bidirectional,
    "parallel": lambda cell: rnnjax.parallel(cell, rnnjax.reverse(cell)),
    "stack": lambda cell: rnnjax.stack(
        cell, rnnjax.dropout(0.5), rnnjax.pointwise(jnp.tanh)
    ),
    "learned-carry": rnnjax.learned_carry,
    "initial-carry": halved,
    "dropout": lambda cell: rnnjax.with_dropout(
        cell, inputs=0.3, state=0.3, outputs=0.3
    ),
    "variational": lambda cell: rnnjax.with_dropout(
        cell, inputs=0.3, state=0.3, outputs=0.3, per="sequence"
    ),
    "zoneout": lambda cell: rnnjax.zoneout(cell, 0.3),
    "drop-connect": lambda cell: rnnjax.drop_connect(cell, 0.5, names=fields(cell)),
}
# These join features: the cell takes i of them and puts out o.
VECTORS = {
    "layers": lambda cell, i, o: rnnjax.stack(cell, rnnjax.dense(o, i), cell),
    "tokens": lambda cell, i, o: rnnjax.stack(rnnjax.embedding(5, i), cell),
    "residual": lambda cell, i, o: rnnjax.residual(
        rnnjax.stack(cell, rnnjax.dense(o, i))
    ),
    "highway": lambda cell, i, o: rnnjax.highway(cell, i, o),
    "skip-stack": lambda cell, i, o: rnnjax.skip_stack(cell, rnnjax.gru(i + o, 2)),
    "attention": lambda cell, i, o: rnnjax.attention(
        rnnjax.stack(rnnjax.dense(i + 2, i), cell), i, 2, (3, 2)
    ),
    "attention-window": lambda cell, i, o: rnnjax.attention_window(cell, i, o, 2),
}


def taking(cell, x):
    """The names of the combinators that take a cell."""
    joins = [] if isinstance(x, tuple) or x.ndim != 1 else list(VECTORS)
    # Zoneout refuses a cell whose noise it would lose.
    return [name for name in ANY if not (draws(cell) and name == "zoneout")] + joins


ROWS = [
    (number, traversal, combinator, dtype)
    for number, (cell, x) in enumerate(CELLS)
    for traversal, combinator, dtype in itertools.product(
        traversals(cell), taking(cell, x), DTYPES
    )
]


def name(row):
    number, traversal, combinator, dtype = row
    return f"{CELLS[number][0]}-{traversal}-{combinator}-{dtype.__name__}"


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        options = metafunc.config.option
        drawn = random.Random(options.product_seed).sample(ROWS, SAMPLE)
        metafunc.parametrize("row", ROWS if options.whole_product else drawn, ids=name)


def made(number, traversal, combinator):
    cell, x = CELLS[number]
    cell = walking(cell, traversals(cell)[traversal])
    if combinator in ANY:
        return ANY[combinator](cell)
    (i,), (o,) = np.shape(x), rnnjax.output_spec(cell, x).shape
    return VECTORS[combinator](cell, i, o)


def test_the_laws(row):
    number, traversal, combinator, dtype = row
    x = np.array(4) if combinator == "tokens" else CELLS[number][1]
    check_cell(made(number, traversal, combinator), x, dtype=dtype)


@pytest.mark.parametrize("number", range(len(CELLS)))
def test_every_row_can_be_made(number):
    cell, x = CELLS[number]
    rows = [("fused", combinator) for combinator in taking(cell, x)]
    for row in [*rows, *((traversal, "alone") for traversal in traversals(cell))]:
        jax.eval_shape(made(number, *row).init, jax.random.key(0))


def test_the_product_holds_every_combinator():
    cells = [made(0, "fused", combinator) for combinator in taking(*CELLS[0])]
    found = set()
    while cells:
        cell = cells.pop()
        found.add(cell.spec.name)
        cells += cell.spec.cells
    constructors = {name for name in combinators.__all__ if name.islower()}
    assert constructors - found == {"time_distributed"}  # the others are made of it


@pytest.mark.parametrize("family", [DTYPES, tuple(WALKS)])
def test_samples_reach_everywhere_within_two_months(family):
    reached = {
        value
        for day in range(60)
        for row in random.Random(day).sample(ROWS, SAMPLE)
        for value in row
    }
    assert set(family) <= reached
    assert set(range(len(CELLS))) <= reached
