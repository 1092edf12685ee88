"""The one type of this library: a recurrent cell as four pure functions.

Shapes are written with the same letters everywhere: ``b`` batch, ``t`` time steps,
``i`` input features, ``h`` hidden units, ``k`` gates times hidden units.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, ParamSpec, Protocol, TypeAlias

import jax
from jax import Array

from rnnjax import forms, guards

Params: TypeAlias = Any
"""What training changes: a pytree of arrays, in built-in cells a NamedTuple."""

Carry: TypeAlias = Any
"""What one time step hands to the next: a pytree of arrays."""

_Arguments = ParamSpec("_Arguments")


class Reset(NamedTuple):
    """A reset to a carry that you give; plain flags reset to the initial carry.

    ``where: (t,)`` bool says at which steps, ``carry`` what the carry becomes there
    before the input is consumed.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> start = rnnjax.Reset(jnp.array([True, False, True]), jnp.ones(3))
    >>> h, ys = cell.unroll(params, jnp.zeros(3), jnp.zeros((3, 2)), reset=start)
    >>> bool((ys[0] == ys[2]).all())
    True
    """

    where: Array
    carry: Carry


class Keys(NamedTuple):
    """Two keys for cells that draw random numbers; one plain key serves as both.

    ``sequence`` draws what is fixed for a whole sequence, ``step`` what is new at every
    step. To run a sequence in chunks, give all of them the same ``sequence``, so that
    its masks stay, and each a different ``step``, so that no noise repeats.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.dropout(0.5, per="sequence"), rnnjax.dropout(0.5))
    >>> key = jax.random.key(0)
    >>> chunks = [
    ...     cell.unroll(
    ...         ((), ()), ((), ()), jnp.ones((4, 8)),
    ...         key=rnnjax.Keys(sequence=key, step=jax.random.fold_in(key, n)))[1]
    ...     for n in range(3)]
    >>> chunks[2].shape
    (4, 8)
    """

    sequence: Array
    step: Array


class InitFn(Protocol):
    """Draws parameters: ``init(key) -> params``, with a typed key."""

    def __call__(self, key: Array) -> Params: ...


class InitialCarryFn(Protocol):
    """The carry before the first step: ``initial_carry(params) -> carry``.

    It reads ``params``, so its dtype follows theirs and it may itself be learned.
    """

    def __call__(self, params: Params) -> Carry: ...


class StepFn(Protocol):
    """One time step of one example: ``step(params, carry, x) -> (carry, y)``."""

    def __call__(self, params: Params, carry: Carry, x: Any) -> tuple[Carry, Any]: ...


class UnrollFn(Protocol):
    """One whole sequence, time on axis 0: ``(params, carry, xs) -> (carry, ys)``.

    ``mask: (t,)`` bool: where it is false nothing happens. The carry holds, the output
    is zero, and nothing in the padding reaches a value or a gradient. ``reset: (t,)``
    bool, or a `Reset`: where it is true (and the mask is not false) the carry becomes
    the initial carry *before* the input is consumed. ``key``: a typed key, or `Keys`,
    for cells that draw random numbers; without one they are deterministic.
    """

    def __call__(
        self,
        params: Params,
        carry: Carry,
        xs: Any,
        *,
        mask: Array | None = None,
        reset: Array | Reset | None = None,
        key: Array | Keys | None = None,
    ) -> tuple[Carry, Any]: ...


@dataclass(frozen=True, repr=False)
class Spec:
    """What a cell is, as data: the call that made it.

    >>> import rnnjax
    >>> cell = rnnjax.stack(rnnjax.gru(4, 8), rnnjax.dense(8, 1))
    >>> cell.spec.name, cell.spec.cells
    ('stack', (gru(4, 8), dense(8, 1)))
    >>> cell.spec.cells[0].spec["hidden_size"]
    8
    """

    constructor: Callable[..., "Cell"]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The constructor's name."""
        return self.constructor.__name__

    @property
    def cells(self) -> tuple["Cell", ...]:
        """The cells among the arguments, in their order."""
        return tuple(
            leaf
            for _, value in self.arguments
            for leaf in (value if isinstance(value, tuple) else (value,))
            if isinstance(leaf, Cell)
        )

    def build(self, **changed: Any) -> "Cell":
        """Call the constructor's own code again, with some arguments changed.

        The result has no spec, or that of the cell inside: for example of the stack
        that your own constructor returns.

        >>> import jax, rnnjax
        >>> wider = rnnjax.gru(4, 8).spec.build(hidden_size=16)
        >>> wider.init(jax.random.key(0)).w_hh.shape
        (16, 48)
        """
        arguments = dict(self.arguments) | changed
        call = inspect.BoundArguments(inspect.signature(self.constructor), arguments)
        return inspect.unwrap(self.constructor)(*call.args, **call.kwargs)

    def __getitem__(self, name: str) -> Any:
        """The argument with that name."""
        return dict(self.arguments)[name]

    def __repr__(self) -> str:
        """The call itself, without the arguments that are at their defaults."""
        parts = []
        parameters = inspect.signature(self.constructor).parameters
        for name, value in self.arguments:
            kind, default = parameters[name].kind, parameters[name].default
            if kind is inspect.Parameter.VAR_POSITIONAL:
                parts += [_readable(item) for item in value]
            elif value is default or value == default:
                continue
            elif default is inspect.Parameter.empty:
                parts.append(_readable(value))
            else:
                parts.append(f"{name}={_readable(value)}")
        return f"{self.name}({', '.join(parts)})"


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """A recurrent cell: four pure functions and a description of itself.

    ``step`` takes one example at one time step and ``unroll`` one sequence; for batches
    use ``jax.vmap``, or `rnnjax.unroll`, which does. All arrays enter through
    ``params``, ``carry`` and ``x``, so a cell is static: close over it or pass it to
    ``jax.jit``. Cells with equal specs are equal, so a rebuilt cell never retraces; a
    cell without a spec equals only itself.

    Attributes:
      init: ``(key) -> params``.
      initial_carry: ``(params) -> carry``.
      step: ``(params, carry, x) -> (carry, y)``.
      unroll: ``(params, carry, xs, *, mask, reset, key) -> (carry, ys)``.
      spec: the call that made the cell, or ``None``.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(4, 8)
    >>> cell == rnnjax.lstm(4, 8), cell
    (True, lstm(4, 8))
    >>> params = cell.init(jax.random.key(0))
    >>> xs = jnp.ones((10, 4))  # (time, features)
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), xs)
    >>> ys.shape, bool((ys[-1] == carry.h).all())
    ((10, 8), True)
    """

    init: InitFn
    initial_carry: InitialCarryFn
    step: StepFn
    unroll: UnrollFn
    spec: Spec | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Say how a cell is run, which is not by calling it."""
        raise TypeError(
            f"{self} was called; expected a call of one of its functions. Write "
            "carry, ys = rnnjax.unroll(cell, params, xs) for a batch (batch, time, "
            "...), with params = cell.init(jax.random.key(0)), or cell.unroll(params, "
            "carry, xs) for one sequence."
        )

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Cell):
            return self is other
        # Equal specs alone would make dataclasses.replace(cell, step=...) equal to the
        # cell it was made from, and jit would run the wrong one.
        functions = ("init", "initial_carry", "step", "unroll")
        return (
            self.spec is not None
            and self.spec == other.spec
            and all(_same(getattr(self, f), getattr(other, f)) for f in functions)
        )

    def __hash__(self) -> int:
        return id(self) if self.spec is None else hash(self.spec)

    def __repr__(self) -> str:
        return f"<Cell at {id(self):#x}>" if self.spec is None else repr(self.spec)


class NoStepError(TypeError):
    """Raised by the ``step`` of a cell that needs the whole sequence."""


def constructor(build: Callable[_Arguments, Cell]) -> Callable[_Arguments, Cell]:
    """Give the cells that a function builds a spec: the call that made them.

    Decorate a function that returns a `Cell`, and its cells print readably, compare
    equal when made with equal arguments, and can be rebuilt inside ``jax.jit`` without
    a second trace. Arguments must be hashable: numbers, functions, cells.

    >>> import rnnjax
    >>> @rnnjax.constructor
    ... def encoder(input_size, hidden_size, *, layers=2):
    ...     sizes = [input_size] + [hidden_size] * layers
    ...     return rnnjax.stack(*map(rnnjax.gru, sizes[:-1], sizes[1:]))
    >>> encoder(3, 8, layers=1), encoder(3, 8) == encoder(3, 8, layers=2)
    (encoder(3, 8, layers=1), True)
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def construct(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Cell:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            names = ", ".join(
                name if p.default is p.empty else f"{name}=..."
                for name, p in signature.parameters.items()
            )
            raise TypeError(
                f"{build.__name__} got wrong arguments: {error}. Write "
                f"{build.__name__}({names})."
            ) from None
        bound.apply_defaults()
        cell = build(*bound.args, **bound.kwargs)
        for name, value in bound.arguments.items():
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"{name} of {build.__name__} is {forms.outline(value)}, which "
                    "cannot be hashed; a cell is static and its arguments must be "
                    "plain values. Write a number, a tuple or a function; arrays "
                    "belong in params."
                ) from None
        spec = Spec(construct, tuple(bound.arguments.items()))
        functions = (cell.init, cell.initial_carry, cell.step, cell.unroll)
        return Cell(*guards.guarded(spec, functions), spec)

    return construct


def _readable(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def _same(one: Any, other: Any) -> bool:
    """Whether two functions come from the same place in the source."""
    one, other = inspect.unwrap(one), inspect.unwrap(other)
    code = getattr(one, "__code__", None)
    return one is other or (code is not None and code is getattr(other, "__code__", 0))
