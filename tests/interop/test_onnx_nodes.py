"""Single nodes of ONNX in onnxruntime, against the cells that their weights become.

The nodes are drawn at random with the attributes that an exporter may write; what we
import must compute what the runtime computes, whatever the operators' page leaves open.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import interop

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.float32

TIME, BATCH, INPUTS, HIDDEN = 6, 2, 2, 3
XS = np.random.default_rng(1).normal(size=(TIME, BATCH, INPUTS)).astype(np.float32) * 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def drawn(op, directions=1, peepholes=False):
    rng, columns = np.random.default_rng(0), GATES[op] * HIDDEN
    shapes = {
        "W": (columns, INPUTS),
        "R": (columns, HIDDEN),
        "B": (2 * columns,),
        **({"P": (3 * HIDDEN,)} if peepholes else {}),
    }
    return {
        name: rng.normal(size=(directions, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def in_runtime(op, arrays, attributes):
    """The outputs ``(t, b, directions * h)`` of a node."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    inputs = ["X", "W", "R", "B", *(["", "", "", "P"] if "P" in arrays else [])]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["Y"], **attributes)],
        "node",
        [helper.make_tensor_value_info("X", number, XS.shape)],
        [helper.make_tensor_value_info("Y", number, None)],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (ys,) = session.run(None, {"X": XS})
    return ys.transpose(0, 2, 1, 3).reshape(TIME, BATCH, -1)


def ours(found):
    xs = jnp.swapaxes(XS, 0, 1)
    return jnp.swapaxes(rnnjax.unroll(found.cell, found.params, xs)[1], 0, 1)


def lstm(name, **numbers):
    return {"activations": ["Sigmoid", name, name], **numbers}


def rnn(name, **numbers):
    return {"activations": [name], **numbers}


TWO = {"direction": "bidirectional"}
NODES = {
    "LSTM": ("LSTM", {}, {}),
    "peepholes": ("LSTM", {"peepholes": True}, {}),
    "GRU, reset before": ("GRU", {}, {}),
    "GRU, reset after": ("GRU", {}, {"linear_before_reset": 1}),
    "backwards": ("GRU", {}, {"direction": "reverse"}),
    "both directions": ("LSTM", {"directions": 2}, TWO),
    "coupled": ("LSTM", {}, {"input_forget": 1}),
    "coupled with peepholes": ("LSTM", {"peepholes": True}, {"input_forget": 1}),
    "coupled, both directions": (
        "LSTM",
        {"directions": 2, "peepholes": True},
        {"input_forget": 1, **TWO},
    ),
    "coupled with relu": ("LSTM", {}, {"input_forget": 1, **lstm("Relu")}),
    **{
        f"LSTM with {name}": ("LSTM", {}, lstm(name))
        for name in ("Relu", "Sigmoid", "Softsign", "Softplus", "LeakyRelu", "Elu")
    },
    "LSTM with small letters": ("LSTM", {}, lstm("softsign")),
    "LSTM with a number": ("LSTM", {}, lstm("Elu", activation_alpha=[0.5, 0.5])),
    **{
        f"RNN with {name}": ("RNN", {}, rnn(name))
        for name in ("Relu", "Softsign", "LeakyRelu", "Elu", "HardSigmoid")
    },
    "RNN with LeakyRelu of 0.3": ("RNN", {}, rnn("LeakyRelu", activation_alpha=[0.3])),
    "RNN with ThresholdedRelu": (
        "RNN",
        {},
        rnn("ThresholdedRelu", activation_alpha=[0.3]),
    ),
    "RNN with HardSigmoid of two numbers": (
        "RNN",
        {},
        rnn("HardSigmoid", activation_alpha=[0.3], activation_beta=[0.4]),
    ),
    "RNN with ScaledTanh": (
        "RNN",
        {},
        rnn("ScaledTanh", activation_alpha=[1.5], activation_beta=[0.6]),
    ),
    "RNN with Affine": (
        "RNN",
        {},
        rnn("Affine", activation_alpha=[0.3], activation_beta=[0.1]),
    ),
    "RNN of two activations": (
        "RNN",
        {"directions": 2},
        {"activations": ["LeakyRelu", "Elu"], "activation_alpha": [0.3, 0.4], **TWO},
    ),
    "RNN with clip": ("RNN", {}, {"clip": 0.5}),
    "RNN with clip and relu": ("RNN", {}, {"clip": 0.5, **rnn("Relu")}),
    "RNN with clip and a number": (
        "RNN",
        {},
        {"clip": 0.8, **rnn("Elu", activation_alpha=[0.4])},
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_an_imported_node_computes_what_the_runtime_computes(name):
    op, shape, attributes = NODES[name]
    arrays, attributes = drawn(op, **shape), {"hidden_size": HIDDEN, **attributes}
    found = interop.from_onnx_weights(op, arrays, attributes)
    expected = in_runtime(op, arrays, attributes)
    np.testing.assert_allclose(ours(found), expected, rtol=1e-5, atol=1e-5)
    assert found.report.verdict == "exact after merging biases"
    assert found.cell == interop.from_onnx_weights(op, arrays, attributes).cell


COUPLED = [
    rnnjax.full_lstm(INPUTS, HIDDEN, coupled=True),
    rnnjax.full_lstm(INPUTS, HIDDEN, coupled=True, peepholes=True),
    rnnjax.bidirectional(
        rnnjax.full_lstm(INPUTS, HIDDEN, coupled=True, activation=jax.nn.elu)
    ),
]


@pytest.mark.parametrize("cell", COUPLED, ids=repr)
def test_coupled_gates_go_out_and_come_back(cell):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(size=s.shape)), shapes)
    node = interop.to_onnx_weights(cell, params)
    found = interop.from_onnx_weights(node.op, node.arrays, node.attributes)
    assert found.cell == cell
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert any("input_forget" in note for note in found.report.notes)
    expected = in_runtime(node.op, node.arrays, node.attributes)
    np.testing.assert_allclose(ours(found), expected, rtol=1e-5, atol=1e-5)


def test_clip_bounds_what_goes_into_activations_and_not_the_memory():
    """Why an LSTM with clip is refused: our cell_clip is another function."""
    arrays = drawn("LSTM")
    plain = interop.from_onnx_weights("LSTM", arrays)
    clipped = rnnjax.full_lstm(INPUTS, HIDDEN, cell_clip=0.5)
    shape = jax.tree.structure(jax.eval_shape(clipped.init, jax.random.key(0)))
    params = jax.tree.unflatten(shape, plain.params)
    memory = interop.Imported(clipped, params, plain.report)
    runtime = in_runtime("LSTM", arrays, {"hidden_size": HIDDEN, "clip": 0.5})
    assert np.abs(ours(memory) - runtime).max() > 0.1
    with pytest.raises(ValueError, match=r"clip is 0\.5, which bounds"):
        interop.from_onnx_weights("LSTM", arrays, {"clip": 0.5})


REPORTED = {
    "layout": ({"layout": 1}, "layout orders the axes"),
    "alpha": ({"activation_alpha": [0.2]}, "activation_alpha is left out"),
    "beta": ({"activation_beta": [0.2]}, "activation_beta is left out"),
}


@pytest.mark.parametrize("name", REPORTED)
def test_attributes_that_change_nothing_are_reported(name):
    attributes, note = REPORTED[name]
    found = interop.from_onnx_weights("GRU", drawn("GRU"), attributes)
    assert any(note in each for each in found.report.notes)
    assert not interop.from_onnx_weights("GRU", drawn("GRU")).report.notes
