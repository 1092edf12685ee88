"""Weights of Flax's recurrent cells, those of linen and those of nnx."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import take, take_or_zeros
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import layers_in
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import (
    Weights,
    check_activation,
    check_tanh,
    made_with,
    require,
)

# The dense layers of a cell, those of the input and of the carry, in our gates' order.
_LINEN = {
    "lstm": (("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho")),
    "gru": (("ir", "iz", "in"), ("hr", "hz", "hn")),
    "mgu": (("if", "in"), ("hf", "hn")),
    "elman": (("i",), ("h",)),
}
_NNX = {"lstm": (("ii", "if_", "ig", "io"), _LINEN["lstm"][1])}
_FUSED = (("dense_i",), ("dense_h",))
_BOTH = ("forward_rnn", "backward_rnn")


def from_linen(
    arrays: Mapping[str, Any],
    *,
    prefix: str = "",
    activation: Callable[..., Any] = jnp.tanh,
) -> Imported:
    """The cell that linen's recurrent cells are: LSTM, OptimizedLSTM, GRU, Simple, MGU.

    Args:
      arrays: the params of a cell, an ``nn.RNN``, an ``nn.Bidirectional``, or of
        several layers, nested as Flax has them. Layers stand in the order of the
        dictionary, which Flax sorts by name, except names that differ in a number: so
        give models of mixed names as ``{"0": params["encoder"], ...}``, and directions
        that were not made by ``nn.Bidirectional`` as ``{"forward": ..., "backward":
        ...}``.
      prefix: what the names ``a/b/c`` start with, others are left alone.
      activation: that of the cell's ``activation_fn``, which no weight tells; the
        ``gate_fn`` must be the default sigmoid, ``residual`` of a SimpleCell False.

    Raises:
      ValueError: for names and shapes that are no such cells', and for an MGUCell with
        ``reset_gate=False``.

    Reference: https://flax-linen.readthedocs.io.

    >>> import numpy as np, rnnjax
    >>> params = {"i": {"kernel": np.ones((3, 5)), "bias": np.ones(5)},
    ...           "h": {"kernel": np.ones((5, 5))}}
    >>> rnnjax.interop.from_linen({"cell": params}).cell
    elman(3, 5)
    """
    return _import(arrays, _LINEN, "Flax linen", prefix, activation)


def from_nnx(
    arrays: Mapping[Any, Any],
    *,
    prefix: str = "",
    activation: Callable[..., Any] = jnp.tanh,
) -> Imported:
    """The cell that nnx's recurrent cells are: LSTM, OptimizedLSTM, GRU, Simple.

    Args:
      arrays: ``nnx.to_pure_dict(nnx.state(module, nnx.Param))`` of a cell, an
        ``nnx.RNN``, an ``nnx.Bidirectional``, or of several layers; their order is
        that which `from_linen` describes.
      prefix: what the names ``a/b/c`` start with, others are left alone.
      activation: that of the cell's ``activation_fn``, see `from_linen`.

    Raises:
      ValueError: for names and shapes that are no such cells'.

    Reference: https://flax.readthedocs.io.

    >>> import numpy as np, rnnjax
    >>> state = {"dense_i": {"kernel": np.ones((3, 20))},
    ...          "dense_h": {"kernel": np.ones((5, 20)), "bias": np.ones(20)}}
    >>> rnnjax.interop.from_nnx(state).cell
    lstm(3, 5)
    """
    names = {"fused": _FUSED} | _NNX
    return _import(arrays, names, "Flax nnx", prefix, activation)


def _import(
    arrays: Mapping[Any, Any],
    names: dict[str, Any],
    source: str,
    prefix: str,
    activation: Callable[..., Any],
) -> Imported:
    check_activation(activation)
    denses = {n for i, h in names.values() for n in (*i, *h)}
    tails = [f"{dense}/{part}" for dense in denses for part in ("kernel", "bias")]
    groups, order = layers_in(arrays, tails, source, prefix)
    layers = [
        tuple(_read(group.arrays, names, source, activation) for group in layer)
        for layer in groups
    ]
    return cell_of(layers, source, order)


def _read(
    group: dict[str, np.ndarray],
    names: dict[str, Any],
    source: str,
    activation: Callable[..., Any],
) -> Weights:
    present = {name.partition("/")[0] for name in group}
    kinds = [kind for kind, (i, h) in names.items() if present == {*i, *h}]
    if not kinds:
        raise ValueError(
            f"a cell of {source} has the dense layers {sorted(present)}; expected one "
            f"of {[sorted((*i, *h)) for i, h in names.values()]}. Pass the params of "
            "one cell."
        )
    (kind,) = kinds
    inputs, carries = names[kind]

    def joined(denses):
        kernels = [take(group, f"{dense}/kernel", source, 2) for dense in denses]
        if len({kernel.shape for kernel in kernels}) > 1:
            shapes = [kernel.shape for kernel in kernels]
            raise ValueError(
                f"the kernels of {', '.join(denses)} of {source} have the shapes "
                f"{shapes}; expected one shape for all gates. Pass the params of one "
                "cell."
            )
        biases = [
            take_or_zeros(group, f"{dense}/bias", source, kernel)
            for dense, kernel in zip(denses, kernels, strict=True)
        ]
        return np.concatenate(kernels, axis=-1), np.concatenate(biases)

    (w_ih, b_ih), (w_hh, b_hh) = joined(inputs), joined(carries)
    if w_ih.shape[-1] != w_hh.shape[-1]:
        raise ValueError(
            f"a cell of {source} has {w_ih.shape[-1]} columns for the input and "
            f"{w_hh.shape[-1]} for the carry; expected as many. Pass the params of one "
            "cell."
        )
    hidden = w_hh.shape[0]
    if kind == "fused":
        gates = w_hh.shape[-1] / hidden
        if gates not in (4, 3, 1):
            raise ValueError(
                f"dense_h/kernel of {source} has shape {w_hh.shape}; expected 4, 3 or "
                "1 times as many columns as rows, for LSTM, GRU or SimpleCell. Pass "
                "the params of one cell."
            )
        kind = {4: "lstm", 3: "gru", 1: "elman"}[int(gates)]
    if kind == "mgu" and "hn/bias" not in group:
        raise ValueError(
            "this MGUCell has no hn/bias, as with reset_gate=False, whose candidate is "
            "not gated; expected a gated one, as in both forms of rnnjax.mgu. Train it "
            "with reset_gate=True, or wrap it by rnnjax.flax.from_linen_cell."
        )
    if kind not in ("gru", "mgu"):
        return Weights(kind, w_ih, w_hh, b_ih + b_hh, activation=activation)
    check_tanh(activation, kind)
    b_hn, b_hh = b_hh[-hidden:], np.array(b_hh)
    b_hh[-hidden:] = 0
    return Weights(kind, w_ih, w_hh, b_ih + b_hh, b_hn=b_hn)


def to_linen(cell: Cell, params: Params) -> Exported:
    """The params of the linen cells that a cell is, nested as Flax wants them.

    One layer has the names of ``nn.RNN(nn.LSTMCell(...))``, so ``arrays["cell"]`` are
    those of the bare cell; two directions those of ``nn.Bidirectional(nn.RNN(...),
    nn.RNN(...))``, several layers those of ``nn.Sequential`` of either. LSTMCell and
    OptimizedLSTMCell have the same names.

    Args:
      cell: `lstm`, `gru`, `mgu` (both with ``reset_after=True``), `elman`, or `stack`
        and `bidirectional` of them.
      params: its params.

    Raises:
      ValueError: for cells that linen does not have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 5)
    >>> exported = rnnjax.interop.to_linen(cell, cell.init(jax.random.key(0)))
    >>> sorted(exported.arrays["cell"])
    ['hn', 'hr', 'hz', 'in', 'ir', 'iz']
    """
    layers, report = layers_of(cell, params, "Flax linen")
    made, reports = [], [report]
    for layer in layers:
        for weights in layer:
            require(weights, "Flax linen", _LINEN, ("reset after",))
            reports.append(made_with(weights))
        made.append(_rnn([_write(weights, _LINEN[weights.kind]) for weights in layer]))
    if len(made) == 1:
        return Exported(made[0], combine(reports))
    named = {f"layers_{depth}": arrays for depth, arrays in enumerate(made)}
    return Exported(named, combine(reports))


def to_nnx(cell: Cell, params: Params, *, fused: bool = True) -> Exported:
    """The state of the nnx cells that a cell is, a pure dict as nnx wants it.

    One layer has the names of ``nnx.RNN(cell)``, so ``arrays["cell"]`` are those of
    the bare cell; two directions those of ``nnx.Bidirectional``, several layers those
    of ``nnx.Sequential``. ``nnx.GRUCell`` has no ``b_hn``: where ours is not zero the
    result is lossy and the report says by how much.

    Args:
      cell: `lstm`, `gru`, `elman`, or `stack` and `bidirectional` of them.
      params: its params.
      fused: whether an LSTM is an ``nnx.OptimizedLSTMCell``, or an ``nnx.LSTMCell``,
        whose names differ.

    Raises:
      ValueError: for cells that nnx does not have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.lstm(3, 5)
    >>> exported = rnnjax.interop.to_nnx(cell, cell.init(jax.random.key(0)))
    >>> exported.arrays["cell"]["dense_i"]["kernel"].shape, exported.report.verdict
    ((3, 20), 'exact')
    """
    if not isinstance(fused, bool):
        raise TypeError(
            f"fused is of type {type(fused).__name__}; expected a bool. Write "
            "fused=False for the names of nnx.LSTMCell."
        )
    layers, report = layers_of(cell, params, "Flax nnx")
    made, reports = [], [report]
    for layer in layers:
        for weights in layer:
            kinds = ("lstm", "gru", "elman")
            require(weights, "Flax nnx", kinds, ("reset after",))
            reports += [made_with(weights), _without_b_hn(weights)]
        kept = [weights._replace(b_hn=None) for weights in layer]
        names = [
            _FUSED if fused or weights.kind != "lstm" else _NNX["lstm"]
            for weights in kept
        ]
        made.append(_rnn([_write(w, n) for w, n in zip(kept, names, strict=True)]))
    if len(made) == 1:
        return Exported(made[0], combine(reports))
    return Exported({"layers": dict(enumerate(made))}, combine(reports))


def _without_b_hn(weights: Weights) -> Report:
    if weights.b_hn is None or not weights.b_hn.any():
        return Report("exact")
    note = (
        f"b_hn, up to {np.abs(weights.b_hn).max():.3g} in magnitude, is dropped: "
        "nnx.GRUCell has no bias inside the reset gate"
    )
    return Report("lossy", (note,))


def _rnn(directions: list[dict[str, Any]]) -> dict[str, Any]:
    if len(directions) == 1:
        return {"cell": directions[0]}
    return {n: {"cell": a} for n, a in zip(_BOTH, directions, strict=True)}


def _write(weights: Weights, denses: Any) -> dict[str, Any]:
    """A dense layer for each gate, or one for all; biases where Flax has them."""
    made: dict[str, Any] = {}
    inputs, carries = denses
    for names, kernel in ((inputs, weights.w_ih), (carries, weights.w_hh)):
        blocks = np.split(kernel, len(names), axis=-1)
        made |= {n: {"kernel": a} for n, a in zip(names, blocks, strict=True)}
    biased = carries if weights.kind == "lstm" else inputs
    for name, b in zip(biased, np.split(weights.b, len(biased)), strict=True):
        made[name]["bias"] = b
    if weights.b_hn is not None:
        made["hn"]["bias"] = weights.b_hn
    return made
