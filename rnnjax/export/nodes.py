"""Which ONNX nodes each cell becomes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import cells, combinators
from rnnjax.analysis import opening
from rnnjax.cell import Cell, Params
from rnnjax.combinators.layers import concatenate
from rnnjax.export.graph import Graph, zeroed
from rnnjax.interop import to_onnx_weights


class Place(NamedTuple):
    """A cell within the model: what goes in, where its carry is, which way it walks."""

    cell: Cell
    params: Params
    xs: str
    path: tuple[Any, ...]
    backwards: bool


def convert(place: Place, graph: Graph, counted: str) -> str:
    """Write the nodes of a cell; ``counted`` is true at steps that are no padding.

    Raises:
      ValueError: for a cell that has none.
    """
    # Your own constructor may return a model of the cells known here.
    cell = opening.made_by(place.cell, _CONVERT)
    if cell is None:
        known = ", ".join(make.__name__ for make in _CONVERT)
        raise ValueError(
            f"{place.cell} has no ONNX graph; expected a model of {known}. Write it "
            "with those, or export StableHLO by rnnjax.export.unroll, which takes any "
            "cell."
        )
    place = place._replace(cell=cell)
    return _CONVERT[_spec(place).constructor](place, graph, counted)


def _recurrent(place: Place, graph: Graph, counted: str) -> str:
    cell = combinators.reverse(place.cell) if place.backwards else place.cell
    return _layer(graph, counted, cell, place.params, place.xs, [place.path])


def _layer(
    graph: Graph, counted: str, cell: Cell, params: Params, xs: str, paths: list
) -> str:
    """One recurrent node; a path for each of its directions."""
    op, arrays, attributes, _ = to_onnx_weights(cell, params)
    constants = {name: graph.constant(array) for name, array in arrays.items()}
    fields, size = (("h", "c") if op == "LSTM" else ("",)), attributes["hidden_size"]
    # The carries are inputs in the order of the tree that they come from.
    names = [[_name((*path, field)) for path in paths] for field in fields]
    for path in paths:
        graph.carries.extend((_name((*path, field)), size) for field in sorted(fields))
    front = graph.constant(np.array([0]))
    before = []
    for each in names:
        lifted = [graph.node("Unsqueeze", [name, front]) for name in each]
        joined = len(lifted) > 1
        before.append(graph.node("Concat", lifted, axis=0) if joined else lifted[0])
    weights = [constants["W"], constants["R"], constants["B"]]
    peepholes = [constants["P"]] if "P" in constants else []
    ys, *after = graph.nodes_of(
        op,
        [xs, *weights, "lengths", *before, *peepholes],
        [graph.name(f"{op.lower()}_{part}") for part in ("ys", *fields)],
        **attributes,
    )
    for each, start, last in zip(names, before, after, strict=True):
        # A sequence of length 0 keeps its carry here; onnxruntime returns zeros.
        last = graph.node("Where", [_any_step(graph), last, start])
        parts = [last]
        if len(each) > 1:
            halves = [graph.name("half") for _ in each]
            parts = graph.nodes_of("Split", [last], halves, axis=0)
        for name, part in zip(each, parts, strict=True):
            graph.node("Squeeze", [part, front], f"next_{name}")
    # (t, directions, b, h) to (t, b, directions * h)
    ys = graph.node("Transpose", [ys], perm=[0, 2, 1, 3])
    shape = graph.constant(np.array([0, 0, len(paths) * size]))
    return zeroed(graph, counted, graph.node("Reshape", [ys, shape]))


def _any_step(graph: Graph) -> str:
    """``(1, b, 1)`` bool, true for sequences of at least one step."""
    some = graph.node("Greater", ["lengths", graph.constant(np.array(0, np.int32))])
    return graph.node("Unsqueeze", [some, graph.constant(np.array([0, 2]))])


def _name(path: Sequence[Any]) -> str:
    return "_".join(str(part) for part in path if part != "")


def _stack(place: Place, graph: Graph, counted: str) -> str:
    xs = place.xs
    for inner in _inside(place):
        xs = convert(inner._replace(xs=xs), graph, counted)
    return xs


def _inside(place: Place) -> list[Place]:
    """Where the cells of a combinator are whose params are a tuple."""
    parts = opening.parts(_spec(place))
    return [
        Place(
            part.cell, p, place.xs, (*place.path, i), place.backwards ^ part.backwards
        )
        for i, (part, p) in enumerate(zip(parts, place.params, strict=True))
    ]


def _parallel(place: Place, graph: Graph, counted: str) -> str:
    parts = [convert(inner, graph, counted) for inner in _inside(place)]
    return _merged(place, graph, parts)


def _bidirectional(place: Place, graph: Graph, counted: str) -> str:
    forward, backward = _inside(place)
    concatenates = _merges().get(_spec(place)["merge"]) == "Concat"
    if not place.backwards and concatenates and _alike(forward.cell, backward.cell):
        paths = [forward.path, backward.path]
        return _layer(graph, counted, place.cell, place.params, place.xs, paths)
    return _parallel(place, graph, counted)


def _alike(one: Cell, other: Cell) -> bool:
    """Whether a single node can be both directions."""
    layers = (cells.lstm, cells.gru, cells.elman)
    return one == other and opening.made_by(one, layers) is not None


def _merges() -> dict[Callable[..., Any], str]:
    return {
        concatenate: "Concat",
        jnp.add: "Add",
        jnp.multiply: "Mul",
        jnp.maximum: "Max",
        jnp.minimum: "Min",
    }


def _merged(place: Place, graph: Graph, parts: list[str]) -> str:
    merge = _spec(place)["merge"]
    op = _merges().get(merge)
    if op is None:
        raise ValueError(
            f"{place.cell} merges its outputs by {merge}; expected the default, which "
            "concatenates them, jnp.add, jnp.multiply, jnp.maximum or jnp.minimum for "
            "ONNX. Write rnnjax.parallel(..., merge=jnp.add)."
        )
    if op == "Concat":
        return graph.node("Concat", parts, axis=-1)
    return functools.reduce(lambda one, other: graph.node(op, [one, other]), parts)


def _inner(place: Place, graph: Graph, counted: str) -> str:
    """The only cell inside, with the same params: without a key nothing is dropped."""
    (part,) = opening.parts(_spec(place))
    backwards = place.backwards ^ part.backwards
    inside = place._replace(cell=part.cell, backwards=backwards)
    return convert(inside, graph, counted)


def _learned_carry(place: Place, graph: Graph, counted: str) -> str:
    inside = place._replace(params=place.params.cell)
    return _inner(inside, graph, counted)


def _residual(place: Place, graph: Graph, counted: str) -> str:
    return graph.node("Add", [_inner(place, graph, counted), place.xs])


def _dropout(place: Place, graph: Graph, counted: str) -> str:
    return place.xs


def _dense(place: Place, graph: Graph, counted: str) -> str:
    w, b = (graph.constant(np.asarray(p)) for p in place.params)
    product = graph.node("MatMul", [place.xs, w])
    return zeroed(graph, counted, graph.node("Add", [product, b]))


def _embedding(place: Place, graph: Graph, counted: str) -> str:
    table = graph.constant(np.asarray(place.params))
    return zeroed(graph, counted, graph.node("Gather", [table, place.xs], axis=0))


_FUNCTIONS = {
    jnp.tanh: ("Tanh", {}),
    jax.nn.relu: ("Relu", {}),
    jax.nn.sigmoid: ("Sigmoid", {}),
    jax.nn.softplus: ("Softplus", {}),
    jax.nn.soft_sign: ("Softsign", {}),
    jax.nn.elu: ("Elu", {}),
    jax.nn.softmax: ("Softmax", {"axis": -1}),
    jax.nn.log_softmax: ("LogSoftmax", {"axis": -1}),
}


def _pointwise(place: Place, graph: Graph, counted: str) -> str:
    function = _spec(place)["function"]
    if function not in _FUNCTIONS:
        known = ", ".join(op for op, _ in _FUNCTIONS.values())
        raise ValueError(
            f"{place.cell} applies {function}, which is unknown to ONNX; expected the "
            f"function of jax.nn for one of {known}. Write "
            "rnnjax.pointwise(jax.nn.relu)."
        )
    op, attributes = _FUNCTIONS[function]
    return zeroed(graph, counted, graph.node(op, [place.xs], **attributes))


def _spec(place: Place) -> Any:
    assert place.cell.spec is not None  # or _convert would have refused
    return place.cell.spec


_CONVERT: dict[Callable[..., Cell], Callable[[Place, Graph, str], str]] = {
    cells.lstm: _recurrent,
    cells.gru: _recurrent,
    cells.elman: _recurrent,
    cells.full_lstm: _recurrent,
    combinators.stack: _stack,
    combinators.parallel: _parallel,
    combinators.bidirectional: _bidirectional,
    combinators.reverse: _inner,
    combinators.residual: _residual,
    combinators.learned_carry: _learned_carry,
    combinators.dense: _dense,
    combinators.embedding: _embedding,
    combinators.pointwise: _pointwise,
    combinators.dropout: _dropout,
    combinators.with_dropout: _inner,
    combinators.drop_connect: _inner,
}
