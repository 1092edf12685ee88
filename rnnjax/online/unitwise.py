"""Rules that keep of the influence what stays within one unit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal
from jax.tree_util import keystr, tree_leaves_with_path

from rnnjax import checks, programs
from rnnjax.cell import Params
from rnnjax.online import rules
from rnnjax.online.generic import MANY, NONE, Facts, facts
from rnnjax.online.learning import Rule
from rnnjax.online.stepping import Move, Place, whole
from rnnjax.structure.rules import CONVOLUTIONS

Blocks = Callable[[Move, Place, Facts], Array]
"""How the states of each unit depend on each other, ``(units, states, states)``."""


def units() -> Rule:
    r"""Exact and cheap, for cells whose units see only themselves.

    Where no unit reads another, as in `rnnjax.indrnn`, `rnnjax.indy_lstm`,
    `rnnjax.sru` or `rnnjax.min_gru`, a number in the params moves the states of one
    unit alone, now and later. The rule keeps these: as many numbers as there are params
    for each state of a unit, and a step costs a few times that of the cell.

    Raises:
      ValueError: where it runs, for a cell with a unit that reads another, and for
        params that move several units.

    Reference: Mozer 1989, A focused backpropagation algorithm for temporal pattern
    recognition, Complex Systems 3; Zucchet et al. 2023, Online learning of long-range
    dependencies, arXiv:2305.15947.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.indrnn(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.units())
    >>> state = learner.init(params, jnp.ones(2))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_ih.shape
    (2, 3)
    """
    return _unitwise("units()", _apart, alone=True)


def snap(n: int) -> Rule:
    r"""Sparse approximation: of the influence, what reaches a unit within ``n`` steps.

    With :math:`n = 1` a number in the params is taken to move only the states of its
    own unit: what the unit does to others, and they to it, is left out. The rule keeps
    as many numbers as there are params, for each state of a unit. With more steps it
    keeps the rows of all units that the number can reach in ``n`` steps, of the matrix
    that `rtrl` keeps: for networks whose units read few others, since otherwise two
    steps reach all and it is exact.

    What can reach what is taken from the program of a step and not from its values, so
    a dead ReLU counts as the unit that it is.

    Args:
      n: steps.

    Raises:
      ValueError: where it runs, for params that move several units in one step, such
        as those of a lower layer in a stack.

    Reference: Menick et al. 2021, A practical sparse approximation for real time
    recurrent learning, arXiv:2006.07232. There the order is that of entries of the
    state; here it is that of units, so that both states of an LSTM belong together.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.snap(1))
    >>> state = learner.init(params, jnp.ones(2))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_hh.shape
    (3, 12)
    """
    n = checks.size("n", n)
    if n == 1:
        return _unitwise("snap(1)", _within)
    exact = rules.rtrl()

    def sparse(place: Place, memory: Any) -> Any:
        found = facts(place)
        _owned("snap", place, found)
        reach = np.eye(len(found.reads), dtype=bool)
        for _ in range(n - 1):
            reach = reach | (found.reads @ reach)
        rows = jnp.asarray(reach[found.unit])

        def keep(owner, s):
            kept = rows[:, owner] & (owner != NONE)
            return jnp.where(kept, s, jnp.zeros_like(s))

        return jax.tree.map(keep, found.owners, memory)

    def start(place, key):
        return sparse(place, exact.start(place, key))

    def advance(place, memory, key):
        return sparse(place, exact.advance(place, memory, key))

    return Rule(f"snap({n})", start, advance, exact.back)


def e_prop() -> Rule:
    r"""Eligibility traces: no gradient goes through the recurrent weights.

    .. math::
        \epsilon_t = \frac{\partial c_t}{\partial c_{t-1}}\Big|_{\text{own unit}}
        \epsilon_{t-1} + D_t

    Products of the carry with weights, on the way to the next carry, are taken as
    inputs that come from elsewhere, so that a unit knows only how its own states
    remember. For an LSTM this is the forget
    gate: :math:`\epsilon_t = f_t \epsilon_{t-1} + \dots`. The gradient of the loss for
    the outputs of this step is the learning signal. Memory and cost are those of
    `units`; unlike `snap` it also leaves out the recurrent weight of a unit to itself.

    Raises:
      ValueError: where it runs, for units that read each other in other ways than by a
        product, and for params that move several units in one step.

    Reference: Bellec et al. 2020, A solution to the learning dilemma for recurrent
    networks of spiking neurons, Nature Communications 11.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.e_prop())
    >>> state = learner.init(params, jnp.ones(2))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_hh.shape
    (3, 12)
    """
    return _unitwise("e_prop()", _apart, view=_without_products, alone=True)


def _unitwise(
    name: str,
    blocks: Blocks,
    *,
    view: Callable[[Place], Move] = whole,
    alone: bool = False,
) -> Rule:
    """The memory is, for each state of a unit, an array for each of the params.

    With ``alone`` units must see only themselves, in the step as it is viewed.
    """

    def seen(place):
        found = facts(place, view)
        if alone:
            _alone(name, place, found)
        return found

    def start(place, key):
        found = seen(place)
        _owned(name, place, found)
        return _direct(place.first, place, found)

    def advance(place, memory, key):
        found, move = seen(place), view(place)
        direct = _direct(lambda p: move(p, place.state)[0], place, found)
        within = blocks(move, place, found)

        def one(k):
            def moved(owner, d, *memory):
                of_owner = [_of(owner, within[:, k, m]) for m in range(len(memory))]
                return d + sum(a * s for a, s in zip(of_owner, memory, strict=True))

            return jax.tree.map(moved, found.owners, direct[k], *memory)

        return tuple(one(k) for k in range(len(memory)))

    def back(place, memory, by_state):
        found = facts(place, view)
        by_place = _at(by_state, found.places)

        def gathered(owner, *memory):
            parts = [_of(owner, by_place[:, k]) * s for k, s in enumerate(memory)]
            return sum(parts[1:], start=parts[0])

        return jax.tree.map(gathered, found.owners, *memory)

    return Rule(name, start, advance, back, view=view)


def _alone(name: str, place: Place, found: Facts) -> None:
    after, before = np.nonzero(found.reads & ~np.eye(len(found.reads), dtype=bool))
    if after.size:
        raise ValueError(
            f"rule is {name}, and in {place.cell} unit {after[0]} reads unit "
            f"{before[0]}; expected units that see only themselves. Write "
            "rnnjax.online.rtrl(), or snap(1) for an approximation."
        )


def _owned(name: str, place: Place, found: Facts) -> None:
    for path, owner in tree_leaves_with_path(found.owners):
        if (owner == MANY).any():
            raise ValueError(
                f"rule is {name}, and params{keystr(path)} of {place.cell} moves "
                "several units in one step; expected params that move one unit each. "
                "Write a learner for each layer, or rnnjax.online.rtrl()."
            )


def _of(owner: np.ndarray, by_unit: Array) -> Array:
    """For each number in the params what its unit has, ready to be broadcast.

    The numbers of a column mostly belong to one unit, which is then looked up once.
    """
    for axis in range(owner.ndim) if owner.size else ():
        first = owner.take([0], axis)
        owner = first if (owner == first).all() else owner
    return jnp.where(owner == NONE, jnp.zeros((), by_unit.dtype), by_unit[owner])


def _at(state: Array, places: np.ndarray) -> Array:
    """The states of each unit, ``(units, states)``."""
    return jnp.where(places == NONE, jnp.zeros((), state.dtype), state[places])


def _marks(found: Facts, dtype: Any) -> list[Array]:
    """A vector for each state of a unit, with ones where that of all units stands."""
    vectors = np.zeros((found.places.shape[1], len(found.unit)))
    for mark, places in zip(vectors, found.places.T, strict=True):
        mark[places[places != NONE]] = 1
    return list(jnp.asarray(vectors, dtype))


def _direct(
    function: Callable[[Params], Array], place: Place, found: Facts
) -> tuple[Params, ...]:
    """What each number in the params does to each state of its own unit."""
    after, pull = jax.vjp(function, place.params)
    return tuple(pull(mark)[0] for mark in _marks(found, after.dtype))


def _apart(move: Move, place: Place, found: Facts) -> Array:
    """Of units that see only themselves: all at once."""

    def after(state):
        return move(place.params, state)[0]

    _, push = jax.linearize(after, place.state)
    columns = [
        _at(push(mark), found.places) for mark in _marks(found, place.state.dtype)
    ]
    return jnp.stack(columns, axis=2)


def _within(move: Move, place: Place, found: Facts) -> Array:
    """Of units that also see others, whose influence is left out."""
    jacobian = jax.jacfwd(lambda s: move(place.params, s)[0])(place.state)
    rows, columns = found.places[:, :, None], found.places[:, None, :]
    there = (rows != NONE) & (columns != NONE)
    return jnp.where(there, jacobian[rows, columns], jnp.zeros((), jacobian.dtype))


def _without_products(place: Place) -> Move:
    """The step, whose products have no derivative for the carry.

    Those that the next carry does not depend on, such as a read-out's, keep theirs.
    """

    def move(params, state):
        closed, shape = jax.make_jaxpr(place.move, return_shape=True)(params, state)
        leaves = [(a, a) for a in jax.tree.leaves(params)]
        given = [*leaves, (state, jax.lax.stop_gradient(state))]
        remembered = [v is closed.jaxpr.outvars[0] for v in closed.jaxpr.outvars]
        results = [whole for whole, _ in _pairs(closed, given, remembered)]
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return move


def _pairs(
    closed: Any, given: list[tuple[Any, Any]], remembered: list[bool]
) -> list[tuple[Any, Any]]:
    """Each value twice: as it is, and as if the carry had no derivative.

    ``remembered`` says which results the next carry depends on.
    """
    jaxpr = closed.jaxpr
    consts = [(c, c) for c in closed.consts]
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, given, strict=True)
    leads = {v for v, kept in zip(jaxpr.outvars, remembered, strict=True) if kept}
    for eqn in reversed(jaxpr.eqns):
        if not leads.isdisjoint(eqn.outvars):
            leads.update(v for v in eqn.invars if not isinstance(v, Literal))

    def read(v):
        return (v.val, v.val) if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        pairs = [read(v) for v in eqn.invars]
        kept = [v in leads for v in eqn.outvars]
        inner = programs.inner(eqn)
        if eqn.primitive.name in ("jit", "pjit", "closed_call") and inner is not None:
            results = _pairs(inner, pairs, kept)
        else:
            whole, stopped = zip(*pairs, strict=True) if pairs else ((), ())
            after = programs.run_one(jaxpr, eqn, stopped)
            product = eqn.primitive.name in ("dot_general", *CONVOLUTIONS)
            cut = product and any(kept)
            own = after if cut else programs.run_one(jaxpr, eqn, whole)
            results = list(zip(own, after, strict=True))
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]
