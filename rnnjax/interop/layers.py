"""Between a model, cells in `stack` and `bidirectional`, and its layers' weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rnnjax import cells, combinators
from rnnjax.analysis import opening
from rnnjax.cell import Cell, Params, Spec
from rnnjax.interop.arrays import check_dtypes
from rnnjax.interop.report import Imported, Report, combine
from rnnjax.interop.weights import Layer, Weights, check_shapes

_KINDS = {
    cells.lstm: "lstm",
    cells.full_lstm: "lstm",
    cells.gru: "gru",
    cells.mgu: "mgu",
    cells.elman: "elman",
}
_COMBINATORS = (
    combinators.stack,
    combinators.bidirectional,
    combinators.with_dropout,
    combinators.drop_connect,
    combinators.dropout,
)


def layers_of(cell: Cell, params: Params, target: str) -> tuple[list[Layer], Report]:
    """Walk a model of `stack` and `bidirectional` down to the weights of its layers.

    Raises:
      TypeError: for what is no cell, and no params.
      ValueError: for a cell that is no stack of recurrent layers, and for params of
        another one.
    """
    check_params(cell, params, target)
    return _layers(cell, params, target)


def check_params(cell: Cell, params: Params, target: str) -> None:
    """Whether params are those of a cell, all of one floating dtype, and concrete.

    Raises:
      TypeError, ValueError: where they are not.
    """
    if not isinstance(cell, Cell):
        swapped = " and params is a cell" if isinstance(params, Cell) else ""
        raise TypeError(
            f"cell is of type {type(cell).__name__}{swapped}; expected a cell and its "
            "params. Write (cell, params), with params = cell.init(key)."
        )
    _spec(cell, target)
    expected = jax.eval_shape(cell.init, jax.random.key(0))
    write = "Write params = cell.init(key), or those that training made of them."
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise ValueError(
            f"params is of type {type(params).__name__}, in another form than the "
            f"{type(expected).__name__} of {cell}; expected the form that cell.init "
            f"gives. {write}"
        )
    dtypes = {}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), wanted in zip(leaves, jax.tree.leaves(expected), strict=True):
        name = "params" + jax.tree_util.keystr(path)
        if isinstance(leaf, Tracer):
            raise TypeError(
                f"{name} of {cell} is traced; expected numbers. Write the conversion "
                "outside of jax.jit and jax.grad."
            )
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise TypeError(
                f"{name} of {cell} is of type {type(leaf).__name__}; expected an "
                f"array. {write}"
            )
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{name} of {cell} has shape {leaf.shape}; expected {wanted.shape}. "
                f"{write}"
            )
        dtypes[name] = leaf
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(
                f"{name} of {cell} was deleted, as donated arguments of jax.jit are; "
                "expected an array that is still there. Write the conversion before "
                "that call, or give it what the call returned."
            )
    check_dtypes(dtypes, "params")


def _spec(cell: Cell, target: str) -> Spec:
    if cell.spec is None:
        raise ValueError(
            f"cell is {cell}, made by no constructor, so its equations are unknown; "
            f"expected lstm, gru or elman, stacked or bidirectional, for {target}. "
            "Write rnnjax.lstm(...), or convert its params by hand."
        )
    return cell.spec


def _layers(cell: Cell, params: Params, target: str) -> tuple[list[Layer], Report]:
    # Your own constructor may return a model of the cells known here.
    cell = opening.made_by(cell, (*_COMBINATORS, *_KINDS)) or cell
    spec = _spec(cell, target)
    make = spec.constructor
    if make is combinators.stack:
        parts = [
            _layers(part, p, target) for part, p in zip(spec.cells, params, strict=True)
        ]
        reports = combine(report for _, report in parts)
        return [layer for layers, _ in parts for layer in layers], reports
    if make is combinators.bidirectional:
        return _both_directions(cell, spec, params, target)
    if make in (combinators.with_dropout, combinators.drop_connect):
        layers, report = _layers(spec["cell"], params, target)
        note = f"{spec.name} is left out: it has no weights and acts in training"
        return layers, combine([report, Report("exact", (note,))])
    if make is combinators.dropout:
        note = "dropout is left out: it has no weights and acts in training"
        return [], Report("exact", (note,))
    weights = _weights_of(cell, spec, params, target)
    return [(weights,)], _of_precision(spec, weights, target)


def _of_precision(spec: Spec, weights: Weights, target: str) -> Report:
    """Whether the cell computes in another dtype than that of its weights."""
    wide, narrow = dict(spec.arguments).get("carry_dtype"), weights.w_hh.dtype
    if wide is None or jnp.dtype(wide) == narrow:
        return Report("exact")
    note = (
        f"carry_dtype={jnp.dtype(wide)} is left out: {target} computes in {narrow}, "
        "the dtype of the weights, unless you cast them"
    )
    return Report("exact", (note,))


def _both_directions(
    cell: Cell, spec: Spec, params: Params, target: str
) -> tuple[list[Layer], Report]:
    forward, backward = (part.cell for part in opening.parts(spec))
    if cell != combinators.bidirectional(forward, spec["backward"]):
        raise ValueError(
            f"{cell} merges its directions by {spec['merge']}; expected none, as "
            f"{target} concatenates them. Write rnnjax.bidirectional(forward, "
            "backward) and merge its outputs."
        )
    pairs = [
        _layers(one, p, target)
        for one, p in zip((forward, backward), params, strict=True)
    ]
    if any(len(layers) != 1 or len(layers[0]) != 1 for layers, _ in pairs):
        raise ValueError(
            f"{cell} has several layers in one direction; expected one, as {target} "
            "joins both directions after each layer. Write rnnjax.stack("
            "rnnjax.bidirectional(a), rnnjax.bidirectional(b))."
        )
    layer = tuple(layers[0][0] for layers, _ in pairs)
    return [layer], combine(report for _, report in pairs)


def _weights_of(cell: Cell, spec: Spec, params: Params, target: str) -> Weights:
    given = dict(spec.arguments)
    if spec.constructor not in _KINDS:
        raise ValueError(
            f"{cell} has no counterpart in {target}; expected lstm, gru or elman, "
            "stacked or bidirectional. Convert the recurrent part of the model, its "
            "entries of cell.spec.cells and of params."
        )
    if given.get("layer_norm"):
        raise ValueError(
            f"{cell} has layer normalisation, which {target} does not have; expected "
            "none, as no other weights give the same function. Export a cell without."
        )
    kind = "coupled_lstm" if given.get("coupled") else _KINDS[spec.constructor]
    names = ("activation", "cell_clip", "projection_clip")
    extra = {name: given[name] for name in names if name in given}
    fields = getattr(params, "_asdict", dict)()
    # Copies, for NumPy's views of JAX arrays cannot be written to, and torch warns.
    arrays = {
        name: np.array(fields[name])
        for name in Weights._fields
        if fields.get(name) is not None
    }
    return Weights(kind=kind, **arrays, **extra)


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
            if weights.input_size != layer[0].input_size:
                raise ValueError(
                    f"{where} takes {layer[0].input_size} features forwards and "
                    f"{weights.input_size} backwards; expected as many in both "
                    "directions. Pass the arrays of one layer."
                )
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
        ((cell, params),) = made
        return Imported(cell, params, combine(reports))
    cell = combinators.stack(*(c for c, _ in made))
    return Imported(cell, tuple(p for _, p in made), combine(reports))


def _leaf(weights: Weights) -> tuple[Cell, Params, Report]:
    sizes = weights.input_size, weights.hidden_size
    arrays, report = _jax_arrays(weights)
    w_ih, w_hh, b = arrays["w_ih"], arrays["w_hh"], arrays["b"]
    b_hn, activation = arrays["b_hn"], weights.activation
    options: dict[str, Any] = {}
    if activation is not jnp.tanh:
        options["activation"] = activation
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
    if weights.kind == "lstm" and (peepholes, w_proj, *clips) == (None,) * 4:
        return cells.lstm(*sizes, **options), cells.LSTMParams(w_ih, w_hh, b), report
    cell = cells.full_lstm(
        *sizes,
        peepholes=peepholes is not None,
        projection_size=None if w_proj is None else weights.output_size,
        coupled=weights.kind == "coupled_lstm",
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
