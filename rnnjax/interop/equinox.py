"""Weights of Equinox's ``eqx.nn.LSTMCell`` and ``eqx.nn.GRUCell``."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import layers_in, take
from rnnjax.interop.report import Exported, Imported
from rnnjax.interop.weights import Weights, one_direction, require

_TAILS = ("weight_ih", "weight_hh", "bias", "bias_n")
_STATIC = ("input_size", "hidden_size", "use_bias")


def from_equinox(arrays: Mapping[str, Any], *, prefix: str = "") -> Imported:
    """The cell that an Equinox cell is.

    Args:
      arrays: ``vars(cell)``, or for layers that follow each other ``{"0": vars(first),
        "1": vars(second)}``; a pair of directions is ``{"forward": ..., "backward":
        ...}``.
      prefix: what the names ``a/b`` start with, others are left alone.

    Raises:
      ValueError: for names and shapes that are no such cells'.

    Reference: https://docs.kidger.site/equinox/api/nn/rnn.

    >>> import numpy as np, rnnjax
    >>> fields = {"weight_ih": np.ones((20, 3)), "weight_hh": np.ones((20, 5)),
    ...           "bias": np.ones(20), "use_bias": True}
    >>> rnnjax.interop.from_equinox(fields).cell
    lstm(3, 5)
    """
    groups, order = layers_in(_arrays_of(arrays), _TAILS, "Equinox", prefix)
    layers = [tuple(_read(group.arrays) for group in layer) for layer in groups]
    return cell_of(layers, "Equinox", order)


def _arrays_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields of an Equinox cell that are plain numbers."""
    return {
        name: _arrays_of(value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if name not in _STATIC
    }


def _read(group: dict[str, np.ndarray]) -> Weights:
    source = "an Equinox cell"
    w_ih, w_hh = take(group, "weight_ih", source).T, take(group, "weight_hh", source).T
    hidden, columns = w_hh.shape
    b = group.get("bias", np.zeros(columns, w_hh.dtype))
    if columns == 4 * hidden:
        return Weights("lstm", w_ih, w_hh, b)
    if columns != 3 * hidden:
        raise ValueError(
            f"weight_hh has shape {w_hh.T.shape}; expected 4 or 3 times as many rows "
            "as columns, for LSTMCell or GRUCell."
        )
    b_hn = group.get("bias_n", np.zeros(hidden, w_hh.dtype))
    return Weights("gru", w_ih, w_hh, b, b_hn=b_hn)


def to_equinox(cell: Cell, params: Params) -> Exported:
    """The fields of the Equinox cell that a cell is.

    Write ``eqx.tree_at(lambda c: [getattr(c, n) for n in arrays], cell,
    [*arrays.values()])``. Several layers are ``{"0": fields, "1": fields}``.

    Args:
      cell: `lstm`, `gru` with ``reset_after=True``, or `stack` of them.
      params: its params.

    Raises:
      ValueError: for cells that Equinox does not have, `bidirectional` among them.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 5)
    >>> exported = rnnjax.interop.to_equinox(cell, cell.init(jax.random.key(0)))
    >>> sorted(exported.arrays)
    ['bias', 'bias_n', 'weight_hh', 'weight_ih']
    """
    layers, report = layers_of(cell, params, "Equinox")
    made = []
    for weights in one_direction(layers, "Equinox"):
        require(weights, "Equinox", ("lstm", "gru"), ("reset after",))
        if weights.activation is not jnp.tanh:
            raise ValueError(
                f"activation of this {weights.kind} is {weights.activation}; "
                "Equinox's has tanh and no other. No weights make up for it."
            )
        fields = {
            "weight_ih": weights.w_ih.T,
            "weight_hh": weights.w_hh.T,
            "bias": weights.b,
        }
        if weights.b_hn is not None:
            fields["bias_n"] = weights.b_hn
        made.append(fields)
    if len(made) == 1:
        return Exported(made[0], report)
    return Exported({str(k): fields for k, fields in enumerate(made)}, report)
