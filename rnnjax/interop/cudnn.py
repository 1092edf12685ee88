"""The one flat buffer in which cuDNN, and `jax.experimental.rnn`, keep all weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_dtypes, check_names, flatten, take
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.report import Exported, Imported, combine
from rnnjax.interop.torch import KINDS, activation_note, read, write
from rnnjax.interop.weights import alike, check_activation, require
from rnnjax.kernels import cudnn_layout as layout

_NAMES: tuple[str, ...] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_GATES = {kind: gates for gates, kind in KINDS.items()}


def from_cudnn(
    arrays: Mapping[str, Any],
    *,
    kind: str,
    input_size: int,
    hidden_size: int,
    layers: int = 1,
    bidirectional: bool = False,
    activation: Callable[..., Any] = jnp.tanh,
) -> Imported:
    """The cell whose weights a cuDNN buffer holds.

    First come the matrices of all layers, ``W_ih`` and ``W_hh`` of each direction in
    turn, then all biases, ``b_ih`` and ``b_hh``. Gates stand as in torch: i f g o, and
    r z n. It is the buffer of `jax.experimental.rnn.lstm` and of TensorFlow's opaque
    cuDNN layers; a flat buffer tells no sizes, so they are arguments.

    Args:
      arrays: ``{"weights": buffer}``, the buffer of one axis.
      kind: ``"lstm"``, ``"gru"`` or ``"elman"``.
      input_size: features of one input.
      hidden_size: units of each direction.
      layers: how many there are.
      bidirectional: whether each has two directions.
      activation: `jax.nn.relu` for cuDNN's ``RNN_RELU``.

    Raises:
      ValueError: for a buffer of another length than these sizes make.

    Reference: NVIDIA cuDNN, ``cudnnGetRNNWeightParams``.

    >>> import numpy as np, rnnjax
    >>> buffer = np.zeros(4 * 5 * (3 + 5) + 2 * 4 * 5, np.float32)
    >>> cell, params, report = rnnjax.interop.from_cudnn(
    ...     {"weights": buffer}, kind="lstm", input_size=3, hidden_size=5)
    >>> cell, report.verdict
    (lstm(3, 5), 'exact after merging biases')
    """
    check_activation(activation)
    if not isinstance(kind, str) or kind not in _GATES:
        came = repr(kind) if isinstance(kind, str) else f"of type {type(kind).__name__}"
        raise ValueError(
            f"kind is {came}; expected one of {sorted(_GATES)}. Write kind='lstm'."
        )
    if not isinstance(bidirectional, bool):
        raise TypeError(
            f"bidirectional is of type {type(bidirectional).__name__}; expected a "
            "bool. Write bidirectional=True for two directions."
        )
    for name, size in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("layers", layers),
    ):
        checks.size(name, size)
    flat = flatten(arrays)
    check_names(flat, ("weights",), "arrays")
    check_dtypes(flat)
    buffer = take(flat, "weights", "arrays", 1)
    directions = 2 if bidirectional else 1
    sizes = (_GATES[kind], input_size, hidden_size, layers, directions)
    length = layout.length(*sizes)
    if buffer.shape != (length,):
        raise ValueError(
            f"weights has shape {buffer.shape}; expected ({length},) for {kind} "
            f"with input_size={input_size}, hidden_size={hidden_size}, "
            f"layers={layers}, bidirectional={bidirectional} and two biases. Write the "
            "sizes that the buffer was made with."
        )
    found, reports = [], []
    for k, own in enumerate(layout.separate(buffer, layout.shapes(*sizes))):
        group: dict[str, np.ndarray] = dict(zip(_NAMES, own, strict=True))
        weights, report = read(group, f"pseudo-layer {k} of cuDNN", activation)
        found.append(weights)
        reports.append(report)
    pairs = [tuple(found[k : k + directions]) for k in range(0, len(found), directions)]
    return cell_of(pairs, "cuDNN", combine(reports))


def to_cudnn(cell: Cell, params: Params) -> Exported:
    """A cell's weights as ``{"weights": buffer}``, the layout of `from_cudnn`.

    Args:
      cell: `lstm`, `gru`, `elman` (tanh or relu), or `stack` and `bidirectional` of
        one of them, all of one size. Projections are refused: their place in the
        buffer is not documented.
      params: its params.

    Raises:
      ValueError: for cells that cuDNN does not have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.bidirectional(rnnjax.gru(3, 5))
    >>> exported = rnnjax.interop.to_cudnn(cell, cell.init(jax.random.key(0)))
    >>> exported.arrays["weights"].shape
    (300,)
    """
    layers, report = layers_of(cell, params, "cuDNN")
    first = alike(layers, "cuDNN")
    flat = [weights for layer in layers for weights in layer]
    for weights in flat:
        require(weights, "cuDNN", _GATES, ("reset after",))
    written = [write(weights) for weights in flat]
    groups = [layout.Weights(*(arrays[n] for n in _NAMES)) for arrays in written]
    buffer = [a.ravel() for a in layout.pieces(groups)]
    note = activation_note(first, "mode")
    return Exported({"weights": np.concatenate(buffer)}, combine([report, note]))
