"""Every cell, in every combinator, under every traversal, keeps every law."""

import dataclasses
import gc
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan, testing

CELLS = {
    "elman": rnnjax.elman,
    "elman-relu": lambda i, h, **kw: rnnjax.elman(i, h, activation=jax.nn.relu, **kw),
    "lstm": rnnjax.lstm,
    "gru": rnnjax.gru,
    "gru-before": lambda i, h, **kw: rnnjax.gru(i, h, reset_after=False, **kw),
}

COMBINATORS = {
    "alone": lambda cell: cell(3, 4),
    "stack": lambda cell: rnnjax.stack(cell(3, 4), rnnjax.dropout(0.5), cell(4, 2)),
    "parallel": lambda cell: rnnjax.parallel(cell(3, 4), rnnjax.reverse(cell(3, 2))),
    "reverse": lambda cell: rnnjax.reverse(cell(3, 4)),
    "bidirectional": lambda cell: rnnjax.bidirectional(cell(3, 4)),
    "residual": lambda cell: rnnjax.residual(cell(3, 3)),
    "learned-carry": lambda cell: rnnjax.learned_carry(cell(3, 4)),
    "learned-stack": lambda cell: rnnjax.learned_carry(
        rnnjax.stack(cell(3, 2), rnnjax.learned_carry(cell(2, 2)))
    ),
    "read-out": lambda cell: rnnjax.stack(
        cell(3, 4), rnnjax.pointwise(jnp.tanh), rnnjax.dense(4, 2)
    ),
}

TRAVERSALS = {
    "default": None,  # a kernel where there is one, which takes float32 and bfloat16
    "fused": scan.fused,
    "hoisted": scan.hoisted,
    "deferred": scan.deferred,
    "checkpointed": scan.checkpointed,
}

MEMORYLESS = {
    "dense": rnnjax.dense(3, 2),
    "pointwise": rnnjax.pointwise(jnp.sin),
    "dropout": rnnjax.dropout(0.3),
}


def build(cell, combinator, traversal):
    def with_traversal(i, h):
        return CELLS[cell](i, h, traversal=TRAVERSALS[traversal])

    return COMBINATORS[combinator](with_traversal)


def pytest_generate_tests(metafunc):
    """Every two of cell, combinator and traversal meet; with the option all three."""
    if metafunc.function is not test_every_cell_combinator_and_traversal:
        return
    # In float64 the default is one of the others: no kernel takes it.
    traversals = [name for name in TRAVERSALS if name != "default"]
    cells = [name for name in CELLS if name != "elman-relu"]
    rows = [
        (cell, combinator, traversal)
        for (i, cell), (j, combinator), (k, traversal) in itertools.product(
            enumerate(cells), enumerate(COMBINATORS), enumerate(traversals)
        )
        if metafunc.config.getoption("whole_product")
        or (i + j + k) % len(traversals) == 0
    ]
    metafunc.parametrize(("cell", "combinator", "traversal"), rows)


def test_every_cell_combinator_and_traversal(cell, combinator, traversal):
    testing.check_cell(build(cell, combinator, traversal), np.ones(3))


@pytest.mark.parametrize("combinator", COMBINATORS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_combinator_under_kernels(cell, combinator):
    made = build(cell, combinator, "default")
    testing.check_cell(made, np.ones(3), dtype=jnp.float32)


@pytest.mark.parametrize("cell", MEMORYLESS.values(), ids=MEMORYLESS)
def test_memoryless_cells(cell):
    testing.check_cell(cell, np.ones(3))


@pytest.mark.parametrize("cell", CELLS)
def test_tokens_in_front(cell):
    embedded = rnnjax.stack(rnnjax.embedding(7, 3), CELLS[cell](3, 4))
    testing.check_cell(embedded, np.array(6))


@pytest.mark.parametrize("traversal", TRAVERSALS)
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16(cell, traversal):
    made = build(cell, "alone", traversal)
    testing.check_cell(made, np.ones(3), dtype=jnp.bfloat16)


@pytest.mark.parametrize("traversal", TRAVERSALS)
def test_float32(traversal):
    made = build("lstm", "alone", traversal)
    testing.check_cell(made, np.ones(3), dtype=jnp.float32)


def test_static_traversal():
    testing.check_cell(rnnjax.gru(3, 4, traversal=scan.static), np.ones(3))


# What each law is for: a cell that breaks it, and nothing before it, is caught by name.


def _broken(change):
    cell = rnnjax.gru(3, 4)
    return dataclasses.replace(cell, spec=None, **change(cell))


def _forgets_to_restart(cell):
    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        return cell.unroll(params, carry, xs, mask=mask)

    return {"unroll": unroll}


def _ignores_the_carry(cell):
    def unroll(params, carry, xs, **signals):
        return cell.unroll(params, cell.initial_carry(params), xs, **signals)

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _scales_outputs(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        return carry, 1.001 * ys

    return {"unroll": unroll}


def _wrong_gradient(cell):
    def unroll(params, carry, xs, **signals):
        params = jax.tree.map(jax.lax.stop_gradient, params)
        return cell.unroll(params, carry, xs, **signals)

    return {"unroll": unroll}


def _looks_ahead(cell):
    def unroll(params, carry, xs, **signals):
        return cell.unroll(params, carry, xs - xs.mean(0), **signals)

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _lets_padding_through(cell):
    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry, ys = cell.unroll(params, carry, xs, mask=mask, reset=reset)
        return carry, ys + 0 * xs.sum()

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _never_restarts(cell):
    return _forgets_to_restart(cell) | {"step": rnnjax.reverse(cell).step}


def _forgets_between_calls(cell):
    calls = []

    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        calls.append(carry)  # a tracer that outlives its trace
        return carry, ys

    return {"unroll": unroll}


def _needs_eight_steps(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        return carry, ys if len(xs) == 8 else 2 * ys

    return {"unroll": unroll}


def _widens_the_carry(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        wide = carry.astype(jnp.float32) if carry.dtype == jnp.bfloat16 else carry
        return wide, ys

    return {"unroll": unroll}


BREAKS = {
    "1-values": (_scales_outputs, "law 1"),
    "1-gradients": (_wrong_gradient, "law 1"),
    "1-reset": (_forgets_to_restart, "law 1"),
    "2": (_needs_eight_steps, "law 2"),
    "3-nan": (_lets_padding_through, "law 3"),
    "3-length": (_looks_ahead, "law 3"),
    "3-identity": (_ignores_the_carry, "law 3"),
    "4": (_never_restarts, "law 4"),
    "6": (_widens_the_carry, "law 6"),
    "7": (_forgets_between_calls, "law 7"),
}


@pytest.mark.parametrize(("change", "law"), BREAKS.values(), ids=BREAKS)
def test_a_broken_cell_is_caught_by_the_law_it_breaks(change, law):
    # JAX looks through all that lives for who holds a leaked tracer.
    gc.freeze()
    try:
        with pytest.raises(AssertionError, match=law):
            testing.check_cell(_broken(change), np.ones(3))
    finally:
        gc.unfreeze()
