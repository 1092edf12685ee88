"""The common form that all conversions go through: one direction of one layer."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import cells, combinators, noise
from rnnjax.cell import Cell, Params
from rnnjax.interop.report import Imported, Report, combine

GATES = {"lstm": 4, "gru": 3, "mgu": 2, "elman": 1}


class Weights(NamedTuple):
    """One direction of one layer as NumPy arrays, in the layout of our cells.

    ``w_ih: (i, k)``, ``w_hh: (h, k)`` (``(p, k)`` under a projection), ``b: (k,)``;
    gates i f g o of an LSTM, r z n of a GRU, f n of an MGU. ``b_hn: (h,)`` is there
    where the reset comes after the product, ``peepholes: (3, h)`` has the rows i f o,
    ``w_proj: (h, p)``.
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


def reorder(array: np.ndarray, order: Sequence[int], axis: int = -1) -> np.ndarray:
    """Put equal blocks of an axis into another order; block k was ``order[k]``."""
    blocks = np.split(array, len(order), axis=axis)
    return np.concatenate([blocks[k] for k in order], axis=axis)


def shifted(b: np.ndarray, block: int, gates: int, by: float) -> np.ndarray:
    """Add a number to one gate's block of a bias."""
    b = np.array(b)
    b.reshape(gates, -1)[block] += np.asarray(by, b.dtype)
    return b


# --- from a cell to weights ---------------------------------------------------------


def layers_of(cell: Cell, params: Params, target: str) -> tuple[list[Layer], Report]:
    """Walk a model of `stack` and `bidirectional` down to the weights of its layers.

    Raises:
      ValueError: for a cell that is no stack of recurrent layers.
    """
    if cell.spec is None:
        raise ValueError(
            f"cell is {cell}, made by no constructor, so its equations are unknown; "
            f"expected lstm, gru or elman, stacked or bidirectional, for {target}. "
            "Write rnnjax.lstm(...), or convert its params by hand."
        )
    make = cell.spec.constructor
    if make is combinators.stack:
        _as_many(cell, params)
        parts = [
            layers_of(part, p, target)
            for part, p in zip(cell.spec.cells, params, strict=True)
        ]
        return [layer for layers, _ in parts for layer in layers], combine(
            report for _, report in parts
        )
    if make is combinators.bidirectional:
        return _both_directions(cell, params, target)
    if make in (noise.with_dropout, noise.drop_connect):
        layers, report = layers_of(cell.spec["cell"], params, target)
        note = f"{cell.spec.name} is left out: it has no weights and acts in training"
        return layers, combine([report, Report("exact", (note,))])
    if make is noise.dropout:
        note = "dropout is left out: it has no weights and acts in training"
        return [], Report("exact", (note,))
    return [(_weights_of(cell, params, target),)], Report("exact")


def _both_directions(
    cell: Cell, params: Params, target: str
) -> tuple[list[Layer], Report]:
    assert cell.spec is not None
    forward, backward = cell.spec["forward"], cell.spec["backward"] or None
    backward = forward if backward is None else backward
    plain = combinators.bidirectional(forward, backward)
    if cell.spec["merge"] is not plain.spec["merge"]:  # pyright: ignore
        raise ValueError(
            f"{cell} merges its directions by {cell.spec['merge']}; {target} "
            "concatenates them. Write rnnjax.bidirectional(forward, backward), and "
            "merge behind it."
        )
    _as_many(cell, params, 2)
    pairs = [
        layers_of(one, p, target)
        for one, p in zip((forward, backward), params, strict=True)
    ]
    if any(len(layers) != 1 or len(layers[0]) != 1 for layers, _ in pairs):
        raise ValueError(
            f"{cell} has several layers in one direction; {target} joins both "
            "directions behind each layer. Write rnnjax.stack(rnnjax.bidirectional("
            "a), rnnjax.bidirectional(b))."
        )
    layer = tuple(layers[0][0] for layers, _ in pairs)
    return [layer], combine(report for _, report in pairs)


def _weights_of(cell: Cell, params: Params, target: str) -> Weights:
    spec = cell.spec
    assert spec is not None
    if spec.constructor is cells.lstm:
        kind, extra = "lstm", {"activation": spec["activation"]}
    elif spec.constructor is cells.full_lstm:
        if spec["coupled"] or spec["layer_norm"]:
            what = "coupled gates" if spec["coupled"] else "layer normalisation"
            raise ValueError(f"{cell} has {what}, which {target} does not have.")
        names = ("activation", "cell_clip", "projection_clip")
        kind, extra = "lstm", {name: spec[name] for name in names}
    elif spec.constructor is cells.gru:
        kind, extra = "gru", {}
    elif spec.constructor is cells.elman:
        kind, extra = "elman", {"activation": spec["activation"]}
    elif spec.constructor is cells.mgu:
        kind, extra = "mgu", {}
    else:
        raise ValueError(
            f"{cell} has no counterpart in {target}; expected lstm, gru or elman, "
            "stacked or bidirectional. Convert the recurrent part of the model, its "
            "entries of cell.spec.cells and of params."
        )
    fields = getattr(params, "_asdict", dict)()
    # Copies, for NumPy's views of JAX arrays cannot be written to, and torch warns.
    arrays = {
        name: np.array(fields[name])
        for name in Weights._fields
        if fields.get(name) is not None
    }
    if not {"w_ih", "w_hh", "b"} <= arrays.keys():
        raise ValueError(
            f"params of {cell} are {type(params).__name__} with the fields "
            f"{sorted(fields)}; expected those of cell.init(key). Write the params "
            "that belong to this cell."
        )
    weights = Weights(kind=kind, **arrays, **extra)
    check_shapes(weights, repr(cell))
    if weights.input_size != spec["input_size"]:
        raise ValueError(
            f"params of {cell} have w_ih of shape {weights.w_ih.shape}; expected "
            f"{spec['input_size']} rows. Write the params that belong to this cell."
        )
    return weights


def _as_many(cell: Cell, params: Any, count: int | None = None) -> None:
    assert cell.spec is not None
    count = len(cell.spec.cells) if count is None else count
    if not isinstance(params, Sequence) or len(params) != count:
        raise ValueError(
            f"params of {cell} are {type(params).__name__}; expected a tuple of "
            f"{count}, as cell.init(key) gives."
        )


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
            f"{target} has no cell like {weights.kind}; expected {' or '.join(kinds)}."
        )
    if weights.kind in ("gru", "mgu"):
        has = "reset before" if weights.b_hn is None else "reset after"
        if has not in features:
            this, other = has.split()[1], {"before": "after", "after": "before"}
            raise ValueError(
                f"this {weights.kind} applies its gate {this} the recurrent product, "
                f"that of {target} {other[this]} it; they are different functions and "
                "no weights turn one into the other. Train rnnjax."
                f"{weights.kind}(..., reset_after={this == 'before'}) to export it."
            )
    for name, there in (
        ("peepholes", weights.peepholes is not None),
        ("projection", weights.w_proj is not None),
        ("clips", weights.cell_clip or weights.projection_clip),
    ):
        if there and name not in features:
            raise ValueError(
                f"this LSTM has {name}, which {target} does not have; no other weights "
                "give the same function. Export a cell without, or convert to "
                "TensorFlow 1."
            )


def alike(layers: Sequence[Layer], target: str) -> Weights:
    """The first of layers that all have one kind, size, activation and direction.

    Raises:
      ValueError: where they differ, or there is none.
    """
    if not layers:
        raise ValueError(f"cell has no recurrent layer; expected some for {target}.")

    def form(weights):
        return weights.kind, weights.hidden_size, weights.output_size

    found = [(form(w), w.activation) for layer in layers for w in layer]
    if len(set(found)) > 1 or len({len(layer) for layer in layers}) > 1:
        raise ValueError(
            f"cell has layers of different kinds, sizes, activations or directions; "
            f"one module of {target} has the same in all of them. Export each layer "
            "by itself: its entries of cell.spec.cells and of params."
        )
    return layers[0][0]


def one_direction(layers: Sequence[Layer], target: str) -> list[Weights]:
    """The layers of a model for a library that has cells and nothing bidirectional.

    Raises:
      ValueError: where a layer has two directions.
    """
    if any(len(layer) > 1 for layer in layers):
        raise ValueError(
            f"cell is bidirectional, for which {target} has no module and no names. "
            "Export each direction by itself: cell.spec['forward'] with params[0], "
            "then the backward one with params[1]."
        )
    return [weights for (weights,) in layers]


# --- from weights to a cell ---------------------------------------------------------


def cell_of(layers: Sequence[Layer], source: str, report: Report) -> Imported:
    """The cell that the weights of its layers make, in `stack` and `bidirectional`.

    Raises:
      ValueError: for shapes that contradict each other.
    """
    made, reports, size = [], [report], None
    for k, layer in enumerate(layers):
        where = f"layer {k} of {source}"
        for weights in layer:
            check_shapes(weights, where)
            if size is not None and weights.input_size != size:
                raise ValueError(
                    f"{where} takes {weights.input_size} features, the one before it "
                    f"gives {size}; expected layers that follow each other. Convert "
                    "them one at a time, or give their arrays in the order of the "
                    "layers."
                )
        directions = [_leaf(weights) for weights in layer]
        reports += [r for _, _, r in directions]
        cell, params, _ = directions[0]
        if len(directions) == 2:
            forward, backward = (c for c, _, _ in directions)
            same = None if forward == backward else backward
            cell = combinators.bidirectional(forward, same)
            params = tuple(p for _, p, _ in directions)
        made.append((cell, params))
        size = sum(weights.output_size for weights in layer)
    if len(made) == 1:
        return Imported(*made[0], combine(reports))
    cell = combinators.stack(*(c for c, _ in made))
    return Imported(cell, tuple(p for _, p in made), combine(reports))


def _leaf(weights: Weights) -> tuple[Cell, Params, Report]:
    sizes = weights.input_size, weights.hidden_size
    arrays, report = _jax_arrays(weights)
    w_ih, w_hh, b = arrays["w_ih"], arrays["w_hh"], arrays["b"]
    b_hn, activation = arrays["b_hn"], weights.activation
    options = {} if activation is jnp.tanh else {"activation": activation}
    if weights.kind == "elman":
        params = cells.ElmanParams(w_ih, w_hh, b)
        return cells.elman(*sizes, **options), params, report
    if weights.kind == "gru":
        cell = cells.gru(*sizes, reset_after=b_hn is not None)
        return cell, cells.GRUParams(w_ih, w_hh, b, b_hn), report
    if weights.kind == "mgu":
        cell = cells.mgu(*sizes, reset_after=b_hn is not None)
        return cell, cells.MGUParams(w_ih, w_hh, b, b_hn), report
    peepholes, w_proj = arrays["peepholes"], arrays["w_proj"]
    clips = weights.cell_clip, weights.projection_clip
    if (peepholes, w_proj, *clips) == (None,) * 4:
        return cells.lstm(*sizes, **options), cells.LSTMParams(w_ih, w_hh, b), report
    cell = cells.full_lstm(
        *sizes,
        peepholes=peepholes is not None,
        projection_size=None if w_proj is None else weights.output_size,
        cell_clip=clips[0],
        projection_clip=clips[1],
        **options,
    )
    params = cells.FullLSTMParams(w_ih, w_hh, b, peepholes, w_proj, norm=None)
    return cell, params, report


def _jax_arrays(weights: Weights) -> tuple[dict[str, Any], Report]:
    """As arrays of JAX, and what their rounding to its default precision lost."""
    made: dict[str, Any] = {}
    lost, notes = 0.0, ()
    for name, value in weights._asdict().items():
        made[name] = value
        if isinstance(value, np.ndarray):
            made[name] = jnp.asarray(value)
            if made[name].dtype != value.dtype:
                back = np.asarray(made[name]).astype(value.dtype)
                lost = max(lost, float(np.abs(back - value).max(initial=0)))
    if lost:
        notes = (
            f"float64 weights were rounded to float32, by up to {lost:.1e}; set "
            "jax_enable_x64 to keep them",
        )
    return made, Report("lossy" if lost else "exact", notes)


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
                f"last one with {GATES[weights.kind]} gates of a {weights.kind}."
            )
        if not jax.dtypes.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{where}: {name} has dtype {array.dtype}; expected a floating dtype. "
                "Turn quantised weights back into numbers first."
            )
    h = weights.w_hh.shape[1] // GATES[weights.kind]
    k = h * GATES[weights.kind]
    p = h if weights.w_proj is None else weights.w_proj.shape[-1]
    expected = {
        "w_ih": (weights.input_size, k),
        "w_hh": (p, k),
        "b": (k,),
        "b_hn": (h,),
        "peepholes": (3, h),
        "w_proj": (h, p),
    }
    for name, shape in expected.items():
        array = getattr(weights, name)
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{where}: {name} has shape {array.shape}; expected {shape}, as the "
                f"other arrays say (in our layout, {weights.kind} with {h} units)."
            )
