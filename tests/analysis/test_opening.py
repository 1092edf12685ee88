"""What a cell is made of, by constructors and not by their names."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.analysis import opening
from rnnjax.analysis.harvest import harvest

A, B = rnnjax.gru(3, 3), rnnjax.elman(3, 3)


class Two(NamedTuple):
    one: rnnjax.Cell
    other: rnnjax.Cell


def joined(*cells):
    both = rnnjax.stack(*cells)
    return rnnjax.Cell(both.init, both.initial_carry, both.step, both.unroll)


@rnnjax.constructor
def listed(cells, size=3):
    return joined(*cells)


@rnnjax.constructor
def lists(early, late):
    return joined(*early, *late)


@rnnjax.constructor
def first_and_more(cell, *more):
    return joined(cell, *more)


PLACES = [
    (rnnjax.stack(A, B), ["0", "1"], False),
    (rnnjax.stack(A), ["0"], False),
    (rnnjax.residual(A), ["cell"], True),
    (rnnjax.bidirectional(A), ["forward", "backward"], False),
    (listed((A, B)), ["0", "1"], False),
    (listed(Two(A, B)), ["one", "other"], False),
    (lists((A, B), (A,)), ["early.0", "early.1", "late.0"], False),
    (first_and_more(A, B), ["cell", "0"], False),
]


@pytest.mark.parametrize(
    ("cell", "places", "wraps"), PLACES, ids=lambda v: repr(v)[:60]
)
def test_places_are_told_apart(cell, places, wraps):
    assert [part.place for part in opening.parts(cell.spec)] == places
    assert opening.wraps(cell.spec) == wraps
    xs = jnp.ones((4, 3))
    params = cell.init(jax.random.key(0))
    trace = rnnjax.trace(cell, params, cell.initial_carry(params), xs)
    prefixes = dict.fromkeys(name.rpartition(".")[0] for name in trace)
    assert list(prefixes) == ([""] if wraps else places)
    same = opening.rebuild(cell.spec, lambda part: part.cell)
    _, ys = cell.unroll(params, cell.initial_carry(params), xs)
    np.testing.assert_array_equal(
        same.unroll(params, cell.initial_carry(params), xs)[1], ys
    )


def test_who_walks_backwards():
    def backwards(cell):
        return [part.backwards for part in opening.parts(cell.spec)]

    assert backwards(rnnjax.reverse(A)) == [True]
    assert backwards(rnnjax.bidirectional(A, B)) == [False, True]
    assert backwards(rnnjax.parallel(A, B)) == [False, False]


def test_a_cell_without_cells_is_no_combinator():
    assert opening.combinator(A) is None
    assert opening.combinator(rnnjax.dense(3, 2)) is None
    assert opening.combinator(joined(A)) is None
    assert opening.made_by(joined(A), [rnnjax.stack]) is None


def test_values_come_out_of_loops_in_loops():
    def inner(carry, x):
        rnnjax.observe(square=x * x)
        return carry + x, x

    def outer(carry, x):
        carry, ys = jax.lax.scan(inner, carry, x, reverse=True)
        rnnjax.observe(total=carry)
        return carry, ys

    def run(xs):
        return jax.jit(jax.lax.scan, static_argnums=0)(outer, jnp.zeros(()), xs)

    xs = jnp.arange(6.0).reshape(2, 3)
    (total, ys), found = harvest(run, xs)
    assert total == 15
    np.testing.assert_array_equal(ys, xs)
    assert [(one.name, one.loops) for one in found] == [("square", 2), ("total", 1)]
    np.testing.assert_array_equal(found[0].value, xs**2)
    np.testing.assert_array_equal(found[1].value, [3, 15])


def test_values_that_may_not_be_computed_stay_where_they_are():
    def named(x):
        rnnjax.observe(inside=x)
        return x + 1

    def run(x):
        x = jax.lax.cond(x > 0, named, lambda x: x, x)
        x = jax.lax.while_loop(lambda x: x < 5, named, x)
        rnnjax.observe(after=x)
        return jax.lax.fori_loop(0, 2, lambda _, x: named(x), x)

    result, found = harvest(run, jnp.ones(()))
    assert result == 7
    assert [(one.name, one.loops) for one in found] == [("after", 0), ("inside", 1)]
