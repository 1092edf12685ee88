# pyright: reportOptionalMemberAccess=false
"""Every cell x traversal x combinator x dtype, with a mask, resets and both.

All ways to walk time are compared with a scan of the cell's step that is written here,
for each cell, combinator and dtype. Those are thousands, so a run takes a sample, which
differs from day to day; ``pytest tests/core/test_product.py --whole-product`` takes
them all. For a few rows all seven laws are checked.
"""

import functools
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS

import rnnjax
from rnnjax import combinators, kernels, scan
from rnnjax.testing import check_cell, drawing
from rnnjax.testing.comparing import assert_equal, pulled_back

SAMPLE = {"group": 8, "row": 3}

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
        return jax.tree.map(lambda a: a * 0.5 if drawing.is_float(a) else a, carry)

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
    # Two features, normalised, are 1 and -1, and their gradient is rounding alone.
    "convolved": lambda cell, i, o: rnnjax.stack(
        *(rnnjax.dense(i, 4), rnnjax.layer_norm(4), rnnjax.causal_conv(4, 3)),
        *(rnnjax.dense(4, i), cell, rnnjax.rms_norm(o)),
    ),
    "block": lambda cell, i, o: rnnjax.residual_block(cell, i),
    "griffin": lambda cell, i, o: rnnjax.griffin_block(
        rnnjax.stack(cell, rnnjax.dense(o, i)), i, inner_size=i, expansion=1
    ),
    "timed": lambda cell, i, o: rnnjax.passing_time(cell),
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


GROUPS = [
    (number, combinator, dtype)
    for number, (cell, x) in enumerate(CELLS)
    for combinator, dtype in itertools.product(taking(cell, x), DTYPES)
]
ROWS = [
    (number, traversal, combinator, dtype)
    for number, combinator, dtype in GROUPS
    for traversal in traversals(CELLS[number][0])
]


def name(place):
    number, *words, dtype = place
    return "-".join((str(CELLS[number][0]), *words, dtype.__name__))


def pytest_generate_tests(metafunc):
    options = metafunc.config.option
    for kind, places in {"group": GROUPS, "row": ROWS}.items():
        if kind in metafunc.fixturenames:
            drawn = random.Random(options.draw_seed).sample(places, SAMPLE[kind])
            if options.whole_product and kind == "group":
                first, step = map(int, options.product_part.split("/"))
                drawn = [
                    place
                    for i, place in enumerate(places)
                    if i // len(DTYPES) % step == first - 1
                ]
            metafunc.parametrize(kind, drawn, ids=name)


def made(number, traversal, combinator):
    """A row's cell; ``traversal`` is a name or a function."""
    cell, x = CELLS[number]
    cell = walking(cell, traversals(cell).get(traversal, traversal))
    if combinator in ANY:
        return ANY[combinator](cell)
    (i,), (o,) = np.shape(x), rnnjax.output_spec(cell, x).shape
    return VECTORS[combinator](cell, i, o)


def input_of(number, combinator):
    x = CELLS[number][1]
    beside = {"tokens": np.array(4), "timed": (x, np.array(0.5))}
    return beside.get(combinator, x)


@functools.lru_cache(maxsize=1)
def initial_params(number, combinator):
    """Which the groups of all dtypes share."""
    keys = jax.random.split(jax.random.key(number), 2)
    cell = made(number, plain, combinator)
    return drawing.perturbed(keys[0], cell.init(keys[1]))


def plain(project, step, params, carry, xs, *, mask=None, reset=None):
    """A scan of a step that consumes an input, or a reset, or neither."""
    time = len(jax.tree.leaves(xs)[0])
    mask = jnp.ones(time, bool) if mask is None else mask
    reset = rnnjax.Reset(jnp.zeros(time, bool), carry) if reset is None else reset

    def one(carry, inputs):
        x, valid, restart = inputs
        x = jax.tree.map(lambda a: jnp.where(valid, a, jnp.zeros_like(a)), x)
        before = drawing.select(restart, reset.carry, carry)
        after, y = step(params, before, project(params, x))
        nothing = jax.tree.map(jnp.zeros_like, y)
        return drawing.select(valid, after, carry), drawing.select(valid, y, nothing)

    return jax.lax.scan(one, carry, (xs, mask, reset.where))


TIME = 5
NEVER, VALID = np.zeros(TIME, bool), np.array([True, False, True, True, False])
START = np.array([False, False, True, True, False])
SIGNALS = {
    "mask": (VALID, NEVER),
    "reset": (~NEVER, START),
    "mask and reset": (VALID, START),
}


def test_all_ways_to_walk_agree(group):
    """Values and gradients for params, carry and inputs."""
    number, combinator, dtype = group

    def pulled(traversal):
        cell = made(number, traversal, combinator)

        def run(params, carry, xs, mask, reset):
            given = {"mask": mask, "reset": reset, "key": jax.random.key(3)}
            return cell.unroll(params, carry, xs, **given)

        return cell, run, jax.jit(pulled_back(run))

    cell, run, reference = pulled(plain)
    keys = jax.random.split(jax.random.key(number), 3)
    params = drawing.cast(initial_params(number, combinator), dtype)
    carry = drawing.perturbed(keys[0], cell.initial_carry(params))
    x = drawing.cast(input_of(number, combinator), dtype)
    xs = drawing.draw(keys[1], x, (TIME,))
    weights = drawing.draw(
        keys[2], jax.eval_shape(run, params, carry, xs, VALID, START)
    )
    for traversal in traversals(CELLS[number][0]):
        walked, _, found = pulled(traversal)
        for signals, flags in SIGNALS.items():
            given = (weights, params, carry, xs, *flags)
            law = f"1 (all ways to walk agree), with {signals}"
            assert_equal(law, walked, found(*given), reference, *given)


def test_the_laws(row):
    number, traversal, combinator, dtype = row
    x = input_of(number, combinator)
    check_cell(made(number, traversal, combinator), x, dtype=dtype)


def test_a_walk_that_forgets_resets_is_found(monkeypatch):
    def forgetful(project, step, params, carry, xs, *, mask, reset):
        return scan.fused(project, step, params, carry, xs, mask=mask)

    monkeypatch.setitem(WALKS, "forgetful", forgetful)
    with pytest.raises(AssertionError, match=r"all ways to walk agree\), with reset"):
        test_all_ways_to_walk_agree((0, "stack", jnp.float64))


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
    constructors = {
        name
        for name in combinators.__all__
        if hasattr(getattr(rnnjax, name), "__wrapped__")
    }
    assert constructors - found == {"time_distributed"}  # the others are made of it


@pytest.mark.parametrize("family", [DTYPES, tuple(VECTORS) + tuple(ANY)])
def test_samples_reach_everywhere_within_two_months(family):
    reached = {
        value
        for day in range(60)
        for group in random.Random(day).sample(GROUPS, SAMPLE["group"])
        for value in group
    }
    assert set(family) <= reached
    assert set(range(len(CELLS))) <= reached
