"""A cell and a rule: one step forwards, and the gradient of this step's loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from rnnjax import checks, forms
from rnnjax.cell import Carry, Cell, Params
from rnnjax.online.stepping import Move, Place
from rnnjax.signals import select


class Rule(NamedTuple):
    r"""How the dependence of the state on the params is carried forward.

    The influence is :math:`S_t = dc_t / d\theta`, a matrix of ``n`` rows with a column
    for each number in the params. A rule keeps it, or less, as its memory.

    Attributes:
      name: the call that made it, for messages.
      start: ``(place, key) -> memory``, of an initial carry.
      advance: ``(place, memory, key) -> memory``, over the step at a place.
      back: ``(place, memory, by_state) -> by_params``, which is ``by_state @ S`` for
        the cotangent of the state before the step.
      draws: whether it needs a key.
      view: the step as the rule differentiates it, ``(params, state)`` to the next
        state and the output.
    """

    name: str
    start: Callable[[Place, Array | None], Any]
    advance: Callable[[Place, Any, Array | None], Any]
    back: Callable[[Place, Any, Array], Params]
    draws: bool = False
    view: Callable[[Place], Move] = lambda place: place.move

    def __repr__(self) -> str:
        return self.name


class LearnerState(NamedTuple):
    """What one step hands to the next.

    ``carry`` is the cell's, ``memory`` the rule's; ``key`` is for rules that draw, and
    ``None`` for the others.
    """

    carry: Carry
    memory: Any
    key: Array | None


class InitFn(Protocol):
    """The state before the first step: ``init(params, x) -> state``.

    ``x`` is an example of the input of one step; its values do not matter. ``key`` is
    for rules that draw.
    """

    def __call__(
        self, params: Params, x: Any, *, key: Array | None = None
    ) -> LearnerState: ...


class StepFn(Protocol):
    """One step of one example: ``step(params, state, x) -> (y, pull, state)``.

    ``mask`` and ``reset`` are flags of this step, ``()`` bool, which mean what those of
    ``cell.unroll`` do. ``pull(dy)`` has the form of the params.
    """

    def __call__(
        self,
        params: Params,
        state: LearnerState,
        x: Any,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
    ) -> tuple[Any, Callable[[Any], Params], LearnerState]: ...


class Learner(NamedTuple):
    """Two pure functions of one example, which `learner` makes."""

    init: InitFn
    step: StepFn


def learner(cell: Cell, rule: Rule) -> Learner:
    r"""Learn at every step of a sequence that never ends.

    ``step`` returns the output :math:`y_t`, a function ``pull``, and the next state.
    ``pull(dy)`` is the gradient of a loss of :math:`y_t` for the params, through all
    steps so far as the rule remembers them:

    .. math::
        \frac{d\,loss}{d\theta} = \frac{\partial loss}{\partial y_t} \left(
        \frac{\partial y_t}{\partial \theta} +
        \frac{\partial y_t}{\partial c_{t-1}} S_{t-1} \right), \qquad
        S_t = \frac{\partial c_t}{\partial c_{t-1}} S_{t-1} +
        \frac{\partial c_t}{\partial \theta}

    With params that stay as they are, the sum of these gradients over a sequence is
    that of backpropagation through time: exactly for `rtrl`, and for `units` where it
    applies; `uoro` and `kf_rtrl` have it as their mean. If you update the params on the
    way, what the memory holds belongs to those before, as it always does in learning
    while a sequence goes on.

    The loss and a read-out stay outside: take ``dy`` from `jax.grad` of yours. All of
    it runs inside `jax.lax.scan`, with any optax optimizer. `jax.vmap` makes it a
    batch, of ``step`` and of ``pull`` alike, which is a pytree.

    Args:
      cell: a cell with a ``step`` and floating params.
      rule: `rtrl`, `units`, `snap`, `uoro`, `kf_rtrl`, `e_prop` or `tbptt`, called.

    Raises:
      NoStepError: where it runs, for cells that need the whole sequence.
      ValueError: where it runs, for a rule that does not apply to the cell.

    Reference: Williams, Zipser 1989, A learning algorithm for continually running fully
    recurrent neural networks, Neural Computation 1; Marschall, Cho, Savin 2020, A
    unified framework of online learning algorithms for training recurrent neural
    networks, arXiv:1907.02649.

    >>> import jax, jax.numpy as jnp, optax, rnnjax
    >>> from rnnjax import online
    >>> cell = rnnjax.stack(rnnjax.gru(2, 8), rnnjax.dense(8, 2))
    >>> params = cell.init(jax.random.key(0))
    >>> learner = online.learner(cell, online.rtrl())
    >>> optimizer = optax.adam(1e-2)
    >>> def learn(held, x):
    ...     params, moments, state, last = held
    ...     y, pull, state = learner.step(params, state, x)
    ...     loss, dy = jax.value_and_grad(lambda y: jnp.mean((y - last) ** 2))(y)
    ...     updates, moments = optimizer.update(pull(dy), moments, params)
    ...     return (optax.apply_updates(params, updates), moments, state, x), loss
    >>> xs = jax.random.normal(jax.random.key(1), (1500, 2))  # recall the one before
    >>> start = params, optimizer.init(params), learner.init(params, xs[0]), xs[0]
    >>> _, losses = jax.lax.scan(learn, start, xs)
    >>> bool(losses[-200:].mean() < 0.5 * losses[:200].mean())
    True
    """
    cell = checks.cell("cell", cell)
    if not isinstance(rule, Rule):
        raise TypeError(
            f"rule is {forms.outline(rule)}; expected a Rule. Write "
            "rnnjax.online.rtrl(), called."
        )

    def init(params, x, *, key=None):
        checks.model(cell, params)
        checks.arrays("x", x)
        if rule.draws and key is None:
            raise ValueError(
                f"key is None; {rule} draws random numbers and expected one. Write "
                "learner.init(params, x, key=jax.random.key(0))."
            )
        key, begin = jax.random.split(checks.key(key)) if rule.draws else (None, None)
        carry = cell.initial_carry(params)
        memory = rule.start(Place(cell, params, carry, x), begin)
        return LearnerState(carry, memory, key)

    def step(params, state, x, *, mask=None, reset=None):
        checks.model(cell, params)
        if not isinstance(state, LearnerState):
            raise TypeError(
                f"state is a {type(state).__name__}; expected a LearnerState. Write "
                "state = learner.init(params, x) before the first step."
            )
        carry, memory, key = state
        key, begin, draw = (None,) * 3 if key is None else jax.random.split(key, 3)
        if mask is not None:
            mask = checks.flags("mask", mask, ())
            x = jax.tree.map(lambda a: jnp.where(mask, a, jnp.zeros_like(a)), x)
        if reset is not None:
            reset = checks.flags("reset", reset, ())
            start = cell.initial_carry(params)
            fresh = start, rule.start(Place(cell, params, start, x), begin)
            carry, memory = select(reset, fresh, (carry, memory))
        place = Place(cell, params, carry, x)
        y, through = jax.vjp(
            lambda params, state: rule.view(place)(params, state)[1],
            *(params, place.state),
        )
        pull = Partial(
            functools.partial(_pull, rule, cell), through, *place[1:], memory
        )
        after, _ = cell.step(params, carry, x)
        later = after, rule.advance(place, memory, draw)
        if mask is not None:
            # A padded step does nothing at all: its reset does not count either.
            later = select(mask, later, state[:2])
            y = select(mask, y, jax.tree.map(jnp.zeros_like, y))
            pull = Partial(_masked, mask, pull)
        return y, pull, LearnerState(later[0], later[1], key)

    return Learner(init, step)


def _pull(rule, cell, through, params, carry, x, memory, dy):
    by_params, by_state = through(dy)
    earlier = rule.back(Place(cell, params, carry, x), memory, by_state)
    return jax.tree.map(jnp.add, by_params, earlier)


def _masked(mask, pull, dy):
    grads = pull(dy)
    return select(mask, grads, jax.tree.map(jnp.zeros_like, grads))
