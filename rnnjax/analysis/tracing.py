"""Every gate and state of every step, by name, and the gradients in between."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.tree_util import keystr, tree_leaves_with_path

from rnnjax import checks, scan, signals
from rnnjax.cell import Carry, Cell, Params, Reset
from rnnjax.combinators.layers import parallel, reverse


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["names"]
)
@dataclass(frozen=True)
class Trace:
    """Values by name, each with time on its first axis (behind mapped ones).

    ``trace["i"]`` is an array; ``print(trace)`` is a table with a row for each step.
    The names keep the order in which a step computes them, through ``jit`` too.
    """

    names: tuple[str, ...]
    arrays: tuple[Array, ...]

    def __getitem__(self, name: str) -> Array:
        """The values of that name, ``(t, ...)``."""
        if name not in self.names:
            raise KeyError(f"{name!r} is not in this trace; it has {self.names}.")
        return self.arrays[self.names.index(name)]

    def items(self) -> Iterator[tuple[str, Array]]:
        """Names with their values."""
        return zip(self.names, self.arrays, strict=True)

    def __str__(self) -> str:
        """A table of the first features of each value, of one sequence."""
        columns = []
        for name, value in self.items():
            value = np.asarray(value, dtype=np.float64)
            rows = [_numbers(row) for row in value.reshape(len(value), -1)]
            width = max(map(len, [name, *rows]))
            columns.append([text.rjust(width) for text in [name, *rows]])
        steps = ["step", *map(str, range(len(columns[0]) - 1 if columns else 0))]
        table = zip([s.rjust(4) for s in steps], *columns, strict=True)
        return "\n".join("  ".join(row) for row in table)


def trace(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    mask: Array | None = None,
    reset: Array | Reset | None = None,
) -> Trace:
    """Unroll one sequence and return every gate and state of every step by name.

    Values at padded steps are zero. Cells inside a cell add their place to the name:
    ``"1.h"`` is the state of the second layer of a stack, ``"backward.c"`` belongs to
    the second direction of a bidirectional cell, in the order of the inputs. A cell of
    one's own shows what it passes to `observe`, or else its carry and output. It works
    under ``jax.jit`` and ``jax.vmap``; to print from inside a compiled step use
    ``jax.debug.print``.

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.
      mask: as in ``cell.unroll``.
      reset: as in ``cell.unroll``.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(1, 1, forget_bias=0.0)
    >>> params = jax.tree.map(jnp.ones_like, cell.init(jax.random.key(0)))
    >>> carry = cell.initial_carry(params)
    >>> print(rnnjax.trace(cell, params, carry, jnp.array([[0.0], [1.0]])))
    step      i      f      g      o      c      h
       0  0.731  0.731  0.762  0.731  0.557  0.370
       1  0.914  0.914  0.983  0.914  1.408  0.811
    """
    start = cell.initial_carry(params)
    carry, mask, reset = signals.read(start, carry, xs, mask, reset)
    values = _values(cell, params, carry, xs, mask, reset)
    return Trace(tuple(values), tuple(values.values()))


def carry_gradients(
    cell: Cell, params: Params, carry: Carry, xs: Any, loss: Callable[[Any], Array]
) -> Carry:
    r"""The gradient of a loss for the carry that every step receives.

    .. math:: g_t = \frac{\partial\, loss(y_0, \dots, y_{T-1})}{\partial carry_{t-1}}

    How fast it shrinks or grows towards the first step tells how far back a cell
    learns. Draw it with `rnnjax.plot.gradient_norms`.

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carry: the carry before the first step.
      xs: one sequence, ``(t, i)``.
      loss: from the outputs of all steps, ``(t, ...)``, to a number.

    Returns:
      A pytree like the carry, time on the first axis of its leaves; zero for those
      that are not floating.

    Raises:
      NoStepError: for cells that need the whole sequence.

    Reference: Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent
    neural networks, arXiv:1211.5063.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> g = rnnjax.carry_gradients(
    ...     cell, params, jnp.zeros(4), jnp.ones((9, 3)), lambda ys: ys[-1].sum())
    >>> g.shape, bool(jnp.linalg.norm(g[0]) < jnp.linalg.norm(g[-1]))
    ((9, 4), True)
    """
    time = checks.time_steps(xs)
    carry = checks.carry(carry, cell.initial_carry(params))
    leaves, structure = jax.tree.flatten(carry)
    floating = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]

    def of_added(added):
        def step(carry, given):
            added, x = given
            leaves = jax.tree.leaves(carry)
            moved = [
                a + d if moves else a
                for a, d, moves in zip(leaves, added, floating, strict=True)
            ]
            return cell.step(params, jax.tree.unflatten(structure, moved), x)

        return loss(jax.lax.scan(step, carry, (added, xs))[1])

    # Float zeros for other dtypes too: jax.grad takes nothing else.
    zeros = [
        jnp.zeros((time, *a.shape), a.dtype if moves else None)
        for a, moves in zip(leaves, floating, strict=True)
    ]
    return jax.tree.unflatten(structure, jax.grad(of_added)(zeros))


def _values(cell, params, carry, xs, mask, reset) -> dict[str, Array]:
    """Named values of a cell, through the cells that it is made of."""
    opened = cell
    while opened.spec is not None and opened.spec.name not in _COMBINATORS:
        opened = opened.spec.build()  # a constructor of one's own may hide a stack
    if opened.spec is None:
        return _of_steps(cell, params, carry, xs, mask, reset)
    through = _COMBINATORS[opened.spec.name]
    return through(opened, params, carry, xs, mask, reset)


def _of_steps(cell, params, carry, xs, mask, reset):
    names = []

    def step(params, carry, x):
        closed, shape = jax.make_jaxpr(cell.step, return_shape=True)(params, carry, x)
        found = {
            eqn.params["name"]: eqn.outvars[0]
            for eqn in closed.jaxpr.eqns
            if eqn.primitive.name == "name"
        }
        # Nothing uses the named values; here they become results.
        outvars = [*closed.jaxpr.outvars, *found.values()]
        info = closed.jaxpr.debug_info._replace(result_paths=None)
        jaxpr = closed.jaxpr.replace(outvars=outvars, debug_info=info)
        run = jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))
        values = run(*jax.tree.leaves((params, carry, x)))
        leaves, structure = jax.tree.flatten(shape)
        after, y = jax.tree.unflatten(structure, values[: len(leaves)])
        named = dict(zip(found, values[len(leaves) :], strict=True)) or _plain(after, y)
        names[:] = named
        return after, tuple(named.values())

    def project(params, x):
        return x

    _, values = scan.fused(project, step, params, carry, xs, mask=mask, reset=reset)
    return dict(zip(names, values, strict=True))


def _plain(carry, y):
    leaves = tree_leaves_with_path({"carry": carry, "y": y})
    return {keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _of_stack(cell, params, carry, xs, mask, reset):
    values = {}
    resets = signals.split_reset(reset, len(carry))
    layers = zip(cell.spec.cells, params, carry, resets, strict=True)
    for i, (layer, p, c, r) in enumerate(layers):
        values |= _prefixed(str(i), _values(layer, p, c, xs, mask, r))
        xs = layer.unroll(p, c, xs, mask=mask, reset=r)[1]
    return values


def _of_parallel(cell, params, carry, xs, mask, reset):
    values = {}
    resets = signals.split_reset(reset, len(carry))
    for i, child in enumerate(cell.spec.cells):
        found = _values(child, params[i], carry[i], xs, mask, resets[i])
        values |= _prefixed(str(i), found)
    return values


def _of_bidirectional(cell, params, carry, xs, mask, reset):
    forward, *backward = cell.spec.cells
    halves = parallel(forward, reverse(*(backward or [forward])))
    values = _of_parallel(halves, params, carry, xs, mask, reset)
    names = {"0": "forward", "1": "backward"}
    return {names[name[0]] + name[1:]: value for name, value in values.items()}


def _of_reverse(cell, params, carry, xs, mask, reset):
    flipped = signals.flip(xs, mask, reset)
    return signals.flip(_values(cell.spec.cells[0], params, carry, *flipped))[0]


def _of_residual(cell, params, carry, xs, mask, reset):
    return _values(cell.spec.cells[0], params, carry, xs, mask, reset)


def _of_learned_carry(cell, params, carry, xs, mask, reset):
    return _values(cell.spec.cells[0], params.cell, carry, xs, mask, reset)


_COMBINATORS = {
    "stack": _of_stack,
    "parallel": _of_parallel,
    "bidirectional": _of_bidirectional,
    "reverse": _of_reverse,
    "residual": _of_residual,
    "learned_carry": _of_learned_carry,
}


def _prefixed(prefix: str, values: dict[str, Array]) -> dict[str, Array]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _numbers(row: np.ndarray, most: int = 4) -> str:
    text = " ".join(f"{number:.3f}" for number in row[:most])
    return text + " ..." if len(row) > most else text
