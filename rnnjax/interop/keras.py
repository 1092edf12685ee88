"""Weights of Keras 3's ``LSTM``, ``GRU``, ``SimpleRNN`` and ``Bidirectional``."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import take, take_or_zeros
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import Group, layers_in
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import (
    Weights,
    check_activation,
    check_tanh,
    made_with,
    reorder,
    require,
)

_NAMES = {"lstm": "lstm", "gru": "gru", "elman": "simple_rnn"}
_KINDS = {4: "lstm", 3: "gru", 1: "elman"}
_SWAP = (1, 0, 2)  # z r n there, r z n here


def from_keras(
    arrays: Mapping[str, Any],
    *,
    prefix: str = "",
    activation: Callable[..., Any] = jnp.tanh,
    reset_after: bool | None = None,
) -> Imported:
    """The cell that Keras's recurrent layers are.

    Kinds, layers, directions and where a GRU resets follow from names and shapes; a
    bias of two rows is that of ``reset_after=True``, Keras's default.

    Args:
      arrays: ``{v.path: v.numpy() for v in layer.weights}``, of one layer or of
        several that follow each other.
      prefix: what the names of these layers start with in those of a model, for
        example ``"sequential/lstm"``; other names are then left alone.
      activation: that of the layers' ``activation``, which no weight tells; a
        ``recurrent_activation`` must be the default sigmoid.
      reset_after: of a GRU without bias, which no weight tells then.

    Raises:
      ValueError: for names and shapes that are no such layers'.

    Reference: https://keras.io/api/layers/recurrent_layers/.

    >>> import numpy as np, rnnjax
    >>> weights = {
    ...     "gru/gru_cell/kernel": np.ones((3, 15), "float32"),
    ...     "gru/gru_cell/recurrent_kernel": np.ones((5, 15), "float32"),
    ...     "gru/gru_cell/bias": np.ones(15, "float32")}
    >>> rnnjax.interop.from_keras(weights).cell
    gru(3, 5, reset_after=False)
    """
    check_activation(activation)
    if not isinstance(reset_after, bool | None):
        raise TypeError(
            f"reset_after is of type {type(reset_after).__name__}; expected True, "
            "False, or None where the bias tells. Write reset_after=True."
        )
    tails = ("kernel", "recurrent_kernel", "bias")
    groups, order = layers_in(arrays, tails, "Keras", prefix)
    layers, reports = [], [order]
    for layer in groups:
        parts = [_read(group, activation, reset_after) for group in layer]
        layers.append(tuple(weights for weights, _ in parts))
        reports += [report for _, report in parts]
    return cell_of(layers, "Keras", combine(reports))


def _read(
    layer: Group, activation: Callable[..., Any], reset_after: bool | None
) -> tuple[Weights, Report]:
    source, group = f"the layer {layer.stem!r} of Keras", layer.arrays
    w_ih, w_hh = (take(group, n, source, 2) for n in ("kernel", "recurrent_kernel"))
    hidden, columns = w_hh.shape
    kind = _KINDS.get(columns // hidden if columns % hidden == 0 else 0)
    if kind is None:
        raise ValueError(
            f"{source}: recurrent_kernel has shape {w_hh.shape}; expected 4, 3 or 1 "
            "times as many columns as rows, for LSTM, GRU or SimpleRNN. Pass the "
            "weights of one layer."
        )
    if kind != "gru":
        b = take_or_zeros(group, "bias", source, w_hh)
        return Weights(kind, w_ih, w_hh, b, activation=activation), Report("exact")
    check_tanh(activation, "gru")
    w_ih, w_hh = reorder(w_ih, _SWAP), reorder(w_hh, _SWAP)
    if "bias" not in group and reset_after is None:
        raise ValueError(
            f"{source} is a GRU without bias, so nothing tells whether it resets "
            "before or after the product; expected reset_after to say it. Write "
            "reset_after=True, Keras's default, or False."
        )
    shape = (2, columns) if reset_after else (columns,)
    b = group.get("bias", np.zeros(shape, w_ih.dtype))
    if b.shape not in ((columns,), (2, columns)):
        raise ValueError(
            f"{source}: bias has shape {b.shape}; expected ({columns},), or (2, "
            f"{columns}) with reset_after=True. Pass the arrays of one layer."
        )
    b = reorder(b, _SWAP)
    if reset_after is not None and reset_after != (b.ndim == 2):
        raise ValueError(
            f"reset_after is {reset_after}, but the bias has shape {b.shape}; expected "
            "two rows of a GRU that resets after the product, one axis of the other. "
            "Leave reset_after out."
        )
    if b.ndim == 1:
        return Weights(kind, w_ih, w_hh, b), Report("exact")
    b_hh = np.array(b[1])
    b_hh[-hidden:] = 0
    report = Report("exact after merging biases" if "bias" in group else "exact")
    return Weights(kind, w_ih, w_hh, b[0] + b_hh, b_hn=b[1][-hidden:]), report


def to_keras(cell: Cell, params: Params) -> Exported:
    """The weights of the Keras layers that a cell is.

    The arrays stand in the order of ``layer.weights``: for one layer write
    ``layer.set_weights([*exported.arrays.values()])``, for a model of nothing else
    ``model.set_weights`` in the same way.

    Args:
      cell: `lstm`, `gru`, `elman`, or `stack` and `bidirectional` of them.
      params: its params.

    Raises:
      ValueError: for cells that Keras does not have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.lstm(3, 5)
    >>> exported = rnnjax.interop.to_keras(cell, cell.init(jax.random.key(0)))
    >>> {name: array.shape for name, array in exported.arrays.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'lstm/lstm_cell/kernel': (3, 20), 'lstm/lstm_cell/recurrent_kernel': (5, 20),
     'lstm/lstm_cell/bias': (20,)}
    """
    layers, report = layers_of(cell, params, "Keras")
    reports, arrays = [report], {}
    for depth, layer in enumerate(layers):
        number = f"_{depth}" if depth else ""
        for weights, side in zip(layer, ("forward_", "backward_"), strict=False):
            require(weights, "Keras", _NAMES, ("reset after", "reset before"))
            reports.append(made_with(weights))
            name = _NAMES[weights.kind]
            stem = f"{name}{number}/{name}_cell"
            if len(layer) == 2:
                stem = f"bidirectional{number}/{side}{stem}"
            arrays |= {f"{stem}/{k}": a for k, a in _write(weights).items()}
    return Exported(arrays, combine(reports))


def _write(weights: Weights) -> dict[str, np.ndarray]:
    w_ih, w_hh, b = weights.w_ih, weights.w_hh, weights.b
    if weights.b_hn is not None:
        b_hh = np.zeros_like(b)
        b_hh[-weights.hidden_size :] = weights.b_hn
        b = np.stack([b, b_hh])
    if weights.kind == "gru":
        w_ih, w_hh, b = (reorder(a, _SWAP) for a in (w_ih, w_hh, b))
    return {"kernel": w_ih, "recurrent_kernel": w_hh, "bias": b}
