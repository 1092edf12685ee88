"""Weights of torch's ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and their single cells."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import flatten, take
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import Weights, alike, require

KINDS = {4: "lstm", 3: "gru", 1: "elman"}
_NAME = re.compile(
    r"(?P<name>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>\d+)(?P<reverse>_reverse)?)?"
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
    source = "torch"
    found: dict[tuple[int, bool], dict[str, np.ndarray]] = {}
    for name, array in flatten(arrays, prefix).items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"arrays holds {name!r}, no weight of a torch RNN, LSTM or GRU; "
                "expected names like 'weight_ih_l0'. Pass prefix= with what they start "
                "with, for example prefix='encoder.lstm.', or the state_dict() of the "
                "recurrent module alone."
            )
        place = int(match["layer"] or 0), match["reverse"] is not None
        found.setdefault(place, {})[match["name"]] = array
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
    w_ih, w_hh = take(group, "weight_ih", where), take(group, "weight_hh", where)
    w_proj = group.get("weight_hr")
    for name, array in (("weight_ih", w_ih), ("weight_hh", w_hh)):
        if array.ndim != 2:
            raise ValueError(
                f"{where}: {name} has shape {array.shape}; expected (gates * hidden, "
                "features). Pass it as torch has it."
            )
    rows, hidden = w_hh.shape[0], w_hh.shape[1]
    gates = 4 if w_proj is not None else rows / hidden
    if gates not in KINDS:
        raise ValueError(
            f"{where}: weight_hh has shape {w_hh.shape}; expected 4, 3 or 1 times as "
            "many rows as columns, for LSTM, GRU or RNN. An LSTM with a projection "
            "has weight_hr besides."
        )
    kind = KINDS[int(gates)]
    if activation is not jnp.tanh and kind != "elman":
        raise ValueError(
            f"activation is {activation}, but {where} is a {kind}, which has tanh in "
            "torch. Leave activation out."
        )
    biases = [group[name] for name in ("bias_ih", "bias_hh") if name in group]
    report = Report("exact after merging biases" if len(biases) == 2 else "exact")
    b_ih = group.get("bias_ih", np.zeros(rows, w_ih.dtype))
    b_hh = np.array(group.get("bias_hh", np.zeros(rows, w_ih.dtype)))
    b_hn = None
    if kind == "gru":
        b_hn = b_hh[-hidden:].copy()
        b_hh[-hidden:] = 0
    if b_ih.shape != b_hh.shape:
        raise ValueError(
            f"{where}: bias_ih has shape {b_ih.shape} and bias_hh {b_hh.shape}; "
            "expected equal shapes."
        )
    return (
        Weights(
            kind,
            w_ih.T,
            w_hh.T,
            b_ih + b_hh,
            b_hn=b_hn,
            w_proj=None if w_proj is None else w_proj.T,
            activation=activation,
        ),
        report,
    )


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
        f"activation of a {weights.kind} is {weights.activation}; expected jnp.tanh, "
        "or jax.nn.relu in elman. No weights make up for another activation."
    )
