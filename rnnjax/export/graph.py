"""An ONNX graph while it is being written, with time before the batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Graph(NamedTuple):
    """What has been written so far; ``carries`` holds names and sizes."""

    onnx: Any
    nodes: list[Any]
    constants: list[Any]
    carries: list[tuple[str, int]]
    used: list[str]

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes) -> str:
        """A node with one output."""
        output = name or self.name(op.lower())
        self.nodes_of(op, inputs, [output], **attributes)
        return output

    def nodes_of(
        self, op: str, inputs: Sequence[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        """A node whose outputs have the names given."""
        made = self.onnx.helper.make_node(
            op, inputs, outputs, name=self.name(f"{op}_node"), **attributes
        )
        self.nodes.append(made)
        return outputs

    def constant(self, value: Any) -> str:
        """An array that is stored in the model."""
        name, array = self.name("constant"), np.asarray(value, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def name(self, stem: str) -> str:
        """A name that nothing else has."""
        self.used.append(stem)
        return f"{stem}_{len(self.used)}"


def counted_steps(graph: Graph, xs: str) -> str:
    """``(t, b)`` bool, true at the steps that count."""
    zero, one = (graph.constant(np.array(k, np.int64)) for k in (0, 1))
    time = graph.node("Gather", [graph.node("Shape", [xs]), zero])
    steps = graph.node("Range", [zero, time, one])
    steps = graph.node("Cast", [steps], to=graph.onnx.TensorProto.INT32)
    apart = graph.node("Unsqueeze", [steps, graph.constant(np.array([1]))])
    return graph.node("Less", [apart, "lengths"])


def over_features(graph: Graph, counted: str, features: int) -> str:
    """``counted`` with an axis of size 1 for each axis of one step's value."""
    if not features:
        return counted
    axes = graph.constant(np.arange(2, 2 + features))
    return graph.node("Unsqueeze", [counted, axes])


def zeroed(graph: Graph, counted: str, ys: str) -> str:
    """Zeros at padding, as in every cell; ONNX leaves it to the runtime."""
    zero = graph.constant(np.float32(0))
    return graph.node("Where", [over_features(graph, counted, 1), ys, zero])
