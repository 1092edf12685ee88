"""Weights of Equinox's ``eqx.nn.LSTMCell`` and ``eqx.nn.GRUCell``."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_names, take, take_or_zeros
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import layers_in
from rnnjax.interop.report import Exported, Imported
from rnnjax.interop.weights import Weights, name_of, one_direction, require

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
    groups, order = layers_in(arrays, _TAILS, "Equinox", prefix, _STATIC)
    layers = [tuple(_read(group.arrays) for group in layer) for layer in groups]
    return cell_of(layers, "Equinox", order)


def _read(group: dict[str, np.ndarray]) -> Weights:
    source = "an Equinox cell"
    w_ih, w_hh = (take(group, f"weight_{n}", source, 2).T for n in ("ih", "hh"))
    hidden, columns = w_hh.shape
    if columns not in (4 * hidden, 3 * hidden):
        raise ValueError(
            f"{source}: weight_hh has shape {w_hh.T.shape}; expected 4 or 3 times as "
            "many rows as columns, for LSTMCell or GRUCell. Pass vars(cell)."
        )
    b = take_or_zeros(group, "bias", source, w_hh)
    if columns == 4 * hidden:
        check_names(group, _TAILS[:3], "an LSTMCell of Equinox")
        return Weights("lstm", w_ih, w_hh, b)
    if ("bias" in group) != ("bias_n" in group):
        raise ValueError(
            "a GRUCell of Equinox has one of bias and bias_n; expected both or, with "
            "use_bias=False, neither. Pass vars(cell)."
        )
    b_hn = take_or_zeros(group, "bias_n", source, w_hh[:, :hidden])
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
                f"activation of this {weights.kind} is {name_of(weights.activation)}; "
                "expected jnp.tanh, as Equinox has no other. Export a cell with it."
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
