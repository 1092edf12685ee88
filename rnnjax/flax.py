"""Cells in Flax: any cell as a linen or nnx module, any linen cell as a cell.

It needs Flax, which ``import rnnjax`` alone does not: write ``import rnnjax.flax``.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from rnnjax import checks
from rnnjax.batch import unroll
from rnnjax.builder import recurrence
from rnnjax.cell import Carry, Cell, Params, constructor
from rnnjax.combinators.stepping import keyed_step


class LinenCell(nn.RNNCellBase):
    """Any cell as a linen cell, for ``nn.RNN``, ``nn.Bidirectional`` and modules.

    The params have the names of the cell's own, ``w_ih`` and so on, nested where the
    cell is a stack, so Flax, optax and checkpoints see each of them. Called with a
    carry and an input it is one step; `unroll` runs whole sequences as `rnnjax.unroll`
    does, by its kernels and with its lengths, and is the only way for cells that have
    no step. With an RNG stream ``dropout`` cells that draw random numbers do.

    Attributes:
      cell: the cell.
      feature_axes: how many axes an input has, 1 for a vector.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, rnnjax, rnnjax.flax
    >>> rnn = nn.RNN(rnnjax.flax.LinenCell(rnnjax.lstm(3, 5)))
    >>> xs = jnp.ones((4, 7, 3))
    >>> variables = rnn.init(jax.random.key(0), xs)
    >>> jax.tree.map(jnp.shape, variables["params"]["cell"])
    {'b': (20,), 'w_hh': (5, 20), 'w_ih': (3, 20)}
    >>> rnn.apply(variables, xs, seq_lengths=jnp.array([7, 2, 5, 1])).shape
    (4, 7, 5)
    """

    cell: Cell
    feature_axes: int = 1

    def setup(self):
        def draw(key, name):
            return _named(self.cell.init(key))[name]

        names = _named(_structure(self.cell))
        self.weights = {name: self.param(name, draw, name) for name in names}

    def __call__(self, carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        """One time step of inputs with any number of batch axes in front."""
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        params = _unnamed(self.weights, self.cell)
        return _step(self.cell, params, carry, inputs, self.feature_axes, key)

    def unroll(
        self, xs: Any, *, carry: Carry | None = None, lengths: Array | None = None
    ) -> tuple[Carry, Any]:
        """A batch of sequences ``(b, t, ...)``, as `rnnjax.unroll` does it."""
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        params = _unnamed(self.weights, self.cell)
        return unroll(self.cell, params, xs, carry=carry, lengths=lengths, key=key)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
        """The initial carry for inputs of that shape, batch axes in front."""
        del rng
        params = None if self.scope is None else _unnamed(self.weights, self.cell)
        return _initial_carry(self.cell, params, input_shape, self.feature_axes)

    @property
    def num_feature_axes(self) -> int:
        """How many axes of an input are not the batch's."""
        return self.feature_axes


class NnxCell(nnx.RNNCellBase):
    """Any cell as an nnx module, for ``nnx.RNN``, ``nnx.Bidirectional`` and modules.

    Its attribute ``weights`` holds the params under the cell's own names, each an
    ``nnx.Param``, nested where the cell is a stack. Called with a carry and an input it
    is one step; `unroll` runs whole sequences as `rnnjax.unroll` does, by its kernels
    and with its lengths, and is the only way for cells that have no step.

    Args:
      cell: the cell.
      feature_axes: how many axes an input has, 1 for a vector.
      rngs: its ``params`` stream draws the weights.

    >>> import jax, jax.numpy as jnp, rnnjax, rnnjax.flax
    >>> from flax import nnx
    >>> cell = rnnjax.flax.NnxCell(rnnjax.gru(3, 5), rngs=nnx.Rngs(0))
    >>> nnx.RNN(cell)(jnp.ones((4, 7, 3))).shape
    (4, 7, 5)
    >>> h, ys = cell.unroll(jnp.ones((4, 7, 3)), lengths=jnp.array([7, 2, 5, 1]))
    >>> cell.weights["w_hh"].shape
    (5, 15)
    """

    def __init__(self, cell: Cell, *, feature_axes: int = 1, rngs: nnx.Rngs):
        self.cell = cell
        self.feature_axes = feature_axes
        self.weights = _variables(_named(cell.init(rngs.params())))

    @property
    def params(self) -> Params:
        """The params as the cell takes them."""
        return _unnamed(_values(self.weights), self.cell)

    def __call__(
        self, carry: Carry, inputs: Any, *, key: Array | None = None
    ) -> tuple[Carry, Any]:
        """One time step of inputs with any number of batch axes in front."""
        return _step(self.cell, self.params, carry, inputs, self.feature_axes, key)

    def unroll(
        self,
        xs: Any,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Carry, Any]:
        """A batch of sequences ``(b, t, ...)``, as `rnnjax.unroll` does it."""
        return unroll(self.cell, self.params, xs, carry=carry, lengths=lengths, key=key)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Any = None,
        carry_init: Any = None,
    ) -> Carry:
        """The initial carry for inputs of that shape, batch axes in front."""
        del rngs, carry_init
        return _initial_carry(self.cell, self.params, input_shape, self.feature_axes)

    @property
    def num_feature_axes(self) -> int:
        """How many axes of an input are not the batch's."""
        return self.feature_axes


@constructor
def from_linen_cell(module: nn.RNNCellBase, input_size: int) -> Cell:
    """A linen cell as a cell, with masks, resets, traversals and combinators.

    The params are those of the module, a dictionary; the carry is the module's, with
    the dtype of the params. It must be constant: a ``carry_init`` that draws random
    numbers gives the same ones each time.

    Args:
      module: for example ``nn.GRUCell(8)``; its ``params`` are all its variables.
      input_size: features of one input, which Flax finds at the first call.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, rnnjax, rnnjax.flax
    >>> cell = rnnjax.flax.from_linen_cell(nn.MGUCell(5, reset_gate=False), 3)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = rnnjax.unroll(
    ...     cell, params, jnp.ones((4, 7, 3)), lengths=jnp.array([7, 0, 5, 1]))
    >>> ys.shape, sorted(params)
    ((4, 7, 5), ['hf', 'hn', 'if', 'in'])
    """
    checks.size("input_size", input_size)
    shape = (input_size,)

    def init(key):
        carry = module.initialize_carry(jax.random.key(0), shape)
        x = jnp.zeros(shape, jax.tree.leaves(carry)[0].dtype)
        return module.init(checks.key(key), carry, x)["params"]

    def initial_carry(params):
        dtype = checks.float_dtype(params)
        carry = module.initialize_carry(jax.random.key(0), shape)
        return jax.tree.map(lambda a: a.astype(dtype), carry)

    def project(params, x):
        return x

    def step(params, carry, x):
        return module.apply({"params": params}, carry, x)

    return recurrence(init, initial_carry, project, step, input_shape=shape)


def _step(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Any,
    feature_axes: int,
    key: Array | None,
) -> tuple[Carry, Any]:
    """A step over batch axes, each example with a key of its own if there is one."""
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
    return keyed(carry, inputs, jax.random.split(key, batch) if batch else key)


def _initial_carry(
    cell: Cell, params: Params | None, input_shape: tuple[int, ...], feature_axes: int
) -> Carry:
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


def _named(params: Params) -> dict[str, Any]:
    """A tree of params as nested dictionaries, by the names of its fields.

    >>> import jax, rnnjax
    >>> from rnnjax.flax import _named
    >>> cell = rnnjax.stack(rnnjax.elman(2, 3), rnnjax.dense(3, 1))
    >>> jax.tree.map(lambda a: a.shape, _named(cell.init(jax.random.key(0))))
    {'0': {'b': (3,), 'w_hh': (3, 3), 'w_ih': (2, 3)}, '1': {'b': (1,), 'w': (3, 1)}}
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *parents, last = _names(path)
        place = named
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = leaf
    return named


def _unnamed(named: Mapping[str, Any], cell: Cell) -> Params:
    """The params of a cell from the nested dictionaries of `_named`."""

    def find(path, leaf):
        del leaf
        return functools.reduce(lambda tree, name: tree[name], _names(path), named)

    return jax.tree_util.tree_map_with_path(find, _structure(cell))


@functools.lru_cache(maxsize=256)
def _structure(cell: Cell) -> Params:
    """The params of a cell without their values; Flax asks again at every call."""
    return jax.tree.map(lambda _: 0, jax.eval_shape(cell.init, jax.random.key(0)))


def _names(path: tuple[Any, ...]) -> list[str]:
    """The names along a path; params that are one array have one name, ``w``."""
    names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    return names or ["w"]


def _variables(named: Mapping[str, Any]) -> nnx.Dict:
    return nnx.Dict(
        {
            name: _variables(a) if isinstance(a, Mapping) else nnx.Param(a)
            for name, a in named.items()
        }
    )


def _values(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _values(a) if isinstance(a, nnx.Dict) else a[...]
        for name, a in variables.items()
    }
