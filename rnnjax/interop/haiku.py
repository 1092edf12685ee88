"""Weights of Haiku's ``hk.LSTM``, ``hk.GRU`` and ``hk.VanillaRNN``."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_names, take, take_or_zeros
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import layers_in
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import (
    Weights,
    name_of,
    one_direction,
    reorder,
    require,
    shifted,
)

_NAMES = {"lstm": "lstm", "gru": "gru", "elman": "vanilla_rnn"}
_TAILS = ("w_i", "w_h", "b", "linear/w", "linear/b", "linear_1/w", "linear_1/b")
_LSTM = (0, 2, 1, 3)  # i g f o there, i f g o here
_GRU = (1, 0, 2)  # z r a there, r z n here


def from_haiku(arrays: Mapping[str, Any], *, prefix: str = "") -> Imported:
    """The cell that Haiku's recurrent cores are.

    Haiku's update gate says what is new where ours says what stays, so its sign is
    turned; its LSTM adds 1 to the forget gate at every call, which goes into ``b``. A
    ``VanillaRNN`` has relu.

    Args:
      arrays: the params of ``hk.transform``, of one core or of several that follow
        each other (in ``hk.DeepRNN``). Cores of different kinds stand in the order of
        the dictionary, which JAX sorts by name: give them as ``{"0": ..., "1": ...}``.
      prefix: what the names of the cores start with, for example ``"net/~/lstm"``;
        others are left alone.

    Raises:
      ValueError: for names and shapes that are no such cores'.

    Reference: https://dm-haiku.readthedocs.io.

    >>> import numpy as np, rnnjax
    >>> params = {"lstm/linear": {"w": np.ones((8, 20), "float32"),
    ...                           "b": np.zeros(20, "float32")}}
    >>> cell, params, report = rnnjax.interop.from_haiku(params)
    >>> cell, params.b[4:7].tolist()
    (lstm(3, 5), [0.0, 1.0, 1.0])
    """
    groups, order = layers_in(arrays, _TAILS, "Haiku", prefix)
    layers, reports = [], [order]
    for layer in groups:
        parts = [_read(group.arrays) for group in layer]
        layers.append(tuple(weights for weights, _ in parts))
        reports += [report for _, report in parts]
    return cell_of(layers, "Haiku", combine(reports))


def _read(group: dict[str, np.ndarray]) -> tuple[Weights, Report]:
    if "w_i" in group:
        source = "hk.GRU"
        check_names(group, _TAILS[:3], source)
        w_ih, w_hh, b = (
            _negated(reorder(take(group, name, source, axes), _GRU), 1)
            for name, axes in (("w_i", 2), ("w_h", 2), ("b", 1))
        )
        return Weights("gru", w_ih, w_hh, b), Report("exact")
    if "linear_1/w" in group:
        source = "hk.VanillaRNN"
        check_names(group, _TAILS[3:], source)
        w_ih, w_hh = (take(group, f"{n}/w", source, 2) for n in ("linear", "linear_1"))
        both = {"linear/b", "linear_1/b"} <= group.keys()
        b = take_or_zeros(group, "linear/b", source, w_ih)
        if both:
            b = b + take_or_zeros(group, "linear_1/b", source, w_ih)
        weights = Weights("elman", w_ih, w_hh, b, activation=jax.nn.relu)
        return weights, Report("exact after merging biases" if both else "exact")
    source = "hk.LSTM"
    check_names(group, _TAILS[3:5], source)
    w, b = take(group, "linear/w", source, 2), take(group, "linear/b", source, 1)
    hidden = w.shape[-1] // 4
    inputs = w.shape[0] - hidden
    if inputs < 1 or w.shape[-1] % 4 or b.shape != w.shape[-1:]:
        raise ValueError(
            f"linear/w of hk.LSTM has shape {w.shape} and linear/b {b.shape}; expected "
            "(input + hidden, 4 * hidden) and (4 * hidden,). Pass prefix= with what "
            "the names of the cores start with."
        )
    w, b = reorder(w, _LSTM), shifted(reorder(b, _LSTM), 1, 4, 1.0)
    return Weights("lstm", w[:inputs], w[inputs:], b), Report("exact")


def _negated(a: np.ndarray, block: int) -> np.ndarray:
    """One of three gates with the other sign, for 1 - sigmoid(z) is sigmoid(-z)."""
    blocks = np.split(a, 3, axis=-1)
    blocks[block] = -blocks[block]
    return np.concatenate(blocks, axis=-1)


def to_haiku(cell: Cell, params: Params) -> Exported:
    """The params of the Haiku cores that a cell is.

    Names are those of cores made at the top of the transformed function: ``lstm``,
    ``lstm_1`` and so on. A core made inside another module has that module's name in
    front. The second bias of a ``VanillaRNN`` is zero; one made with
    ``double_bias=False`` does not read it.

    Args:
      cell: `lstm`, `gru` with ``reset_after=False``, `elman` with `jax.nn.relu`, or
        `stack` of them.
      params: its params.

    Raises:
      ValueError: for cells that Haiku does not have: a GRU that resets after the
        product, an `elman` with tanh, `bidirectional`.

    >>> import jax, rnnjax
    >>> cell = rnnjax.gru(3, 5, reset_after=False)
    >>> exported = rnnjax.interop.to_haiku(cell, cell.init(jax.random.key(0)))
    >>> {name: sorted(arrays) for name, arrays in exported.arrays.items()}
    {'gru': ['b', 'w_h', 'w_i']}
    """
    layers, report = layers_of(cell, params, "Haiku")
    arrays, counts = {}, dict.fromkeys(_NAMES, 0)
    for weights in one_direction(layers, "Haiku"):
        require(weights, "Haiku", _NAMES, ("reset before",))
        count = counts[weights.kind]
        counts[weights.kind] += 1
        stem = _NAMES[weights.kind] + (f"_{count}" if count else "")
        arrays |= {stem + name: value for name, value in _write(weights).items()}
    return Exported(arrays, report)


def _write(weights: Weights) -> dict[str, dict[str, np.ndarray]]:
    w_ih, w_hh, b = weights.w_ih, weights.w_hh, weights.b
    fixed = jax.nn.relu if weights.kind == "elman" else jax.numpy.tanh
    if weights.activation is not fixed:
        raise ValueError(
            f"activation of this {weights.kind} is {name_of(weights.activation)}; "
            f"expected {fixed.__name__}, as Haiku has no other. Export a cell with it."
        )
    if weights.kind == "gru":
        w_ih, w_hh, b = (reorder(_negated(a, 1), _GRU) for a in (w_ih, w_hh, b))
        return {"": {"w_i": w_ih, "w_h": w_hh, "b": b}}
    if weights.kind == "elman":
        # A VanillaRNN has a second bias by default, and looks for it.
        second = {"w": w_hh, "b": np.zeros_like(b)}
        return {"/linear": {"w": w_ih, "b": b}, "/linear_1": second}
    w = reorder(np.concatenate([w_ih, w_hh]), _LSTM)
    return {"/linear": {"w": w, "b": shifted(reorder(b, _LSTM), 2, 4, -1.0)}}
