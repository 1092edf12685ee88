"""Solve a nonlinear recurrence for all steps at once."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks, floats, meshes, structure
from rnnjax.checks import time_steps
from rnnjax.observation import observe
from rnnjax.signals import Traversal, gated
from rnnjax.traversals import linear, sums
from rnnjax.traversals.units import units

JACOBIANS = ("full", "units", "diagonal")
# Beyond so many rounds a loop over the steps is the better walk.
_MOST = 200

Move = Callable[[Any, Any], Any]
"""``(state, inputs) -> state`` of one step."""


class Report(NamedTuple):
    """How the states of one sequence were found, by ``scan.newton``.

    Attributes:
      iterations: how often all steps were linearised, the last time to see that the
        states hold: an integer.
      residual: the largest ``|h_t - step(h_{t-1})|`` over the largest ``|h|``, where
        blocks end, before the last correction.
      converged: whether the residual is within the tolerance; where it is not, the
        states are those of the sequential walk, or NaN with ``fallback=False``.
    """

    iterations: Array
    residual: Array
    converged: Array


class Settings(NamedTuple):
    """What a call of `newton` chose, and what the program of the step proves."""

    jacobian: str = "full"
    block: int = 1
    damping: float = 0.0
    tolerance: float | None = None
    max_iterations: int = _MOST
    fallback: bool = True
    # Whether units see only themselves, so that their matrices are the whole Jacobian.
    apart: bool = False
    # Whether a change may be no larger than the states: not in a linear recurrence,
    # which the first round solves.
    limited: bool = True


def newton(
    *,
    jacobian: str = "full",
    block: int = 1,
    damping: float = 0.0,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    fallback: bool = True,
) -> Traversal:
    r"""Walk any step by Newton's method on the states of all steps at once.

    .. math::

        \delta_t &= (1 - damping) J_t \delta_{t-1} + r_t, \qquad
        r_t = step(h_{t-1}) - h_t \\
        h_t &\leftarrow h_t + \delta_t

    Each round evaluates all steps at the last guess and solves a linear recurrence by a
    prefix scan. After k rounds at least k steps are exact, and where states forget how
    they started, a few rounds suffice for any length. In a chaotic recurrence they do
    not, and there a small residual bounds nothing: see ``docs/walks.md``. What the
    prefix scan adds to a state is no larger than the largest state.

    Gradients are those of the recurrence itself, by the implicit function theorem: the
    tangent of the states solves a linear recurrence with the exact Jacobian, whatever
    approximation found the states. Forward mode, higher orders and ``vmap`` work.

    Args:
      jacobian: what J is. ``"full"`` is exact: an ``(n, n)`` matrix for each step of
        all ``n`` numbers of the carry, or, where the program of the step proves that
        units see only themselves, matrices of these. ``"units"`` keeps for each place
        what the leaves of the carry, which have one shape, do to each other there.
        ``"diagonal"`` keeps the diagonal alone. Memory is :math:`O(t n^2)` for the
        first and :math:`O(t n)` for the others, which take more rounds.
      block: steps between two states that are solved for; within blocks time is walked
        step by step, in all blocks at once (multiple shooting).
      damping: from 0, Newton's method, to less than 1; 1 would be a fixed point
        iteration.
      tolerance: of the largest residual over the largest state. Left out it is 64
        times the spacing of numbers at 1: 1.4e-14 in float64, 7.6e-6 in float32; in
        bfloat16 and float16 once the spacing, 7.8e-3 and 9.8e-4.
      max_iterations: after so many rounds the states have not converged; 200 if left
        out.
      fallback: walk step by step what has not converged. Under ``vmap`` the loop runs
        only if an example needs it. With ``False`` the states of such a sequence are
        NaN.

    Raises:
      ValueError, TypeError: for arguments, for a carry that is not floating, and for
        ``"units"`` of leaves that differ in shape.

    Reference: Lim, Zhu, Selfridge, Kasim 2024, Parallelizing non-linear sequential
    models over the sequence length, arXiv:2309.12252; Gonzalez, Warrington, Smith,
    Linderman 2024, Towards scalable and stable parallelization of nonlinear RNNs,
    arXiv:2407.19115.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4, traversal=rnnjax.scan.newton())
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((50, 3)))
    >>> _, expected = rnnjax.gru(3, 4).unroll(params, jnp.zeros(4), jnp.ones((50, 3)))
    >>> bool(jnp.allclose(ys, expected, atol=1e-5))
    True
    """
    checks.choice("jacobian", jacobian, JACOBIANS, 'jacobian="full" for the exact one')
    if checks.not_negative("damping", damping, example=0.5) >= 1:
        raise ValueError(
            f"damping is {damping!r}; expected a number from 0 to less than 1. Write "
            "damping=0.5."
        )
    if tolerance is not None:
        checks.positive("tolerance", tolerance, example=1e-6)
    if max_iterations is not None:
        checks.size("max_iterations", max_iterations)
    return _newton(
        Settings(
            jacobian,
            checks.size("block", block),
            float(damping),
            tolerance,
            _MOST if max_iterations is None else max_iterations,
            checks.flag("fallback", fallback),
        )
    )


# Equal calls make one traversal, so that cells made by equal calls are equal.
@functools.cache
def _newton(settings: Settings) -> Traversal:
    def walk(project, step, params, carry, xs):
        return _walk(settings, project, step, params, carry, xs)

    chosen = settings._asdict().items() - Settings()._asdict().items()
    told = ", ".join(f"{name}={value!r}" for name, value in sorted(chosen))
    walk.__name__ = walk.__qualname__ = f"newton({told})"
    return gated(walk)


def _walk(settings: Settings, project, step, params, carry, xs):
    leaves, form = jax.tree.flatten(carry)
    time = time_steps(xs)
    _refuse(settings, structure.name(step), carry)

    def after(carry, params, x):
        return step(params, carry, project(params, x))[0]

    whole = structure.whole(after, carry, params, jax.tree.map(lambda a: a[0], xs))
    axes = tuple(range(leaves[0].ndim))
    alone = whole.apart == axes and bool(axes)
    # Each number is a unit of its own, in a matrix of one row.
    diagonal = settings.jacobian == "diagonal"
    apart = {"full": whole.apart, "units": axes, "diagonal": ()}[settings.jacobian]
    exact = {"full": True, "units": alone, "diagonal": alone and len(leaves) == 1}
    settings = settings._replace(apart=exact[settings.jacobian])
    join, split = units(leaves, apart)

    def put(leaves):
        return join(leaves)[:, None] if diagonal else join(leaves)

    def take(h):
        return split(h[:, 0] if diagonal else h)

    def move(params, h, z):
        return put(jax.tree.leaves(step(params, form.unflatten(take(h)), z)[0]))

    zs = sums.at_all_times(project, params, time, xs)
    start = put(leaves)
    states = _trajectory((settings, move), params, start, zs)
    before = jax.vmap(take)(jnp.concatenate([start[None], states[:-1]]))

    def output(params, before, z):
        return step(params, form.unflatten(before), z)[1]

    ys = sums.at_all_times(output, params, time, before, zs)
    return form.unflatten(take(states[-1])), ys


def _refuse(settings: Settings, name: str, carry: Any) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(carry)]
    for leaf in jax.tree.leaves(carry):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name}: the carry has a leaf of {leaf.dtype}; scan.newton solves for "
                "floating numbers. Write traversal=rnnjax.scan.default."
            )
    if settings.jacobian == "units" and len(set(shapes)) > 1:
        raise ValueError(
            f"{name}: the leaves of the carry have the shapes {shapes}; "
            'jacobian="units" takes leaves of one shape, whose places are the units. '
            "Write "
            'jacobian="diagonal" or jacobian="full".'
        )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _trajectory(how, params, start, zs):
    """All states ``(t, *units, m)`` after the first one."""
    settings, move = how
    states, report = _found(
        settings, lambda h, z: move(params, h, z), start, zs, time_steps(zs)
    )
    observe(**{f"newton.{k}": v for k, v in report._asdict().items()})
    return states


@_trajectory.defjvp
def _trajectory_jvp(how, primals, tangents):
    settings, move = how
    (params, rest_params), _, (zs, rest_zs) = map(floats.split, primals)
    d_params, d_start, d_zs = map(floats.tangents, tangents)
    states = _trajectory(how, *primals)
    before = jnp.concatenate([primals[1][None], states[:-1]])
    time = len(states)

    def floating_move(params, h, z, rest_z):
        return move(floats.join(params, rest_params), h, floats.join(z, rest_z))

    def contribution(d_params, h, z, rest_z, d_z):
        def of_inputs(params, z):
            return floating_move(params, h, z, rest_z)

        return jax.jvp(of_inputs, (params, z), (d_params, d_z))[1]

    def pushed(d_h, point):
        h, z, rest_z = point
        return jax.jvp(lambda h: floating_move(params, h, z, rest_z), (h,), (d_h,))[1]

    def pulled(d_h, point):
        h, z, rest_z = point
        return jax.vjp(lambda h: floating_move(params, h, z, rest_z), h)[1](d_h)[0]

    points = before, zs, rest_zs
    deltas = sums.at_all_times(contribution, d_params, time, *points, d_zs)
    first = pushed(d_start, jax.tree.map(lambda a: a[0], points))

    def residual(d_states):
        return d_states - jax.vmap(pushed)(linear.after_zero(d_states), points)

    # The derivative is that of the states however roughly these were found.
    linear_settings = settings._replace(tolerance=None, limited=False)

    def solved(through, points, g):
        def step(d_h, inputs):
            point, g = inputs
            return through(d_h, point) + g

        zero = jnp.zeros_like(g[0])
        return _found(linear_settings, step, zero, (points, g), time)[0]

    def transposed(_, g):
        # What h_t gives to h_{t+1} comes back from there.
        backwards = jax.tree.map(lambda a: jnp.roll(jnp.flip(a, 0), 1, 0), points)
        return jnp.flip(solved(pulled, backwards, jnp.flip(g, 0)), 0)

    d_states = lax.custom_linear_solve(
        residual,
        deltas.at[0].add(first),
        lambda _, g: solved(pushed, points, g),
        transposed,
    )
    return states, d_states


def _found(
    settings: Settings, move: Move, start: Array, inputs: Any, time: int
) -> tuple[Array, Report]:
    """The states of ``h_t = move(h_{t-1}, inputs_t)``, and how they were found."""
    count = -(-time // settings.block)
    # The last block walks on with the last input; nobody reads what comes of it.
    at = jnp.minimum(jnp.arange(count * settings.block), time - 1)
    at = at.reshape(count, settings.block)
    blocks = jax.tree.map(lambda a: a[at], inputs)
    tolerance = settings.tolerance or _tolerance(start.dtype)
    walk = jax.vmap(functools.partial(_walked, settings, move))

    def wrong(residual):
        return ~(residual <= tolerance)

    def unfinished(loop):
        _, residual, rounds = loop
        # After as many rounds as there are blocks all of them are exact.
        return wrong(residual) & (rounds < min(settings.max_iterations, count + 1))

    def again(loop):
        starts, _, rounds = loop
        ends, products = walk(starts, blocks)
        jumps, largest = ends[:-1] - starts[1:], jnp.abs(ends).max()
        # Relative, and zero over zero is zero.
        residual = jnp.abs(jumps).max(initial=0) / jnp.where(largest > 0, largest, 1)
        ends = ends[:-1]
        if count > 1:
            ends = _corrected(settings, products[:-1], ends, jumps)
        starts = jnp.concatenate([start[None], ends])
        return starts, residual.astype(start.dtype), rounds + 1

    starts = jnp.broadcast_to(start, (count, *start.shape))
    infinite = jnp.asarray(jnp.inf, start.dtype)
    first = (starts, infinite, jnp.zeros((), jnp.int32))
    first = meshes.mapped(meshes.varying(first, inputs), (start, inputs))
    starts, residual, rounds = lax.while_loop(unfinished, again, first)
    # From the starts of one correction more than the residual tells of: where a change
    # is handed on for long, the gradient needs it.
    states = jax.vmap(functools.partial(_sequential, move))(starts, blocks)
    states = states.reshape(-1, *start.shape)[:time]
    report = Report(rounds, residual, ~wrong(residual))
    if not settings.fallback:
        return jnp.where(report.converged, states, jnp.nan), report
    # Under vmap a cond would run for all examples; a loop of no turns does not.
    states, _ = lax.while_loop(
        lambda loop: ~loop[1],
        lambda loop: (_sequential(move, start, inputs), jnp.ones_like(loop[1])),
        (states, report.converged),
    )
    return states, report


def _corrected(settings: Settings, products, ends, jumps):
    """The starts of all blocks but the first, for the next round."""
    products, jumps = sums.wide((1 - settings.damping) * products), sums.wide(jumps)
    steps = linear.prefix(products, jumps)
    carried = linear.times(products, linear.after_zero(steps))
    if settings.limited:
        # From a wild guess a product of many Jacobians may overflow, and a cell without
        # bounds, such as an LSTM, would stay where it is thrown. A step no longer than
        # the largest state is let a trained LSTM converge that does not without.
        limit = sums.wide(jnp.abs(ends).max())
        carried = jnp.clip(carried, -limit, limit)
    carried = jnp.where(jnp.isfinite(carried), carried, 0)
    # Where all before is exact nothing is carried, and the end is exact to the bit.
    return ends + carried.astype(ends.dtype)


def _walked(settings: Settings, move: Move, h: Array, inputs: Any):
    """The end of a block, and its Jacobian by the start."""

    def one(state, x):
        h, product = state
        after, change = jax.linearize(lambda h: move(h, x), h)
        columns = linear.columns if settings.apart else _own_columns
        jacobian = columns(change, h)
        if product is not None:
            jacobian = linear.times_matrix(jacobian, product)
        return (after, jacobian), None

    first, rest = (
        jax.tree.map(lambda a, s=s: a[s], inputs) for s in (0, slice(1, None))
    )
    end, _ = one((h, None), first)
    return end if settings.block == 1 else lax.scan(one, end, rest)[0]


def _own_columns(change, h):
    """What each unit does to itself, one unit after the other for want of memory."""
    size = h.shape[-1]
    one = jnp.eye(size, dtype=h.dtype)

    def of_unit(i):
        def column(row):
            only = jnp.zeros((math.prod(h.shape[:-1]), size), h.dtype).at[i].set(row)
            only = meshes.varying(only.reshape(h.shape), h)
            return change(only).reshape(-1, size)[i]

        return jax.vmap(column, out_axes=1)(one)

    every = lax.map(of_unit, jnp.arange(math.prod(h.shape[:-1])))
    return every.reshape(*h.shape, size)


def _sequential(move: Move, start: Array, inputs: Any) -> Array:
    def one(h, x):
        h = move(h, x)
        return h, h

    return lax.scan(one, start, inputs)[1]


def _tolerance(dtype: Any) -> float:
    spacing = float(jnp.finfo(dtype).eps)
    return spacing if jnp.finfo(dtype).bits < 32 else 64 * spacing
