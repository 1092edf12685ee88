"""A model as an ONNX graph, its layers as ``LSTM``, ``GRU`` and ``RNN`` nodes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import cells, combinators, noise
from rnnjax.cell import Cell, Params
from rnnjax.interop import to_onnx_weights
from rnnjax.unroll import output_spec

# The oldest with all operators used here; runtimes read older ones, not newer ones.
_OPSET = 17


def to_onnx(cell: Cell, params: Params, x: Any) -> Any:
    """An ONNX model of a cell, any batch and any number of steps, for any runtime.

    Layers become the nodes ``LSTM``, ``GRU`` and ``RNN`` that runtimes have kernels
    for. The inputs and outputs have names:

    - ``xs: (batch, time, ...)`` float32, or int64 ids;
    - ``lengths: (batch,)`` int32, all of them ``time`` where nothing is padded;
      padding may hold anything, gives zeros and leaves the carry as it was;
    - ``carry``, or ``carry_0_c`` and so on for a tree of them, ``(batch, ...)`` each;
    - ``ys: (batch, time, ...)``, and for each carry ``next_carry`` and so on.

    Converted are `lstm`, `gru` (either reset), `elman`, `full_lstm` with peepholes,
    `stack`, `parallel`, `bidirectional`, `reverse`, `residual`, `learned_carry`,
    `dense`, `embedding` and `pointwise` with an activation of `jax.nn`, and as they are
    without a key `dropout`, `with_dropout` and `drop_connect`. An id outside of an
    embedding's table, NaN here, is an error of the runtime.

    Args:
      cell: the model.
      params: its params, in float32.
      x: one input of one step, or a `jax.ShapeDtypeStruct` in its place.

    Returns:
      An ``onnx.ModelProto`` that ``onnx.checker`` has passed; ``onnx.save`` writes it.

    Raises:
      ModuleNotFoundError: without the package ``onnx``.
      ValueError: for a cell that has no such graph, named in the sentence, and for
        params in another dtype.

    Reference: ONNX operators, https://onnx.ai/onnx/operators.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.dense(4, 2))
    >>> params = cell.init(jax.random.key(0))
    >>> model = rnnjax.export.to_onnx(cell, params, jnp.zeros(3))
    >>> [value.name for value in model.graph.input]
    ['xs', 'lengths', 'carry_0_c', 'carry_0_h']
    >>> [value.name for value in model.graph.output]
    ['ys', 'next_carry_0_c', 'next_carry_0_h']
    """
    import onnx

    _check_dtype(params)
    shape = jnp.shape(x)
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    tensor = onnx.helper.make_tensor_value_info
    number, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = _Graph(onnx, [], [], [], [])

    entry = number if floating else integer
    inputs = [
        tensor("xs", entry, ["batch", "time", *shape]),
        tensor("lengths", onnx.TensorProto.INT32, ["batch"]),
    ]
    # Within the graph time is in front, the layout that runtimes implement.
    axes = list(range(2, 2 + len(shape)))
    xs = graph.node("Transpose", ["xs"], perm=[1, 0, *axes])
    counted = _counted(graph, xs)
    zero = graph.constant(np.float32(0) if floating else np.int64(0))
    xs = graph.node("Where", [_over(graph, counted, len(shape)), xs, zero])
    ys = _convert(_Place(cell, params, xs, ("carry",), False), graph, counted)

    y = output_spec(cell, x)
    axes = list(range(2, 2 + len(y.shape)))
    graph.node("Transpose", [ys], "ys", perm=[1, 0, *axes])
    outputs = [tensor("ys", number, ["batch", "time", *y.shape])]
    for name, size in graph.carries:
        inputs.append(tensor(name, number, ["batch", size]))
        outputs.append(tensor(f"next_{name}", number, ["batch", size]))

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "rnnjax", inputs, outputs, initializer=graph.constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        producer_name="rnnjax",
        doc_string=repr(cell),
    )
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph(NamedTuple):
    """What has been written so far; ``carries`` holds names and sizes."""

    onnx: Any
    nodes: list[Any]
    constants: list[Any]
    carries: list[tuple[str, int]]
    used: list[str]

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes) -> str:
        """A node with one output."""
        return self.nodes_of(op, inputs, [name or self.name(op.lower())], **attributes)[
            0
        ]

    def nodes_of(
        self, op: str, inputs: Sequence[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        made = self.onnx.helper.make_node(
            op, inputs, outputs, name=self.name(f"{op}_node"), **attributes
        )
        self.nodes.append(made)
        return outputs

    def constant(self, value: Any) -> str:
        name = self.name("constant")
        array = np.ascontiguousarray(value)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def name(self, stem: str) -> str:
        self.used.append(stem)
        return f"{stem}_{len(self.used)}"


class _Place(NamedTuple):
    """A cell within the model: what goes in, where its carry is, which way it walks."""

    cell: Cell
    params: Params
    xs: str
    path: tuple[Any, ...]
    backwards: bool


def _counted(graph: _Graph, xs: str) -> str:
    """``(t, b)`` bool, true at the steps that count."""
    zero, one = (graph.constant(np.array(k, np.int64)) for k in (0, 1))
    time = graph.node("Gather", [graph.node("Shape", [xs]), zero])
    steps = graph.node("Range", [zero, time, one])
    steps = graph.node("Cast", [steps], to=graph.onnx.TensorProto.INT32)
    apart = graph.node("Unsqueeze", [steps, graph.constant(np.array([1]))])
    return graph.node("Less", [apart, "lengths"])


def _over(graph: _Graph, counted: str, features: int) -> str:
    if not features:
        return counted
    axes = graph.constant(np.arange(2, 2 + features))
    return graph.node("Unsqueeze", [counted, axes])


def _zeroed(graph: _Graph, counted: str, ys: str) -> str:
    """Zeros at padding, as in every cell; ONNX leaves it to the runtime."""
    zero = graph.constant(np.float32(0))
    return graph.node("Where", [_over(graph, counted, 1), ys, zero])


def _convert(place: _Place, graph: _Graph, counted: str) -> str:
    spec = place.cell.spec
    convert = None if spec is None else _CONVERT.get(spec.constructor)
    if convert is None:
        known = ", ".join(make.__name__ for make in _CONVERT)
        raise ValueError(
            f"{place.cell} has no ONNX graph; expected a model of {known}. Write it "
            "with those, or export StableHLO by rnnjax.export.unroll, which takes any "
            "cell."
        )
    return convert(place, graph, counted)


def _recurrent(place: _Place, graph: _Graph, counted: str) -> str:
    cell = combinators.reverse(place.cell) if place.backwards else place.cell
    return _layer(graph, counted, cell, place.params, place.xs, [place.path])


def _layer(
    graph: _Graph, counted: str, cell: Cell, params: Params, xs: str, paths: list
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
    return _zeroed(graph, counted, graph.node("Reshape", [ys, shape]))


def _any_step(graph: _Graph) -> str:
    """``(1, b, 1)`` bool, true for sequences of at least one step."""
    some = graph.node("Greater", ["lengths", graph.constant(np.array(0, np.int32))])
    return graph.node("Unsqueeze", [some, graph.constant(np.array([0, 2]))])


def _name(path: Sequence[Any]) -> str:
    return "_".join(str(part) for part in path if part != "")


def _stack(place: _Place, graph: _Graph, counted: str) -> str:
    xs = place.xs
    for i, cell in enumerate(_spec(place).cells):
        path, params = (*place.path, i), place.params[i]
        xs = _convert(_Place(cell, params, xs, path, place.backwards), graph, counted)
    return xs


def _parallel(place: _Place, graph: _Graph, counted: str) -> str:
    parts = [
        _convert(
            place._replace(cell=cell, params=params, path=(*place.path, i)),
            graph,
            counted,
        )
        for i, (cell, params) in enumerate(
            zip(_spec(place).cells, place.params, strict=True)
        )
    ]
    return _merged(place, graph, parts)


def _bidirectional(place: _Place, graph: _Graph, counted: str) -> str:
    spec = _spec(place)
    forward, backward = spec["forward"], spec["backward"] or spec["forward"]
    paths = [(*place.path, 0), (*place.path, 1)]
    merge = _merges().get(spec["merge"])
    if not place.backwards and merge == "Concat" and _alike(forward, backward):
        args = (place.cell, place.params, place.xs, paths)
        return _layer(graph, counted, *args)
    parts = [
        _convert(
            _Place(cell, params, place.xs, path, place.backwards != flipped),
            graph,
            counted,
        )
        for cell, params, path, flipped in zip(
            (forward, backward), place.params, paths, (False, True), strict=True
        )
    ]
    return _merged(place, graph, parts)


def _alike(one: Cell, other: Cell) -> bool:
    """Whether a single node can be both directions."""
    if one.spec is None or other.spec is None:
        return False
    layers = (cells.lstm, cells.gru, cells.elman)
    return one.spec.constructor in layers and one == other


def _merges() -> dict[Callable[..., Any], str]:
    concatenate = combinators.parallel(combinators.dense(1, 1)).spec["merge"]  # pyright: ignore[reportOptionalSubscript]
    return {
        concatenate: "Concat",
        jnp.add: "Add",
        jnp.multiply: "Mul",
        jnp.maximum: "Max",
        jnp.minimum: "Min",
    }


def _merged(place: _Place, graph: _Graph, parts: list[str]) -> str:
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


def _reverse(place: _Place, graph: _Graph, counted: str) -> str:
    cell = _spec(place)["cell"]
    flipped = place._replace(cell=cell, backwards=not place.backwards)
    return _convert(flipped, graph, counted)


def _inner(place: _Place, graph: _Graph, counted: str) -> str:
    """Without a key nothing is dropped: the cell inside, with the same params."""
    return _convert(place._replace(cell=_spec(place)["cell"]), graph, counted)


def _learned_carry(place: _Place, graph: _Graph, counted: str) -> str:
    inside = place._replace(params=place.params.cell)
    return _inner(inside, graph, counted)


def _residual(place: _Place, graph: _Graph, counted: str) -> str:
    return graph.node("Add", [_inner(place, graph, counted), place.xs])


def _dropout(place: _Place, graph: _Graph, counted: str) -> str:
    return place.xs


def _dense(place: _Place, graph: _Graph, counted: str) -> str:
    w, b = (graph.constant(np.asarray(p)) for p in place.params)
    product = graph.node("MatMul", [place.xs, w])
    return _zeroed(graph, counted, graph.node("Add", [product, b]))


def _embedding(place: _Place, graph: _Graph, counted: str) -> str:
    table = graph.constant(np.asarray(place.params))
    return _zeroed(graph, counted, graph.node("Gather", [table, place.xs], axis=0))


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


def _pointwise(place: _Place, graph: _Graph, counted: str) -> str:
    function = _spec(place)["function"]
    if function not in _FUNCTIONS:
        known = ", ".join(op for op, _ in _FUNCTIONS.values())
        raise ValueError(
            f"{place.cell} applies {function}, which is unknown to ONNX; expected the "
            f"function of jax.nn for one of {known}. Write "
            "rnnjax.pointwise(jax.nn.relu)."
        )
    op, attributes = _FUNCTIONS[function]
    return _zeroed(graph, counted, graph.node(op, [place.xs], **attributes))


def _spec(place: _Place) -> Any:
    assert place.cell.spec is not None  # or _convert would have refused
    return place.cell.spec


def _check_dtype(params: Params) -> None:
    dtypes = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)})
    if dtypes not in ([], ["float32"]):
        raise ValueError(
            f"params have the dtypes {dtypes}; expected float32, the one in which "
            "runtimes have recurrent kernels. Write jax.tree.map(lambda p: "
            "p.astype(jnp.float32), params)."
        )


_CONVERT: dict[Callable[..., Cell], Callable[[_Place, _Graph, str], str]] = {
    cells.lstm: _recurrent,
    cells.gru: _recurrent,
    cells.elman: _recurrent,
    cells.full_lstm: _recurrent,
    combinators.stack: _stack,
    combinators.parallel: _parallel,
    combinators.bidirectional: _bidirectional,
    combinators.reverse: _reverse,
    combinators.residual: _residual,
    combinators.learned_carry: _learned_carry,
    combinators.dense: _dense,
    combinators.embedding: _embedding,
    combinators.pointwise: _pointwise,
    noise.dropout: _dropout,
    noise.with_dropout: _inner,
    noise.drop_connect: _inner,
}
