"""ONNX graphs of `rnnjax.export.to_onnx`, in onnxruntime against `rnnjax.unroll`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.export import to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

X, ID = np.zeros(3), np.zeros((), np.int32)


@rnnjax.constructor
def encoder(size, *, cell=rnnjax.gru):
    return rnnjax.stack(rnnjax.dense(3, size), rnnjax.bidirectional(cell(size, size)))


# The cell, one input, and the recurrent nodes of its graph in their order.
CASES = {
    "lstm": (rnnjax.lstm(3, 4), X, ["LSTM"]),
    "lstm_relu": (rnnjax.lstm(3, 4, activation=jax.nn.relu), X, ["LSTM"]),
    "peepholes": (rnnjax.full_lstm(3, 4, peepholes=True), X, ["LSTM"]),
    "gru": (rnnjax.gru(3, 4), X, ["GRU"]),
    "gru_before": (rnnjax.gru(3, 4, reset_after=False), X, ["GRU"]),
    "elman": (rnnjax.elman(3, 4), X, ["RNN"]),
    "elman_relu": (rnnjax.elman(3, 4, activation=jax.nn.relu), X, ["RNN"]),
    "reverse": (rnnjax.reverse(rnnjax.gru(3, 4)), X, ["GRU"]),
    "twice_reversed": (
        rnnjax.reverse(rnnjax.reverse(rnnjax.lstm(3, 4))),
        X,
        ["LSTM"],
    ),
    "bidirectional": (rnnjax.bidirectional(rnnjax.lstm(3, 4)), X, ["LSTM"]),
    "bidirectional_gru": (
        rnnjax.bidirectional(rnnjax.gru(3, 4, reset_after=False)),
        X,
        ["GRU"],
    ),
    "two_sizes": (
        rnnjax.bidirectional(rnnjax.lstm(3, 4), rnnjax.gru(3, 5)),
        X,
        ["LSTM", "GRU"],
    ),
    "added": (
        rnnjax.bidirectional(rnnjax.elman(3, 4), merge=jnp.add),
        X,
        ["RNN", "RNN"],
    ),
    "reversed_stack": (
        rnnjax.reverse(
            rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.bidirectional(rnnjax.gru(4, 2)))
        ),
        X,
        ["LSTM", "GRU", "GRU"],
    ),
    "model": (
        rnnjax.stack(
            rnnjax.embedding(9, 3),
            rnnjax.bidirectional(rnnjax.lstm(3, 4)),
            rnnjax.dropout(0.5),
            rnnjax.residual(rnnjax.with_dropout(rnnjax.gru(8, 8), inputs=0.2)),
            rnnjax.dense(8, 5),
            rnnjax.pointwise(jax.nn.log_softmax),
        ),
        ID,
        ["LSTM", "GRU"],
    ),
    "parallel": (
        rnnjax.stack(
            rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.dense(3, 2)),
            rnnjax.pointwise(jax.nn.relu),
            rnnjax.learned_carry(rnnjax.drop_connect(rnnjax.lstm(6, 2), 0.1)),
        ),
        X,
        ["LSTM", "LSTM"],
    ),
    "dense": (rnnjax.dense(3, 2), X, []),
    "your_constructor": (encoder(4), X, ["GRU"]),
    "in_a_combinator": (rnnjax.reverse(encoder(4)), X, ["GRU", "GRU"]),
}


def drawn(cell, seed=0):
    """Params in which nothing is zero, so that no bias can stand in the wrong place."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(
        lambda p: draw.normal(size=p.shape).astype(p.dtype) * 0.5, shapes
    )


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def feed(model, carry, xs, lengths):
    """By the names of the graph, in the order of the carry's leaves."""
    names = [i.name for i in model.graph.input][2:]
    leaves = map(np.asarray, jax.tree.leaves(carry))
    return {"xs": xs, "lengths": lengths, **dict(zip(names, leaves, strict=True))}


def batch(cell, params, x, dtype, lengths, time, seed=1):
    draw = np.random.default_rng(seed)
    count = len(lengths)
    if x.dtype == np.int32:
        xs = draw.integers(0, 9, (count, time))
        padding = -(10**9)
    else:
        xs, padding = draw.normal(size=(count, time, *x.shape)).astype(dtype), np.nan
    for row, length in zip(xs, lengths, strict=True):
        row[length:] = padding
    carry = jax.tree.map(
        lambda c: draw.normal(size=(count, *c.shape)).astype(dtype),
        cell.initial_carry(params),
    )
    return xs, carry, np.array(lengths, np.int32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.float32
def test_runtime_agrees_on_ragged_batches(name):
    cell, x, recurrent = CASES[name]
    params = drawn(cell)
    model = to_onnx(cell, params, x)
    kinds = [node.op_type for node in model.graph.node]
    assert [kind for kind in kinds if kind in ("LSTM", "GRU", "RNN")] == recurrent
    run = session(model)
    for time, lengths in ((1, [1]), (7, [7, 7]), (6, [4, 6, 0, 1])):
        xs, carry, lengths = batch(cell, params, x, np.float32, lengths, time)
        ys, *after = run.run(None, feed(model, carry, xs, lengths))
        given = xs.astype(np.int32) if x.dtype == np.int32 else xs
        counts = jnp.asarray(lengths)
        expected = rnnjax.unroll(cell, params, given, carry=carry, lengths=counts)
        np.testing.assert_allclose(ys, expected[1], rtol=1e-5, atol=1e-5)
        for found, leaf in zip(after, jax.tree.leaves(expected[0]), strict=True):
            np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-5)


@pytest.mark.float32
def test_a_model_of_torch_computes_the_same_in_the_runtime():
    """From torch's weights to a graph without torch: outputs and states, ragged."""
    torch = pytest.importorskip("torch")
    rnn = torch.nn.utils.rnn
    torch.manual_seed(0)
    layers = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    encoder, head = torch.nn.LSTM(3, 4, **layers), torch.nn.Linear(8, 5)
    xs, lengths = torch.randn(4, 6, 3), torch.tensor([4, 6, 1, 5])
    packed = rnn.pack_padded_sequence(xs, lengths, True, enforce_sorted=False)
    with torch.no_grad():
        out, (h_n, c_n) = encoder(packed)
        expected = head(rnn.pad_packed_sequence(out, True)[0]).numpy()

    cell, params, _ = rnnjax.interop.from_torch(encoder.state_dict())
    w, b = (parameter.detach().numpy() for parameter in head.parameters())
    weights = (params, rnnjax.DenseParams(w=jnp.asarray(w.T), b=jnp.asarray(b)))
    model = to_onnx(rnnjax.stack(cell, rnnjax.dense(8, 5)), weights, X)
    carry = [np.zeros((4, 4), np.float32)] * 8  # c and h, two layers, two directions
    given = feed(model, carry, xs.numpy(), lengths.numpy().astype(np.int32))
    ys, *after = session(model).run(None, given)
    for row, wanted, length in zip(ys, expected, lengths, strict=True):
        np.testing.assert_allclose(row[:length], wanted[:length], rtol=1e-5, atol=1e-5)
    theirs = torch.stack([c_n, h_n], 1).flatten(0, 1).numpy()  # c and h by turns
    np.testing.assert_allclose(np.stack(after), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.float32
def test_chunks_compose_by_the_names_of_the_carry():
    cell, x, _ = CASES["parallel"]
    params = drawn(cell)
    model = to_onnx(cell, params, x)
    run = session(model)
    xs, carry, lengths = batch(cell, params, x, np.float32, [9, 9], 9)
    whole = run.run(["ys"], feed(model, carry, xs, lengths))[0]
    given = feed(model, carry, xs, lengths)
    parts = []
    names = [output.name for output in model.graph.output]
    for begin in (0, 4):
        part = xs[:, begin : begin + (4, 5)[begin > 0]]
        given |= {"xs": part, "lengths": np.full(2, part.shape[1], np.int32)}
        out = dict(zip(names, run.run(names, given), strict=True))
        parts.append(out.pop("ys"))
        given |= {name.removeprefix("next_"): value for name, value in out.items()}
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.float32
def test_axes_and_names_of_the_graph():
    cell = rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.gru(4, 2))
    model = to_onnx(cell, drawn(cell), X)

    def axes(values):
        return {
            value.name: [
                d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    assert axes(model.graph.input) == {
        "xs": ["batch", "time", 3],
        "lengths": ["batch"],
        "carry_0_c": ["batch", 4],
        "carry_0_h": ["batch", 4],
        "carry_1": ["batch", 2],
    }
    assert axes(model.graph.output) == {
        "ys": ["batch", "time", 2],
        "next_carry_0_c": ["batch", 4],
        "next_carry_0_h": ["batch", 4],
        "next_carry_1": ["batch", 2],
    }


REFUSED = {
    "another cell": (
        rnnjax.stack(rnnjax.mgu(3, 4)),
        X,
        r"mgu\(3, 4\) has no ONNX graph",
    ),
    "your constructor": (
        encoder(3, cell=rnnjax.mgu),
        X,
        r"mgu\(3, 3\) has no ONNX graph",
    ),
    "zoneout": (rnnjax.zoneout(rnnjax.gru(3, 4), 0.1), X, "zoneout"),
    "merge": (
        rnnjax.bidirectional(rnnjax.gru(3, 4), merge=lambda a, b: a - b),
        X,
        "merges its outputs",
    ),
    "function": (rnnjax.pointwise(lambda x: x + 1), X, "unknown to ONNX"),
    "activation": (
        rnnjax.elman(3, 4, activation=lambda x: x**2),
        X,
        "no such name",
    ),
    "projection": (rnnjax.full_lstm(3, 4, projection_size=2), X, "projection"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.float32
def test_what_has_no_graph_is_named(name):
    cell, x, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        to_onnx(cell, cell.init(jax.random.key(0)), x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_are_refused(dtype):
    cell = rnnjax.lstm(3, 4)
    params = jax.tree.map(lambda p: p.astype(dtype), cell.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=rf"{dtype}.*expected float32"):
        to_onnx(cell, params, X)
