"""The common form that all conversions go through: one direction of one layer."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnnjax.interop.report import Report

GATES = {"lstm": 4, "coupled_lstm": 3, "gru": 3, "mgu": 2, "elman": 1}


class Weights(NamedTuple):
    """One direction of one layer as NumPy arrays, in the layout of our cells.

    ``w_ih: (i, k)``, ``w_hh: (h, k)`` (``(p, k)`` under a projection), ``b: (k,)``;
    gates i f g o of an LSTM, f g o of a coupled one, r z n of a GRU, f n of an MGU.
    ``b_hn: (h,)`` is there where the reset comes after the product, ``peepholes: (3,
    h)`` has the rows i f o (f o of a coupled LSTM), ``w_proj: (h, p)``.
    """

    kind: str
    w_ih: np.ndarray
    w_hh: np.ndarray
    b: np.ndarray
    b_hn: np.ndarray | None = None
    peepholes: np.ndarray | None = None
    w_proj: np.ndarray | None = None
    activation: Callable[..., Any] = jnp.tanh
    cell_clip: float | None = None
    projection_clip: float | None = None

    @property
    def input_size(self) -> int:
        """Features of one input."""
        return self.w_ih.shape[0]

    @property
    def hidden_size(self) -> int:
        """Units of each gate."""
        return self.w_hh.shape[1] // GATES[self.kind]

    @property
    def output_size(self) -> int:
        """Features of one output: those that the recurrence reads."""
        return self.w_hh.shape[0]


Layer = tuple[Weights, ...]
"""A forward direction alone, or a forward and a backward one."""


def reorder(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Put equal blocks of the last axis into another order; block k was ``order[k]``.

    Raises:
      ValueError: for an axis of another number of blocks.
    """
    if not array.ndim or array.shape[-1] % len(order):
        raise ValueError(
            f"arrays holds one of shape {array.shape}; expected {len(order)} gates of "
            "equal size on its last axis. Pass the arrays of a recurrent layer as the "
            "other library has them."
        )
    blocks = np.split(array, len(order), axis=-1)
    return np.concatenate([blocks[k] for k in order], axis=-1)


def shifted(b: np.ndarray, block: int, gates: int, by: float) -> np.ndarray:
    """Add a number to one gate's block of a bias."""
    b = np.array(b)
    b.reshape(gates, -1)[block] += np.asarray(by, b.dtype)
    return b


def require(
    weights: Weights,
    target: str,
    kinds: Collection[str],
    features: Collection[str] = (),
) -> None:
    """Refuse what a library does not have.

    ``features`` it has: ``"reset after"``, ``"reset before"``, ``"peepholes"``,
    ``"projection"``, ``"clips"``.

    Raises:
      ValueError: with the reason.
    """
    if weights.kind not in kinds:
        raise ValueError(
            f"{target} has no cell like {weights.kind}; expected {' or '.join(kinds)}. "
            "Export such a cell, or convert the params by hand."
        )
    if weights.kind in ("gru", "mgu"):
        has = "reset before" if weights.b_hn is None else "reset after"
        if has not in features:
            this, other = has.split()[1], {"before": "after", "after": "before"}
            raise ValueError(
                f"this {weights.kind} applies its gate {this} the recurrent product; "
                f"expected {other[this]} it, as {target} does: they are different "
                "functions and no weights turn one into the other. Train rnnjax."
                f"{weights.kind}(..., reset_after={this == 'before'}) to export it."
            )
    for name, there in (
        ("peepholes", weights.peepholes is not None),
        ("projection", weights.w_proj is not None),
        ("clips", weights.cell_clip or weights.projection_clip),
    ):
        if there and name not in features:
            raise ValueError(
                f"this LSTM has {name}, which {target} does not have; expected none, "
                "as no other weights give the same function. Export a cell without, or "
                "convert to TensorFlow 1."
            )


def alike(layers: Sequence[Layer], target: str) -> Weights:
    """The first of layers that all have one kind, size, activation and direction.

    Raises:
      ValueError: where they differ, or there is none.
    """
    if not layers:
        raise ValueError(
            f"cell has no recurrent layer; expected some for {target}. Write one that "
            "has weights."
        )

    def form(weights):
        return weights.kind, weights.hidden_size, weights.output_size

    found = [(form(w), w.activation) for layer in layers for w in layer]
    if len(set(found)) > 1 or len({len(layer) for layer in layers}) > 1:
        raise ValueError(
            f"cell has layers of different kinds, sizes, activations or directions; "
            f"expected the same in all of them for one module of {target}. Export each "
            "layer by itself: its entries of cell.spec.cells and of params."
        )
    return layers[0][0]


def one_direction(layers: Sequence[Layer], target: str) -> list[Weights]:
    """The layers of a model for a library that has cells and nothing bidirectional.

    Raises:
      ValueError: where a layer has two directions.
    """
    if any(len(layer) > 1 for layer in layers):
        raise ValueError(
            f"cell is bidirectional, for which {target} has no module and no names; "
            "expected one direction. Export each by itself: cell.spec['forward'] with "
            "params[0], then the backward one with params[1]."
        )
    return [weights for (weights,) in layers]


def check_activation(activation: Any) -> None:
    """Whether an activation is a function.

    Raises:
      TypeError: for its name in the place of it.
    """
    if not callable(activation):
        named = isinstance(activation, str) and activation.isidentifier()
        write = f"jax.nn.{activation}" if named else "jax.nn.relu"
        came = repr(activation) if named else f"of type {type(activation).__name__}"
        raise TypeError(
            f"activation is {came}; expected a function. Write activation={write}."
        )


def check_tanh(activation: Any, kind: str) -> None:
    """Whether an activation is the only one that a kind has.

    Raises:
      ValueError: for another one.
    """
    if activation is not jnp.tanh:
        raise ValueError(
            f"activation is {name_of(activation)}; our {kind} has tanh only. Leave it "
            "out, or convert the layers one at a time."
        )


def name_of(activation: Callable[..., Any]) -> str:
    """How an activation is called in a sentence."""
    return getattr(activation, "__name__", None) or type(activation).__name__


def check_shapes(weights: Weights, where: str) -> None:
    """Whether the arrays of one direction fit each other.

    Raises:
      ValueError: naming the array, its shape and the one expected.
    """
    for name in ("w_ih", "w_hh", "b"):
        array, axes = getattr(weights, name), 1 if name == "b" else 2
        if array.ndim != axes or array.shape[-1] % GATES[weights.kind]:
            raise ValueError(
                f"{where}: {name} has shape {array.shape}; expected {axes} axes, the "
                f"last one with {GATES[weights.kind]} gates of {weights.kind}. Pass "
                "the arrays of one layer."
            )
    h = weights.w_hh.shape[1] // GATES[weights.kind]
    k = h * GATES[weights.kind]
    p = h if weights.w_proj is None else weights.w_proj.shape[-1]
    expected = {
        "w_ih": (weights.input_size, k),
        "w_hh": (p, k),
        "b": (k,),
        "b_hn": (h,),
        "peepholes": (2 if weights.kind == "coupled_lstm" else 3, h),
        "w_proj": (h, p),
    }
    for name, shape in expected.items():
        array = getattr(weights, name)
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{where}: {name} has shape {array.shape}; expected {shape}, as the "
                f"other arrays say (in our layout, {weights.kind} with {h} units). "
                "Pass the arrays of one layer."
            )


def made_with(weights: Weights) -> Report:
    """What the other side's layer must be made with, as no weight tells it."""
    notes = []
    if weights.activation is not jnp.tanh:
        notes.append(
            f"make the layer with the activation {name_of(weights.activation)}"
        )
    if weights.kind == "gru" and weights.b_hn is None:
        notes.append("make the GRU with reset_after=False")
    return Report("exact", tuple(notes))
