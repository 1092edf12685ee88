"""A model as an ONNX graph, with its layers as ``LSTM``, ``GRU`` and ``RNN`` nodes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.batch import output_spec
from rnnjax.cell import Cell, Params
from rnnjax.export.graph import Graph, counted_steps, over_features
from rnnjax.export.nodes import Place, convert

# The oldest with all operators used here; runtimes read older ones, not newer ones.
_OPSET = 17


def to_onnx(cell: Cell, params: Params, x: Any) -> Any:
    """An ONNX model of a cell, for any batch, any number of steps and any runtime.

    Layers become the nodes ``LSTM``, ``GRU`` and ``RNN`` that runtimes have kernels
    for. The inputs and outputs have names:

    - ``xs: (batch, time, ...)`` float32, or int64 ids;
    - ``lengths: (batch,)`` int32, all of them ``time`` where nothing is padded;
      padding may hold anything, gives zeros and leaves the carry as it was;
    - ``carry``, or ``carry_0_c`` and so on for a tree of them, ``(batch, ...)`` each;
    - ``ys: (batch, time, ...)``, and for each carry ``next_carry`` and so on.

    Converted are `lstm`, `gru` (either reset), `elman`, `full_lstm` with peepholes,
    `stack`, `parallel`, `bidirectional`, `reverse`, `residual`, `learned_carry`,
    `dense`, `embedding` and `pointwise` with an activation of `jax.nn`; also `dropout`,
    `with_dropout` and `drop_connect`, as they run without a key. An id outside of an
    embedding's table gives NaN here and an error in the runtime.

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
    try:
        import onnx
    except ImportError as error:
        error.add_note("ONNX models need it. Write pip install 'rnnjax[onnx]'.")
        raise

    _check_dtype(params)
    shape = jnp.shape(x)
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    tensor = onnx.helper.make_tensor_value_info
    number, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = Graph(onnx, [], [], [], [])

    entry = number if floating else integer
    inputs = [
        tensor("xs", entry, ["batch", "time", *shape]),
        tensor("lengths", onnx.TensorProto.INT32, ["batch"]),
    ]
    # Within the graph time comes first, the layout that runtimes implement.
    axes = list(range(2, 2 + len(shape)))
    xs = graph.node("Transpose", ["xs"], perm=[1, 0, *axes])
    counted = counted_steps(graph, xs)
    zero = graph.constant(np.float32(0) if floating else np.int64(0))
    xs = graph.node("Where", [over_features(graph, counted, len(shape)), xs, zero])
    ys = convert(Place(cell, params, xs, ("carry",), False), graph, counted)

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


def _check_dtype(params: Params) -> None:
    dtypes = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)})
    if dtypes not in ([], ["float32"]):
        raise ValueError(
            f"params have the dtypes {dtypes}; expected float32, the one in which "
            "runtimes have recurrent kernels. Write jax.tree.map(lambda p: "
            "p.astype(jnp.float32), params)."
        )
