"""Any cell as an nnx module."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from rnnjax.batch import unroll
from rnnjax.cell import Carry, Cell, Keys, Params, Reset
from rnnjax.flax.modules import (
    batched_step,
    initial_carry_of,
    may_draw,
    named,
    unnamed,
)


class NnxCell(nnx.RNNCellBase):
    """Any cell as an nnx module, for ``nnx.RNN``, ``nnx.Bidirectional`` and modules.

    Its attribute ``weights`` holds the params under the cell's own names, each an
    ``nnx.Param``, nested where the cell is a stack. Called with a carry and an input it
    is one step; `unroll` runs whole sequences as `rnnjax.unroll` does, by its kernels
    and with its lengths, and is the only way for cells that have no step.

    A cell that draws random numbers draws them from the stream ``dropout`` of ``rngs``,
    as ``nnx.Dropout`` does, until ``model.eval()``. What is drawn for a whole sequence
    is drawn when one begins: in `initialize_carry`, which ``nnx.RNN`` calls, and in
    `unroll` without a carry. It stays while a carry is handed on.

    Args:
      cell: the cell.
      feature_axes: how many axes an input has, 1 for a vector.
      rngs: its stream ``params`` draws the weights, ``dropout`` the noise; one that is
        not there is the default stream. Without either there is no noise.

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
        self.weights = _variables(named(cell.init(rngs.params())))
        self.deterministic = False
        self.noise: nnx.RngStream | None = nnx.data(None)
        self.sequence_key: nnx.RngKey | None = nnx.data(None)
        if may_draw(cell) and ("dropout" in rngs or "default" in rngs):
            self.noise = rngs.dropout.fork()
            self.sequence_key = nnx.RngKey(self.noise(), tag="dropout")

    @property
    def params(self) -> Params:
        """The params as the cell takes them."""
        return unnamed(_values(self.weights), self.cell)

    def __call__(
        self, carry: Carry, inputs: Any, *, key: Array | Keys | None = None
    ) -> tuple[Carry, Any]:
        """One time step of inputs with any number of batch axes in front."""
        key = self._keys() if key is None else key
        return batched_step(
            self.cell, self.params, carry, inputs, self.feature_axes, key
        )

    def unroll(
        self,
        xs: Any,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | Reset | None = None,
        key: Array | Keys | None = None,
    ) -> tuple[Carry, Any]:
        """A batch of sequences ``(b, t, ...)``, as `rnnjax.unroll` does it."""
        if key is None:
            if carry is None:
                self._begin()
            key = self._keys()
        signals: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset}
        return unroll(self.cell, self.params, xs, carry=carry, key=key, **signals)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Any = None,
    ) -> Carry:
        """The initial carry for inputs of that shape, batch axes in front.

        ``carry_init(key, shape, dtype)``, an initializer of `jax.nn`, draws each
        floating leaf instead, with keys of the stream ``carry`` of ``rngs``.

        Raises:
          ValueError: for a ``carry_init`` without ``rngs``.
        """
        self._begin()
        carry = initial_carry_of(self.cell, self.params, input_shape, self.feature_axes)
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError(
                "carry_init is given and rngs is None; expected a stream that it draws "
                "from. Write rngs=nnx.Rngs(carry=0), or leave carry_init out."
            )
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs

        def draw(a):
            floating = jnp.issubdtype(a.dtype, jnp.floating)
            return carry_init(stream(), a.shape, a.dtype) if floating else a

        return jax.tree.map(draw, carry)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Whether noise is left out; ``nnx.view`` calls it.

        Args:
          deterministic: true without noise.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def _begin(self) -> None:
        """Draw anew what stays for a whole sequence."""
        if self.noise is not None and not self.deterministic:
            assert self.sequence_key is not None
            self.sequence_key[...] = self.noise()

    def _keys(self) -> Keys | None:
        if self.noise is None or self.deterministic:
            return None
        assert self.sequence_key is not None
        return Keys(sequence=self.sequence_key[...], step=self.noise())

    @property
    def num_feature_axes(self) -> int:
        """How many axes of an input are not the batch's."""
        return self.feature_axes


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
