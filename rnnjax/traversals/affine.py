"""Walks of steps that are affine in their carry, proven from their programs."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import meshes, structure
from rnnjax.cell import Carry
from rnnjax.checks import size as checked_size
from rnnjax.checks import time_steps
from rnnjax.signals import Traversal, gated
from rnnjax.structure import Part
from rnnjax.traversals import linear, solver, sums
from rnnjax.traversals.units import units

Solve = Callable[[Array, Array, Array], Array]  # (a, b, start) -> h

# Units that see each other make a matrix of so many rows at most, for each step.
LARGEST = 128


@gated
def associative(project, step, params, carry, xs):
    r"""Walk a step that is affine in its carry by a parallel prefix over time.

    .. math:: h_t = a_t h_{t-1} + b_t

    That the step is of this form is proven from its program while it is traced, and so
    is what its units see. Where they see only themselves, a is elementwise; units of
    the same place in several leaves that see each other, such as the parts of a complex
    number, make small matrices. Where units see each other, ``n`` of them have an
    ``(n, n)`` matrix at each step, with :math:`O(t n^2)` memory and :math:`O(t n^3)`
    work: this is for small states. Leaves of the carry that read only others are walked
    after these. A maximum such as the stabiliser of an mLSTM, ``m = max(m + a, b)``, is
    walked first, step by step.

    The depth is :math:`O(\log t)` and the work about three times that of a loop. For
    the backward pass a and the states are kept. See `docs/walks.md`.

    Raises:
      ValueError: the step is not affine in its carry, with what stands against it.

    Reference: Blelloch 1990, Prefix sums and their applications, CMU-CS-90-190; Martin,
    Cundy 2018, Parallelizing linear recurrent neural nets over sequence length,
    arXiv:1709.04057.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.min_gru(3, 4, traversal=rnnjax.scan.associative)
    >>> gru = rnnjax.gru(3, 4, traversal=rnnjax.scan.associative)
    >>> params = gru.init(jax.random.key(0))
    >>> try:
    ...     gru.unroll(params, gru.initial_carry(params), jnp.ones((10, 3)))
    ... except ValueError as error:
    ...     print(str(error).split(";")[0])
    gru: a sigmoid of the carry, a product of the carry with itself, a tanh of the carry
    """
    return _walk("associative", solver.recurrence, project, step, params, carry, xs)


def chunked(size: int) -> Traversal:
    """Walk a step that is affine in its carry in chunks of ``size`` steps, all at once.

    The first pass takes ``size`` steps in every chunk at the same time, each from a
    zero carry; then the carries between chunks follow each other, and their part is
    added everywhere. That is ``size + t / size`` steps one after another in place of
    ``t``. Which steps it takes, and what it costs where units see each other, is as in
    `associative`.

    Args:
      size: steps in a chunk. About the square root of the length has the fewest steps.

    Raises:
      ValueError: the step is not affine in its carry, with what stands against it.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.min_gru(3, 4, traversal=rnnjax.scan.chunked(32))
    """
    return _chunked(checked_size("size", size))


# Equal calls make one traversal, so that cells made by equal calls are equal.
@functools.cache
def _chunked(size: int) -> Traversal:
    chunks = functools.partial(linear.chunks, size=size)
    solve = functools.partial(linear.recurrence, chunks)

    def walk(project, step, params, carry, xs):
        return _walk(f"chunked({size})", solve, project, step, params, carry, xs)

    walk.__name__ = walk.__qualname__ = f"chunked({size})"
    return gated(walk)


def _walk(
    walk: str, solve: Solve, project: Any, step: Any, *given: Any
) -> tuple[Carry, Any]:
    params, carry, xs = given
    time = time_steps(xs)
    parts = _proven(walk, project, step, *given)
    zs = sums.at_all_times(project, params, time, xs)
    leaves, form = jax.tree.flatten(carry)
    # The states before each step, as far as they are known.
    befores: dict[int, Array] = {}
    last = list(leaves)

    for part in parts:

        def of_part(states, params, known, z, places=part.leaves):
            """What the step makes of the leaves of a part."""
            given = [*leaves]
            for i, leaf in (known | dict(zip(places, states, strict=True))).items():
                given[i] = leaf
            after = jax.tree.leaves(step(params, form.unflatten(given), z)[0])
            return [after[i] for i in places]

        start = [leaves[i] for i in part.leaves]
        solver = (
            _stepwise
            if part.kind == "max-plus"
            else functools.partial(_solved, solve, part)
        )
        states = solver(of_part, params, start, befores, zs)
        for i, first, state in zip(part.leaves, start, states, strict=True):
            last[i] = state[-1]
            befores[i] = jnp.concatenate([first[None], state[:-1]])

    def output(params, before, z):
        return step(params, before, z)[1]

    before = form.unflatten([befores[i] for i in range(len(leaves))])
    ys = sums.at_all_times(output, params, time, before, zs)
    return form.unflatten(last), ys


def _proven(
    walk: str, project: Any, step: Any, params: Any, carry: Any, xs: Any
) -> Sequence[Part]:
    """The parts of a step all of which can be walked."""

    def after(carry, params, x):
        return step(params, carry, project(params, x))[0]

    name = structure.name(step)
    write = (
        "Write traversal=rnnjax.scan.default, or rnnjax.scan.newton() for a walk of "
        "all steps at once."
    )
    for leaf in jax.tree.leaves(carry):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name}: the carry has a leaf of {leaf.dtype}; scan.{walk} takes a "
                "carry of real floating numbers. Write traversal=rnnjax.scan.default."
            )
    parts = structure.of(after, carry, params, jax.tree.map(lambda a: a[0], xs))
    why = tuple(
        dict.fromkeys(why for p in parts if p.kind == "nonlinear" for why in p.why)
    )
    if why:
        raise ValueError(
            f"{name}: {', '.join(why)}; scan.{walk} takes a step that is affine in its "
            f"carry. {write}"
        )
    for part in parts:
        rows = _rows(part, carry)
        if part.kind == "affine" and rows > LARGEST:
            raise ValueError(
                f"{name}: {rows} units of the carry see each other; scan.{walk} takes "
                f"at most {LARGEST}, for it has a ({rows}, {rows}) matrix a step. "
                "Write traversal=rnnjax.scan.default."
            )
    return parts


def _rows(part: Part, carry: Carry) -> int:
    shapes = [jax.tree.leaves(carry)[i].shape for i in part.leaves]
    if not part.apart:
        return sum(map(math.prod, shapes))
    mixed = (n for axis, n in enumerate(shapes[0]) if axis not in part.apart)
    return len(shapes) * math.prod(mixed)


def _stepwise(of_part, params, start, befores, zs):
    """The states of a part, by a loop."""

    def given_states(params, states, x):
        return of_part(states, params, *x)

    one, params = sums.in_dtypes_of(params, given_states), sums.wide(params)

    def body(states, x):
        states = one(params, states, x)
        return states, states

    return lax.scan(body, start, (befores, zs))[1]


def _solved(solve, part, of_part, params, start, befores, zs):
    """The states of an affine part."""
    join, split = units(start, part.apart)

    def coefficients(params, known, z):
        def next_units(h):
            return join(of_part(split(h), params, known, z))

        zero = meshes.varying(jnp.zeros_like(join(start)), start)
        constant, change = jax.linearize(next_units, zero)
        return linear.columns(change, zero), constant

    time = time_steps(zs)
    a, b = sums.at_all_times(coefficients, params, time, befores, zs)
    # Products of many coefficients need more digits than a state.
    h = solve(*map(sums.wide, (a, b, join(start))))
    return jax.vmap(split)(h)
