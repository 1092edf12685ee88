"""Weights of torch's ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and their single cells."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_dtypes, check_names, flatten, take
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import (
    Weights,
    alike,
    check_activation,
    name_of,
    require,
)

KINDS = {4: "lstm", 3: "gru", 1: "elman"}
_MATRICES = ("weight_ih", "weight_hh")
_BIASES = ("bias_ih", "bias_hh")
_NAME = re.compile(
    r"(?P<name>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>[0-9]{1,4})(?P<reverse>_reverse)?)?"
)


def from_torch(
    arrays: Mapping[str, Any],
    *,
    prefix: str = "",
    activation: Callable[..., Any] = jnp.tanh,
) -> Imported:
    r"""The cell that a torch recurrent module is, from its ``state_dict()``.

    Kind, layers, directions, projection and whether there are biases follow from names
    and shapes. Torch adds two biases wherever one would do; only the GRU's
    :math:`b_{hn}`, inside the reset gate, is a bias of its own.

    Args:
      arrays: ``module.state_dict()``, or the same names with NumPy arrays. A bfloat16
        module needs ``module.float()`` first, for NumPy has no such numbers.
      prefix: what the names start with in the ``state_dict()`` of a whole model, for
        example ``"encoder.lstm."``; other names are then left alone.
      activation: `jax.nn.relu` for an ``nn.RNN(nonlinearity="relu")``, which no weight
        tells.

    Raises:
      ValueError: for names and shapes that are no such module's.
      TypeError: for a module in the place of its ``state_dict()``.

    Reference: https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html.

    >>> import numpy as np, rnnjax
    >>> rng = np.random.default_rng(0)
    >>> state_dict = {
    ...     "weight_ih_l0": rng.normal(size=(20, 3)).astype("float32"),
    ...     "weight_hh_l0": rng.normal(size=(20, 5)).astype("float32"),
    ...     "bias_ih_l0": np.ones(20, "float32"),
    ...     "bias_hh_l0": np.ones(20, "float32")}
    >>> cell, params, report = rnnjax.interop.from_torch(state_dict)
    >>> cell, float(params.b[0]), report.verdict
    (lstm(3, 5), 2.0, 'exact after merging biases')
    """
    check_activation(activation)
    source = "torch"
    found: dict[tuple[int, bool], dict[str, np.ndarray]] = {}
    flat = flatten(arrays, prefix)
    for name, array in flat.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"arrays holds {name[:80]!r}, no weight of a torch RNN, LSTM or GRU; "
                "expected names like 'weight_ih_l0'. Pass prefix= with what they start "
                "with, for example prefix='encoder.lstm.', or the state_dict() of the "
                "recurrent module alone."
            )
        place = int(match["layer"] or 0), match["reverse"] is not None
        if match["name"] in found.setdefault(place, {}):
            raise ValueError(
                f"arrays holds {name!r} and another {match['name']} of layer "
                f"{place[0]}; expected one. Pass the cell and the layers one at a time."
            )
        found[place][match["name"]] = array
    check_dtypes(flat)
    layers, reports = [], []
    two = any(backwards for _, backwards in found)
    directions = (False, True) if two else (False,)
    for depth in range(max(depth for depth, _ in found) + 1):
        layer = []
        for backwards in directions:
            where = f"layer {depth} of torch" + ", reverse" * backwards
            group = found.get((depth, backwards), {})
            weights, report = read(group, where, activation)
            layer.append(weights)
            reports.append(report)
        layers.append(tuple(layer))
    return cell_of(layers, source, combine(reports))


def to_torch(cell: Cell, params: Params) -> Exported:
    """The ``state_dict`` of the torch module that a cell is.

    The one bias becomes ``bias_ih``, ``bias_hh`` is zero but for the GRU's ``b_hn``.
    Load it with ``module.load_state_dict({k: torch.from_numpy(v) for k, v in
    exported.arrays.items()})``; a module of a single cell wants names without ``_l0``.

    Args:
      cell: `lstm`, `full_lstm` with a projection, `gru`, `elman` (tanh or relu), or
        `stack` and `bidirectional` of one of them, all of one size.
      params: its params.

    Raises:
      ValueError: for cells that no torch module is, for example a GRU that resets
        before the product.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 5)
    >>> exported = rnnjax.interop.to_torch(cell, cell.init(jax.random.key(0)))
    >>> {name: array.shape for name, array in exported.arrays.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'weight_ih_l0': (15, 3), 'weight_hh_l0': (15, 5),
     'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}
    """
    layers, report = layers_of(cell, params, "torch")
    first, arrays = alike(layers, "torch"), {}
    for depth, layer in enumerate(layers):
        for weights, suffix in zip(layer, ("", "_reverse"), strict=False):
            require(weights, "torch", KINDS.values(), ("reset after", "projection"))
            for name, array in write(weights).items():
                arrays[f"{name}_l{depth}{suffix}"] = np.ascontiguousarray(array)
    note = activation_note(first, "nonlinearity")
    return Exported(arrays, combine([report, note]))


def read(
    group: dict[str, np.ndarray], where: str, activation: Callable[..., Any] = jnp.tanh
) -> tuple[Weights, Report]:
    """One direction of a layer with torch's names and layout."""
    check_names(group, (*_MATRICES, *_BIASES, "weight_hr"), where)
    w_ih, w_hh = (take(group, name, where, 2) for name in _MATRICES)
    w_proj = take(group, "weight_hr", where, 2) if "weight_hr" in group else None
    rows, hidden = w_hh.shape
    gates = 4 if w_proj is not None else rows / hidden
    if gates not in KINDS:
        raise ValueError(
            f"{where}: weight_hh has shape {w_hh.shape}; expected 4, 3 or 1 times as "
            "many rows as columns, for LSTM, GRU or RNN, or weight_hr too for an "
            "LSTM with a projection. Pass the state_dict() of the module."
        )
    kind = KINDS[int(gates)]
    if activation not in ((jnp.tanh, jax.nn.relu) if kind == "elman" else (jnp.tanh,)):
        raise ValueError(
            f"activation is {name_of(activation)}, but {where} is of kind {kind}; "
            f"expected {'tanh or relu' if kind == 'elman' else 'tanh, its only one'}. "
            "Leave activation out."
        )
    present = [name for name in _BIASES if name in group]
    if len(present) == 1:
        raise ValueError(
            f"{where} has {present[0]} alone; expected both biases or, with "
            "bias=False, neither. Pass the whole state_dict()."
        )
    biases = [take(group, name, where, 1) for name in present]
    for name, bias in zip(present, biases, strict=True):
        if bias.shape != (rows,):
            raise ValueError(
                f"{where}: {name} has shape {bias.shape}; expected ({rows},), the rows "
                "of weight_hh. Pass the biases of this layer."
            )
    report = Report("exact after merging biases" if biases else "exact")
    b_ih, b_hh = biases or np.zeros((2, rows), w_ih.dtype)
    b_hn = None
    if kind == "gru":
        b_hh = b_hh.copy()
        b_hn = b_hh[-hidden:].copy()
        b_hh[-hidden:] = 0
    weights = Weights(
        kind,
        w_ih.T,
        w_hh.T,
        b_ih + b_hh,
        b_hn=b_hn,
        w_proj=None if w_proj is None else w_proj.T,
        activation=activation,
    )
    return weights, report


def write(weights: Weights) -> dict[str, np.ndarray]:
    """One direction of a layer in torch's names and layout."""
    b_hh = np.zeros_like(weights.b)
    if weights.b_hn is not None:
        b_hh[-weights.hidden_size :] = weights.b_hn
    arrays = {
        "weight_ih": weights.w_ih.T,
        "weight_hh": weights.w_hh.T,
        "bias_ih": weights.b,
        "bias_hh": b_hh,
    }
    if weights.w_proj is not None:
        arrays["weight_hr"] = weights.w_proj.T
    return arrays


def activation_note(weights: Weights, argument: str) -> Report:
    """Which activation a torch module must be made with, or that there is none.

    Raises:
      ValueError: for activations that torch does not have.
    """
    if weights.activation is jnp.tanh:
        return Report("exact")
    if weights.kind == "elman" and weights.activation is jax.nn.relu:
        return Report("exact", (f"make the module with {argument}='relu'",))
    raise ValueError(
        f"activation of a {weights.kind} is {name_of(weights.activation)}; expected "
        "jnp.tanh, or jax.nn.relu in elman, as no weights make up for another. Export "
        "a cell with one of them."
    )
