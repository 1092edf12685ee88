"""Weights of ONNX ``LSTM``, ``GRU`` and ``RNN`` nodes; no graph, only its arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import combinators
from rnnjax.cell import Cell, Params
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import flatten
from rnnjax.interop.report import Imported, Report
from rnnjax.interop.weights import Weights, alike, reorder, require

_OPS = {"lstm": "LSTM", "gru": "GRU", "elman": "RNN"}
# Where each of ONNX's gates, i o f c and z r h, stands in ours; then ours in theirs.
_TO = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_FROM = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {
    "Tanh": jnp.tanh,
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Softsign": jax.nn.soft_sign,
    "Softplus": jax.nn.softplus,
}


class OnnxWeights(NamedTuple):
    """One recurrent node of an ONNX graph.

    ``op`` is ``"LSTM"``, ``"GRU"`` or ``"RNN"``; ``arrays`` holds ``W: (d, k, i)``,
    ``R: (d, k, h)``, ``B: (d, 2k)`` and, with peepholes, ``P: (d, 3h)``, for d
    directions, gates i o f c or z r h; ``attributes`` are the node's: ``hidden_size``,
    ``direction``, ``activations`` and a GRU's ``linear_before_reset``.
    """

    op: str
    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]
    report: Report


def to_onnx_weights(cell: Cell, params: Params) -> OnnxWeights:
    """The weights and attributes of the one ONNX node that a layer becomes.

    Args:
      cell: `lstm`, `gru` (either reset), `elman`, or `full_lstm` with peepholes;
        `bidirectional` or `reverse` of one of them.
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
    direction = "forward"
    if cell.spec is not None and cell.spec.constructor is combinators.reverse:
        cell, direction = cell.spec["cell"], "reverse"
    layers, report = layers_of(cell, params, "ONNX")
    if len(layers) != 1 or (direction == "reverse" and len(layers[0]) != 1):
        raise ValueError(
            f"cell has {len(layers)} layers; expected one, for an ONNX node is one "
            "layer. Write a node for each of cell.spec.cells and of params."
        )
    first = alike(layers, "ONNX")
    op, (layer,) = _OPS.get(first.kind, ""), layers
    if len({w.b_hn is None for w in layer}) > 1:
        raise ValueError(
            "cell resets before the product in one direction and after it in the "
            "other; an ONNX node has one linear_before_reset for both."
        )
    parts = [_write(weights, op) for weights in layer]
    names = dict.fromkeys(name for part in parts for name in part)
    arrays = {
        name: np.stack([_of(part, name, parts) for part in parts]) for name in names
    }
    activation = _activation_name(first.activation)
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
    return OnnxWeights(op, arrays, attributes, report)


def _write(weights: Weights, op: str) -> dict[str, np.ndarray]:
    features = ("reset after", "reset before", "peepholes")
    require(weights, "ONNX", tuple(_OPS), features)
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


def _of(part: dict[str, np.ndarray], name: str, parts: list) -> np.ndarray:
    """A direction without peepholes beside one that has them gets zeros."""
    if name in part:
        return part[name]
    return np.zeros_like(next(other[name] for other in parts if name in other))


def _activation_name(activation: Any) -> str:
    for name, function in _ACTIVATIONS.items():
        if function is activation:
            return name
    raise ValueError(
        f"activation is {activation}; ONNX has no such name. Write one of jax.nn.relu, "
        "jax.nn.sigmoid, jax.nn.soft_sign, jax.nn.softplus and jnp.tanh."
    )


def from_onnx_weights(
    op: str, arrays: Mapping[str, Any], attributes: Mapping[str, Any] | None = None
) -> Imported:
    """The cell that an ONNX ``LSTM``, ``GRU`` or ``RNN`` node is.

    Args:
      op: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
      arrays: ``W``, ``R``, and where the node has them ``B`` and ``P``.
      attributes: the node's, texts as bytes too, which ``onnx.helper`` returns; those
        left out stand at ONNX's defaults.

    Raises:
      ValueError: for attributes that make another function than ours: ``clip``,
        ``input_forget``, gates that are no sigmoid; for a ``direction`` of another
        number of directions than the arrays have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.lstm(3, 5)
    >>> node = rnnjax.interop.to_onnx_weights(cell, cell.init(jax.random.key(0)))
    >>> found = rnnjax.interop.from_onnx_weights(node.op, node.arrays, node.attributes)
    >>> found.cell, found.report.verdict
    (lstm(3, 5), 'exact after merging biases')
    """
    if op not in _TO:
        raise ValueError(f"op is {op!r}; expected one of {sorted(_TO)}.")
    found, given = flatten(arrays), dict(attributes or {})
    for name in ("W", "R"):
        if name not in found or found[name].ndim != 3:
            raise ValueError(
                f"arrays has {sorted(found)}; expected W and R of three axes, "
                "(directions, gates of units, features)."
            )
    count, direction = found["W"].shape[0], _text(given.get("direction", "forward"))
    if {"forward": 1, "reverse": 1, "bidirectional": 2}.get(direction) != count:
        raise ValueError(
            f"direction is {direction!r} and W has shape {found['W'].shape}; expected "
            "'forward', its default, or 'reverse' with one direction in front, "
            "'bidirectional' with two. Write the attributes that the node has."
        )
    if given.get("clip") or given.get("input_forget"):
        raise ValueError(
            "the node has clip or input_forget, which no cell here has: clip cuts the "
            "inputs of the gates, our cell_clip the memory."
        )
    activations = _activations(op, given, count)
    kind = {name: kind for kind, name in _OPS.items()}[op]
    after = kind == "gru" and bool(given.get("linear_before_reset"))
    layer = tuple(
        _read(kind, op, {k: a[d] for k, a in found.items()}, after, activations[d])
        for d in range(count)
    )
    merged = "B" in found
    report = Report("exact after merging biases" if merged else "exact")
    imported = cell_of([layer], f"ONNX {op}", report)
    if direction == "reverse":
        return imported._replace(cell=combinators.reverse(imported.cell))
    return imported


def _read(
    kind: str, op: str, arrays: dict[str, np.ndarray], after: bool, activation: Any
) -> Weights:
    order, h = _FROM[op], arrays["R"].shape[-1]
    columns = arrays["R"].shape[0]
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
        kind,
        reorder(arrays["W"].T, order),
        reorder(arrays["R"].T, order),
        b + b_hh,
        b_hn=b_hn,
        peepholes=peepholes,
        activation=activation,
    )


def _activations(op: str, attributes: dict[str, Any], count: int) -> list[Any]:
    """The one free activation of each direction; the gates' must be sigmoids."""
    plain = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
    default = plain.get(op, ["Tanh"])
    given = [*map(_text, attributes.get("activations") or default * count)]
    each = [given[d * len(default) :][: len(default)] for d in range(count)]
    for names in each:
        names = [name.capitalize() for name in names]
        gates, free = names[: len(default) > 1], set(names[len(default) > 1 :])
        wrong = gates not in ([], ["Sigmoid"]) or len(free) != 1
        wrong = wrong or not free <= _ACTIVATIONS.keys()
        if wrong or (op == "GRU" and free != {"Tanh"}):
            raise ValueError(
                f"activations is {given}; expected those of our cells, for {op} "
                f"{default}, where one of {sorted(_ACTIVATIONS)} may replace Tanh in "
                "an LSTM (both times) and in an RNN."
            )
    return [_ACTIVATIONS[names[-1].capitalize()] for names in each]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
