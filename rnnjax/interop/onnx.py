"""Weights of ONNX ``LSTM``, ``GRU`` and ``RNN`` nodes; no graph, only its arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnjax import combinators
from rnnjax.analysis import opening
from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_dtypes, flatten, take
from rnnjax.interop.layers import cell_of, check_params, layers_of
from rnnjax.interop.onnx_attributes import (
    activations_of,
    check_attributes,
    onnx_name,
)
from rnnjax.interop.report import Imported, Report
from rnnjax.interop.weights import GATES, Weights, alike, reorder, require

_OPS = {"lstm": "LSTM", "coupled_lstm": "LSTM", "gru": "GRU", "elman": "RNN"}
_KINDS = {"LSTM": "lstm", "GRU": "gru", "RNN": "elman"}
# Where each of ONNX's gates, i o f c and z r h, stands in ours; then ours in theirs.
_TO = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_FROM = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}


class OnnxWeights(NamedTuple):
    """One recurrent node of an ONNX graph.

    ``op`` is ``"LSTM"``, ``"GRU"`` or ``"RNN"``; ``arrays`` holds ``W: (d, k, i)``,
    ``R: (d, k, h)``, ``B: (d, 2k)`` and, with peepholes, ``P: (d, 3h)``, for d
    directions, gates i o f c or z r h; ``attributes`` are the node's: ``hidden_size``,
    ``direction``, ``activations``, a GRU's ``linear_before_reset``, and
    ``input_forget`` of an LSTM with coupled gates.
    """

    op: str
    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]
    report: Report


def to_onnx_weights(cell: Cell, params: Params) -> OnnxWeights:
    """The weights and attributes of the one ONNX node that a layer becomes.

    Args:
      cell: `lstm`, `gru` (either reset), `elman`, or `full_lstm` with peepholes and
        coupled gates; `bidirectional` or `reverse` of one of them.
      params: its params.

    Raises:
      ValueError: for stacks (a node is one layer), projections, clipping, and
        activations without a name in ONNX.

    Reference: ONNX operators, https://onnx.ai/onnx/operators/onnx__LSTM.html.

    >>> import jax, rnnjax
    >>> cell = rnnjax.bidirectional(rnnjax.gru(3, 5))
    >>> node = rnnjax.interop.to_onnx_weights(cell, cell.init(jax.random.key(0)))
    >>> node.op, node.arrays["W"].shape, node.attributes["linear_before_reset"]
    ('GRU', (2, 15, 3), 1)
    """
    check_params(cell, params, "ONNX")
    direction = "forward"
    turned = opening.made_by(cell, [combinators.reverse])
    if turned is not None and turned.spec is not None:
        cell, direction = turned.spec["cell"], "reverse"
    layers, report = layers_of(cell, params, "ONNX")
    if len(layers) != 1 or (direction == "reverse" and len(layers[0]) != 1):
        raise ValueError(
            f"cell has {len(layers)} layers; expected one, for an ONNX node is one "
            "layer. Write a node for each of cell.spec.cells and of params."
        )
    first = alike(layers, "ONNX")
    (layer,) = layers
    if len({w.b_hn is None for w in layer}) > 1:
        raise ValueError(
            "cell resets before the product in one direction and after it in the "
            "other; expected the same in both, as an ONNX node has one "
            "linear_before_reset. Write a node for each direction."
        )
    parts = [_write(weights) for weights in layer]
    op = _OPS[first.kind]
    names = dict.fromkeys(name for part in parts for name in part)
    arrays = {
        name: np.stack([_of(part, name, parts) for part in parts]) for name in names
    }
    activation = onnx_name(first.activation)
    activations = {
        "LSTM": ["Sigmoid", activation, activation],
        "GRU": ["Sigmoid", "Tanh"],
        "RNN": [activation],
    }[op]
    attributes: dict[str, Any] = {
        "hidden_size": first.hidden_size,
        "direction": direction if len(layer) == 1 else "bidirectional",
        "activations": activations * len(layer),
    }
    if op == "GRU":
        attributes["linear_before_reset"] = int(first.b_hn is not None)
    if first.kind == "coupled_lstm":
        attributes["input_forget"] = 1
    return OnnxWeights(op, arrays, attributes, report)


def _write(weights: Weights) -> dict[str, np.ndarray]:
    features = ("reset after", "reset before", "peepholes")
    require(weights, "ONNX", tuple(_OPS), features)
    weights, op = _uncoupled(weights), _OPS[weights.kind]
    b_hh = np.zeros_like(weights.b)
    if weights.b_hn is not None:
        b_hh[-weights.hidden_size :] = weights.b_hn
    order = _TO[op]
    arrays = {
        "W": reorder(weights.w_ih, order).T,
        "R": reorder(weights.w_hh, order).T,
        "B": np.concatenate([reorder(weights.b, order), reorder(b_hh, order)]),
    }
    if weights.peepholes is not None:
        i, f, o = weights.peepholes
        arrays["P"] = np.concatenate([i, o, f])
    return arrays


def _uncoupled(weights: Weights) -> Weights:
    """Coupled gates as ONNX has them: its node computes f as 1 - i, ours i as 1 - f.

    As ``1 - sigmoid(z)`` is ``sigmoid(-z)``, i has the weights of our f with the other
    sign. Those of f are not read.
    """
    if weights.kind != "coupled_lstm":
        return weights

    def columns(a):
        f, g, o = np.split(a, 3, axis=-1)
        return np.concatenate([-f, np.zeros_like(f), g, o], axis=-1)

    peepholes = weights.peepholes
    if peepholes is not None:
        peepholes = np.stack([-peepholes[0], np.zeros_like(peepholes[0]), peepholes[1]])
    return weights._replace(
        kind="lstm",
        w_ih=columns(weights.w_ih),
        w_hh=columns(weights.w_hh),
        b=columns(weights.b),
        peepholes=peepholes,
    )


def _coupled(weights: Weights) -> Weights:
    """The way back from `_uncoupled`."""

    def columns(a):
        i, _, g, o = np.split(a, 4, axis=-1)
        return np.concatenate([-i, g, o], axis=-1)

    peepholes = weights.peepholes
    return weights._replace(
        kind="coupled_lstm",
        w_ih=columns(weights.w_ih),
        w_hh=columns(weights.w_hh),
        b=columns(weights.b),
        peepholes=None
        if peepholes is None
        else np.stack([-peepholes[0], peepholes[2]]),
    )


def _of(part: dict[str, np.ndarray], name: str, parts: list) -> np.ndarray:
    """A direction without peepholes beside one that has them gets zeros."""
    if name in part:
        return part[name]
    return np.zeros_like(next(other[name] for other in parts if name in other))


def from_onnx_weights(
    op: str, arrays: Mapping[str, Any], attributes: Mapping[str, Any] | None = None
) -> Imported:
    """The cell that an ONNX ``LSTM``, ``GRU`` or ``RNN`` node is.

    A coupled LSTM (``input_forget``) becomes `full_lstm` with ``coupled=True``. ONNX's
    ``clip`` bounds what goes into each activation: in an RNN that is an activation of
    its own, in an LSTM and a GRU it bounds the gates too, which no cell here does.

    Args:
      op: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
      arrays: ``W``, ``R``, and where the node has them ``B`` and ``P``. States that
        the node starts from are no weights: pass them as the ``carry`` of ``unroll``.
      attributes: the node's, texts as bytes too, which ``onnx.helper`` returns; those
        left out stand at ONNX's defaults.

    Raises:
      TypeError: for arguments of another type.
      ValueError: for attributes that make another function than any cell of ours, with
        their names: ``clip`` of an LSTM or GRU, gates that are no sigmoid, two
        activations in one LSTM; for inputs and attributes that are not known; for
        shapes, ``hidden_size`` and ``direction`` that disagree.

    >>> import jax, rnnjax
    >>> cell = rnnjax.lstm(3, 5)
    >>> node = rnnjax.interop.to_onnx_weights(cell, cell.init(jax.random.key(0)))
    >>> found = rnnjax.interop.from_onnx_weights(node.op, node.arrays, node.attributes)
    >>> found.cell, found.report.verdict
    (lstm(3, 5), 'exact after merging biases')
    """
    if not isinstance(op, str) or op not in _TO:
        came = repr(op) if isinstance(op, str) else f"of type {type(op).__name__}"
        raise ValueError(
            f"op is {came}; expected one of {sorted(_TO)}. Write the node's op_type."
        )
    if not isinstance(attributes, Mapping | None):
        raise TypeError(
            f"attributes is of type {type(attributes).__name__}; expected a "
            "dictionary. Write {a.name: onnx.helper.get_attribute_value(a) for a in "
            "node.attribute}."
        )
    found, given = flatten(arrays), dict(attributes or {})
    _check_arrays(op, found)
    count, hidden = found["R"].shape[0], found["R"].shape[2]
    direction = check_attributes(op, given, count, hidden)
    activations, notes = activations_of(op, given, count)
    after = bool(given.get("linear_before_reset"))
    layer = tuple(
        _read(op, {k: a[d] for k, a in found.items()}, after, activations[d])
        for d in range(count)
    )
    if given.get("input_forget"):
        layer = tuple(_coupled(weights) for weights in layer)
        notes += (
            "the weights of the forget gate are left out: with input_forget no "
            "node reads them",
        )
    if given.get("layout"):
        notes += (
            "layout orders the axes of the node's inputs, not its weights: time "
            "is still axis 0 of cell.unroll",
        )
    merged = "B" in found
    verdict = "exact after merging biases" if merged else "exact"
    imported = cell_of([layer], f"ONNX {op}", Report(verdict, notes))
    if direction == "reverse":
        return imported._replace(cell=combinators.reverse(imported.cell))
    return imported


def _check_arrays(op: str, arrays: dict[str, np.ndarray]) -> None:
    names = ("W", "R", "B", "P") if op == "LSTM" else ("W", "R", "B")
    spare = [name for name in arrays if name not in names]
    if spare:
        raise ValueError(
            f"arrays holds {', '.join(repr(name[:40]) for name in spare[:4])}; "
            f"expected {', '.join(names)} of an ONNX {op} alone. Leave the rest out: "
            "states that the node starts from go to unroll as carry=, and its "
            "sequence_lens as lengths=."
        )
    check_dtypes(arrays)
    gates = GATES[_KINDS[op]]
    r = take(arrays, "R", "arrays", 3)
    count, hidden = r.shape[0], r.shape[2]
    inputs = take(arrays, "W", "arrays", 3).shape[2]
    expected = {
        "W": (count, gates * hidden, inputs),
        "R": (count, gates * hidden, hidden),
        "B": (count, 2 * gates * hidden),
        "P": (count, 3 * hidden),
    }
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise ValueError(
                f"arrays has {name} of shape {array.shape} and R of shape {r.shape}; "
                f"expected {expected[name]} for an {op} of {count} directions and "
                f"{hidden} units. Pass the arrays of one node."
            )


def _read(
    op: str, arrays: dict[str, np.ndarray], after: bool, activation: Any
) -> Weights:
    order, (columns, h) = _FROM[op], arrays["R"].shape
    both = arrays.get("B", np.zeros(2 * columns, arrays["W"].dtype))
    b, b_hh = (reorder(part, order) for part in np.split(both, 2))
    b_hn = None
    if after:
        b_hn = b_hh[-h:].copy()
        b_hh[-h:] = 0
    peepholes = None
    if "P" in arrays:
        i, o, f = np.split(arrays["P"], 3)
        peepholes = np.stack([i, f, o])
    return Weights(
        _KINDS[op],
        reorder(arrays["W"].T, order),
        reorder(arrays["R"].T, order),
        b + b_hh,
        b_hn=b_hn,
        peepholes=peepholes,
        activation=activation,
    )
