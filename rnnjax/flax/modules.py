"""What both of Flax's interfaces need of a cell: names, steps over a batch, noise."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax import combinators, signals
from rnnjax.builder import recurrence
from rnnjax.cell import Carry, Cell, Keys, Params
from rnnjax.combinators import features
from rnnjax.combinators.stepping import keyed_step


def named(params: Params) -> dict[str, Any]:
    """A tree of params as nested dictionaries, by the names of its fields.

    >>> import jax, rnnjax
    >>> from rnnjax.flax.modules import named
    >>> cell = rnnjax.stack(rnnjax.elman(2, 3), rnnjax.dense(3, 1))
    >>> jax.tree.map(lambda a: a.shape, named(cell.init(jax.random.key(0))))
    {'0': {'b': (3,), 'w_hh': (3, 3), 'w_ih': (2, 3)}, '1': {'b': (1,), 'w': (3, 1)}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *parents, last = _names(path)
        place = tree
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = leaf
    return tree


def unnamed(tree: Mapping[str, Any], cell: Cell) -> Params:
    """The params of a cell from the nested dictionaries of `named`."""

    def find(path, leaf):
        del leaf
        return functools.reduce(lambda at, name: at[name], _names(path), tree)

    return jax.tree_util.tree_map_with_path(find, structure(cell))


@functools.lru_cache(maxsize=256)
def structure(cell: Cell) -> Params:
    """The params of a cell without their values; Flax asks again at every call."""
    return jax.tree.map(lambda _: 0, jax.eval_shape(cell.init, jax.random.key(0)))


def _names(path: tuple[Any, ...]) -> list[str]:
    """The names along a path; params that are one array have one name, ``w``."""
    names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    return names or ["w"]


def batched_step(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Any,
    feature_axes: int,
    key: Array | Keys | None,
) -> tuple[Carry, Any]:
    """A step over batch axes, each example with its own key if there is one."""
    batch = jnp.shape(jax.tree.leaves(inputs)[0])
    batch = batch[: len(batch) - feature_axes]
    if key is None:
        step = functools.partial(cell.step, params)
        for _ in batch:
            step = jax.vmap(step)
        return step(carry, inputs)

    def keyed(carry, x, key):
        return keyed_step(cell, key, params, carry, x)

    for _ in batch:
        keyed = jax.vmap(keyed)
    keys = jax.tree.map(lambda k: jax.random.split(k, batch) if batch else k, key)
    return keyed(carry, inputs, keys)


def initial_carry_of(
    cell: Cell, params: Params | None, input_shape: tuple[int, ...], feature_axes: int
) -> Carry:
    """The initial carry with the batch axes of an input's shape in front.

    Raises:
      ValueError: without params, for a carry that is computed from them.
    """
    if params is None:
        # A module without its variables. Where the carry does not depend on them
        # any will do; NaN shows whether it does.
        shapes = jax.eval_shape(cell.init, jax.random.key(0))
        params = jax.tree.map(
            lambda s: np.full(s.shape, np.nan).astype(s.dtype), shapes
        )
        with jax.ensure_compile_time_eval():  # values are looked at under jit too
            carry = cell.initial_carry(params)
            depends = any(bool(jnp.isnan(a).any()) for a in jax.tree.leaves(carry))
        if depends:
            raise ValueError(
                f"initialize_carry of {cell} was called on a module without variables, "
                "but the initial carry is computed from the params. Leave "
                "initial_carry out of nn.RNN, or pass cell.initial_carry(params)."
            )
    else:
        carry = cell.initial_carry(params)
    batch = input_shape[: len(input_shape) - feature_axes]
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (*batch, *a.shape)), carry)


def may_draw(cell: Cell) -> bool:
    """Whether a cell may do something with a key: one that cannot needs no stream."""
    x = features.takes(cell)
    if x is None:
        # What recurrence makes draws nothing; of any other nobody knows.
        return getattr(cell.unroll, "__module__", "") != recurrence.__module__

    def run(key, params, xs):
        return cell.unroll(params, cell.initial_carry(params), xs, key=key)

    keys = jax.eval_shape(lambda: signals.as_keys(jax.random.key(0)))
    xs = jax.ShapeDtypeStruct((2, *x.shape), x.dtype)
    try:
        params = jax.eval_shape(cell.init, keys.sequence)
        return signals.uses_key(run, keys, params, xs)
    except Exception:  # whatever it is, it will be said when the cell runs
        return True


def keeps_masks(cell: Cell) -> bool:
    """Whether a cell draws something that stays for a whole sequence."""
    specs = [one.spec for one in _inside(cell) if one.spec is not None]
    return any(
        spec.constructor is combinators.drop_connect
        or dict(spec.arguments).get("per") == "sequence"
        for spec in specs
    )


def _inside(cell: Cell) -> Iterator[Cell]:
    """A cell and all within it, those too that a constructor of a user's makes."""
    yield cell
    if cell.spec is None:
        return
    ours = cell.spec.constructor.__module__.partition(".")[0] == "rnnjax"
    for one in cell.spec.cells if ours else (cell.spec.build(),):
        yield from _inside(one)
