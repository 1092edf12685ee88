"""Any cell as a linen module, and any linen cell as a cell."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks
from rnnjax.batch import unroll
from rnnjax.builder import recurrence
from rnnjax.cell import Carry, Cell, Reset, constructor
from rnnjax.flax.modules import (
    batched_step,
    initial_carry_of,
    keeps_masks,
    named,
    structure,
    unnamed,
)


class LinenCell(nn.RNNCellBase):
    """Any cell as a linen cell, for ``nn.RNN``, ``nn.Bidirectional`` and modules.

    The params have the names of the cell's own, ``w_ih`` and so on, nested where the
    cell is a stack, so Flax, optax and checkpoints see each of them. Called with a
    carry and an input it is one step; `unroll` runs whole sequences as `rnnjax.unroll`
    does, by its kernels and with its lengths, and is the only way for cells that have
    no step. With an RNG stream ``dropout`` cells that draw random numbers do.
    ``nn.RNN`` keeps the stream to itself unless it is made with
    ``split_rngs={"params": False, "dropout": True}``; masks that stay for a whole
    sequence are drawn by `unroll` alone.

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
            return named(self.cell.init(key))[name]

        names = named(structure(self.cell))
        self.weights = {name: self.param(name, draw, name) for name in names}

    def __call__(self, carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        """One time step of inputs with any number of batch axes in front.

        Raises:
          ValueError: for a cell that draws masks for a whole sequence, if there is a
            ``dropout`` stream.
        """
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        if key is not None and keeps_masks(self.cell):
            raise ValueError(
                f"cell is {self.cell}, which draws masks for a whole sequence, and a "
                "step of linen cannot keep them; expected masks for each step, or no "
                "dropout stream. Write per='step' if that is meant, or call "
                "module.apply(variables, xs, rngs=..., method='unroll')."
            )
        params = unnamed(self.weights, self.cell)
        return batched_step(self.cell, params, carry, inputs, self.feature_axes, key)

    def unroll(
        self,
        xs: Any,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | Reset | None = None,
    ) -> tuple[Carry, Any]:
        """A batch of sequences ``(b, t, ...)``, as `rnnjax.unroll` does it."""
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        params = unnamed(self.weights, self.cell)
        signals: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset}
        return unroll(self.cell, params, xs, carry=carry, key=key, **signals)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
        """The initial carry for inputs of that shape, batch axes in front."""
        del rng
        params = None if self.scope is None else unnamed(self.weights, self.cell)
        return initial_carry_of(self.cell, params, input_shape, self.feature_axes)

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
