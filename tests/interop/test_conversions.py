"""What conversions say and refuse, ONNX's layout, files, and what is imported."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import interop

EXPORTS = [
    "cudnn", "equinox", "haiku", "keras", "linen", "nnx", "onnx_weights",
    "tensorflow1", "torch",
]  # fmt: skip


def random_params(cell):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.7), shapes)


def refusals():
    """Each cell, the libraries that do not have it, and the reason they give."""
    before = rnnjax.gru(2, 3, reset_after=False)
    everyone = set(EXPORTS)
    yield before, everyone - {"keras", "haiku", "tensorflow1", "onnx_weights"}, "reset"
    yield rnnjax.gru(2, 3), {"haiku"}, "different functions"
    yield rnnjax.mgu(2, 3, reset_after=True), everyone - {"linen"}, "no cell like mgu"
    yield rnnjax.mgu(2, 3), {"linen"}, "different functions"
    yield rnnjax.elman(2, 3), {"haiku", "equinox"}, "no other|no cell"
    yield (
        rnnjax.lstm(2, 3, activation=jax.nn.relu),
        {"torch", "cudnn", "haiku", "equinox"},
        "no weights make up|no other",
    )
    yield rnnjax.full_lstm(2, 3, peepholes=True), everyone - {
        "tensorflow1", "onnx_weights"}, "peepholes"  # fmt: skip
    yield rnnjax.full_lstm(2, 3, projection_size=2), everyone - {
        "tensorflow1", "torch"}, "projection"  # fmt: skip
    yield rnnjax.full_lstm(2, 3, cell_clip=1.0), everyone - {"tensorflow1"}, "clips"
    yield rnnjax.full_lstm(2, 3, coupled=True), everyone - {"onnx_weights"}, "coupled"
    yield rnnjax.full_lstm(2, 3, layer_norm="gates"), everyone, "layer norm"
    yield rnnjax.bidirectional(rnnjax.lstm(2, 3)), {"haiku", "equinox"}, "bidirectional"
    yield (
        rnnjax.bidirectional(rnnjax.lstm(2, 3), merge=jnp.add),
        everyone,
        "merges its directions",
    )
    yield rnnjax.reverse(rnnjax.lstm(2, 3)), everyone - {"onnx_weights"}, "counterpart"
    yield rnnjax.stack(rnnjax.lstm(2, 3), rnnjax.dense(3, 1)), everyone, "counterpart"
    yield rnnjax.learned_carry(rnnjax.lstm(2, 3)), everyone, "counterpart"
    yield (
        rnnjax.stack(rnnjax.lstm(2, 3), rnnjax.lstm(3, 4)),
        {"torch", "cudnn"},
        "different kinds, sizes",
    )
    yield rnnjax.stack(rnnjax.lstm(2, 3), rnnjax.lstm(3, 3)), {"onnx_weights"}, "one"


@pytest.mark.parametrize(
    ("cell", "library", "reason"),
    [
        pytest.param(cell, library, reason, id=f"{cell} to {library}")
        for cell, libraries, reason in refusals()
        for library in sorted(libraries)
    ],
)
def test_refused_with_the_reason(cell, library, reason):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
    with pytest.raises(ValueError, match=reason):
        getattr(interop, f"to_{library}")(cell, params)


def ones(*shape):
    return np.ones(shape, np.float32)


LSTM = {"weight_ih_l0": ones(12, 2), "weight_hh_l0": ones(12, 3)}
KERAS_GRU = {"kernel": ones(2, 9), "recurrent_kernel": ones(3, 9)}
MGU = {"if": {"kernel": ones(2, 3)}, "in": {"kernel": ones(2, 3)},
       "hf": {"kernel": ones(3, 3)}, "hn": {"kernel": ones(3, 3)}}  # fmt: skip
TF1 = {"rnn/lstm_cell/kernel": ones(5, 12), "rnn/lstm_cell/bias": ones(12)}
MISTAKES = {
    "a whole model": (
        lambda: interop.from_torch({f"encoder.{k}": a for k, a in LSTM.items()}),
        "prefix='encoder.lstm.'",
    ),
    "a prefix of nothing": (
        lambda: interop.from_torch(LSTM, prefix="decoder."),
        "those that are there: 'weight_ih_l0'",
    ),
    "a module": (
        lambda: interop.from_torch(rnnjax.lstm(2, 3)),  # pyright: ignore
        r"module.state_dict\(\)",
    ),
    "half a layer": (
        lambda: interop.from_torch({"weight_ih_l0": ones(12, 2)}),
        "no 'weight_hh'",
    ),
    "a layer left out": (
        lambda: interop.from_torch(LSTM | {"weight_ih_l2": ones(12, 3)}),
        "layer 1 of torch",
    ),
    "a direction of one layer only": (
        lambda: interop.from_torch(
            LSTM
            | {k.replace("0", "1"): a[:, [0, 0, 0]] for k, a in LSTM.items()}
            | {"weight_ih_l1_reverse": ones(12, 3)}
        ),
        "layer 0 of torch, reverse",
    ),
    "rows of no cell": (
        lambda: interop.from_torch({"weight_ih": ones(6, 2), "weight_hh": ones(6, 3)}),
        "4, 3 or 1 times",
    ),
    "biases that do not fit": (
        lambda: interop.from_torch(
            LSTM | {"bias_ih_l0": ones(3), "bias_hh_l0": ones(12)}
        ),
        r"bias_ih has shape \(3,\); expected \(12,\)",
    ),
    "one bias of two": (
        lambda: interop.from_torch(LSTM | {"bias_hh_l0": ones(12)}),
        "has bias_hh alone",
    ),
    "a cell beside a layer": (
        lambda: interop.from_torch(LSTM | {"weight_ih": ones(12, 2)}),
        "another weight_ih of layer 0",
    ),
    "two dtypes": (
        lambda: interop.from_torch(
            LSTM | {"weight_hh_l0": ones(12, 3).astype(np.float16)}
        ),
        "float32 in 'weight_ih_l0' and float16 in 'weight_hh_l0'",
    ),
    "one bias of Equinox's GRU": (
        lambda: interop.from_equinox(
            {"weight_ih": ones(9, 2), "weight_hh": ones(9, 3), "bias": ones(9)}
        ),
        "one of bias and bias_n",
    ),
    "directions of different inputs": (
        lambda: interop.from_torch(
            LSTM
            | {"weight_ih_l0_reverse": ones(12, 4), "weight_hh_l0_reverse": ones(12, 3)}
        ),
        "2 features forwards and 4 backwards",
    ),
    "relu for an LSTM": (
        lambda: interop.from_torch(LSTM, activation=jax.nn.relu),
        "Leave activation out",
    ),
    "integers": (
        lambda: interop.from_torch({k: a.astype(np.int8) for k, a in LSTM.items()}),
        "quantised",
    ),
    "a dense layer of Keras": (
        lambda: interop.from_keras(
            {"a/gru_cell/" + k: a for k, a in KERAS_GRU.items()}
            | {"a/gru_cell/bias": ones(9), "dense/kernel": ones(3, 1)}
        ),
        "'dense' of Keras has no 'recurrent_kernel'",
    ),
    "a GRU of Keras without bias": (
        lambda: interop.from_keras(KERAS_GRU),
        "Write reset_after=True",
    ),
    "a GRU of Keras that resets elsewhere": (
        lambda: interop.from_keras(KERAS_GRU | {"bias": ones(9)}, reset_after=True),
        "two rows",
    ),
    "one direction": (
        lambda: interop.from_keras(
            {"forward_gru/gru_cell/" + k: a for k, a in KERAS_GRU.items()}
        ),
        "expected both",
    ),
    "an MGU without a reset gate": (
        lambda: interop.from_linen({"cell": MGU}),
        "reset_gate=False",
    ),
    "layers that do not follow": (
        lambda: interop.from_equinox(
            {
                str(k): {"weight_ih": ones(12, 2), "weight_hh": ones(12, 3)}
                for k in range(2)
            }
        ),
        "the one before it gives 3",
    ),
    "other variables of a checkpoint": (
        lambda: interop.from_tensorflow1(TF1 | {"dense/kernel": ones(3, 1)}),
        "prefix='rnn/'",
    ),
    "a counter of a checkpoint": (
        lambda: interop.from_tensorflow1(TF1 | {"global_step": np.array(1)}),
        "'global_step'",
    ),
    "a buffer of another size": (
        lambda: interop.from_cudnn(
            {"weights": ones(10)}, kind="gru", input_size=2, hidden_size=3
        ),
        r"expected \(63,\)",
    ),
    "a dense layer of Haiku": (
        lambda: interop.from_haiku(
            {
                "lstm/linear": {"w": ones(5, 12), "b": ones(12)},
                "linear": {"w": ones(3, 1)},
            }
        ),
        "'linear/w'",
    ),
    "rows of no GRU of Haiku": (
        lambda: interop.from_haiku(
            {"gru": {"w_i": ones(2, 10), "w_h": ones(3, 10), "b": ones(10)}}
        ),
        r"shape \(2, 10\); expected 3 gates",
    ),
    "an ONNX clip": (
        lambda: interop.from_onnx_weights(
            "GRU", {"W": ones(1, 9, 2), "R": ones(1, 9, 3)}, {"clip": 3.0}
        ),
        "clip",
    ),
    "an ONNX direction": (
        lambda: interop.from_onnx_weights(
            "GRU", {"W": ones(2, 9, 2), "R": ones(2, 9, 3)}, {"direction": b"reverse"}
        ),
        "direction is 'reverse'",
    ),
    "an ONNX gate": (
        lambda: interop.from_onnx_weights(
            "GRU",
            {"W": ones(1, 9, 2), "R": ones(1, 9, 3)},
            {"activations": ["HardSigmoid", "Tanh"]},
        ),
        "HardSigmoid for the gates of this GRU",
    ),
    "params of another cell": (
        lambda: interop.to_torch(
            rnnjax.lstm(2, 3), rnnjax.gru(2, 3).init(jax.random.key(0))
        ),
        "expected",
    ),
    "params of another size": (
        lambda: interop.to_torch(
            rnnjax.lstm(2, 3), rnnjax.lstm(4, 3).init(jax.random.key(0))
        ),
        r"params.w_ih .* has shape \(4, 12\); expected \(2, 12\)",
    ),
    "one of two params": (
        lambda: interop.to_torch(
            rnnjax.bidirectional(rnnjax.lstm(2, 3)),
            rnnjax.lstm(2, 3).init(jax.random.key(0)),
        ),
        "of type LSTMParams, in another form than the tuple",
    ),
    "a cell of your own": (
        lambda: interop.to_torch(rnnjax.Cell(*[print] * 4), ()),  # pyright: ignore
        "made by no constructor",
    ),
}


@pytest.mark.float32
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    call, match = MISTAKES[name]
    with pytest.raises((ValueError, TypeError), match=match):
        call()


def test_a_module_is_not_its_weights():
    with pytest.raises(TypeError, match=r"type Module.*module\.state_dict\(\)"):
        interop.from_torch(type("Module", (), {})())  # pyright: ignore


def test_of_a_whole_model_only_the_part_is_read():
    class Unreadable:
        def __array__(self, *args, **kwargs):
            raise TypeError("a dtype that NumPy does not have")

    whole: dict = {f"encoder.{name}": array for name, array in LSTM.items()}
    whole["head.weight"] = Unreadable()
    assert interop.from_torch(whole, prefix="encoder.").cell == rnnjax.lstm(2, 3)
    sentence = r"arrays\['head.weight'\].*NumPy does not have"
    with pytest.raises(TypeError, match=sentence):
        interop.from_torch(whole)


def test_layers_stand_in_numerical_order():
    cell = rnnjax.stack(*[rnnjax.elman(3, 3)] * 12)
    params = random_params(cell)
    arrays = interop.to_linen(cell, params).arrays
    shuffled = {name: arrays[name] for name in sorted(arrays)}
    assert [*shuffled] != [*arrays]
    found = interop.from_linen(shuffled)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert "layers_9/cell, layers_10/cell" in found.report.notes[0]


@pytest.mark.float32
def test_rounding_is_a_loss():
    arrays = {k: a * np.float64(0.1) for k, a in LSTM.items()}
    arrays = {k: a.astype(np.float64) + 1e-12 for k, a in arrays.items()}
    report = interop.from_torch(arrays).report
    assert report.verdict == "lossy"
    assert "rounded to float32" in report.notes[0]


@pytest.mark.parametrize("wrap", [rnnjax.with_dropout, rnnjax.drop_connect])
def test_what_acts_in_training_only_is_left_out_and_said(wrap):
    options = {"outputs": 0.5} if wrap is rnnjax.with_dropout else {"rate": 0.5}
    plain = rnnjax.lstm(2, 3)
    noisy = rnnjax.stack(wrap(plain, **options), rnnjax.dropout(0.1))
    params = random_params(plain)
    exported = interop.to_torch(noisy, (params, ()))
    expected = interop.to_torch(plain, params)
    jax.tree.map(np.testing.assert_array_equal, exported.arrays, expected.arrays)
    assert [wrap.__name__ in exported.report.notes[0], len(exported.report.notes)] == [
        True,
        2,
    ]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def onnx_lstm(x, h, c, w, r, b, p):
    """The equations of ONNX's LSTM, gates i o f c, as its operators' page has them."""
    (i, o, f, g), (pi, po, pf) = np.split(x @ w.T + h @ r.T + b, 4), np.split(p, 3)
    i, f = sigmoid(i + pi * c), sigmoid(f + pf * c)
    c = f * c + i * np.tanh(g)
    return sigmoid(o + po * c) * np.tanh(c), c


def onnx_gru(x, h, w, r, wb, rb, linear_before_reset):
    """The equations of ONNX's GRU, gates z r h, as its operators' page has them."""
    (wz, wr, wh), (rz, rr, rh) = np.split(w, 3), np.split(r, 3)
    (bz, br, bh), (cz, cr, ch) = np.split(wb, 3), np.split(rb, 3)
    z = sigmoid(x @ wz.T + h @ rz.T + bz + cz)
    reset = sigmoid(x @ wr.T + h @ rr.T + br + cr)
    if linear_before_reset:
        n = np.tanh(x @ wh.T + reset * (h @ rh.T + ch) + bh)
    else:
        n = np.tanh(x @ wh.T + (reset * h) @ rh.T + ch + bh)
    return (1 - z) * n + z * h


XS = np.random.default_rng(1).normal(size=(5, 2))


def onnx_direction(op, attributes, arrays, d, xs):
    w, r = arrays["W"][d], arrays["R"][d]
    wb, rb = np.split(arrays["B"][d], 2)
    h = c = np.zeros(attributes["hidden_size"])
    ys = []
    for x in xs:
        if op == "LSTM":
            p = arrays["P"][d] if "P" in arrays else np.zeros(9)
            h, c = onnx_lstm(x, h, c, w, r, wb + rb, p)
        elif op == "GRU":
            h = onnx_gru(x, h, w, r, wb, rb, attributes["linear_before_reset"])
        else:
            (name,) = set(attributes["activations"])
            act = {"Tanh": np.tanh, "Relu": lambda a: np.maximum(a, 0)}[name]
            h = act(x @ w.T + h @ r.T + wb + rb)
        ys.append(h)
    return np.stack(ys)


@pytest.mark.parametrize(
    "cell",
    [
        rnnjax.lstm(2, 3),
        rnnjax.full_lstm(2, 3, peepholes=True),
        rnnjax.gru(2, 3),
        rnnjax.gru(2, 3, reset_after=False),
        rnnjax.elman(2, 3, activation=jax.nn.relu),
        rnnjax.bidirectional(rnnjax.gru(2, 3)),
        rnnjax.bidirectional(rnnjax.full_lstm(2, 3, peepholes=True), rnnjax.lstm(2, 3)),
        rnnjax.reverse(rnnjax.lstm(2, 3)),
    ],
    ids=repr,
)
def test_onnx_weights_in_the_equations_of_its_operators(cell):
    params = random_params(cell)
    node = interop.to_onnx_weights(cell, params)
    directions = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}
    ys = [
        onnx_direction(node.op, node.attributes, node.arrays, d, XS[:: 1 - 2 * back])[
            :: 1 - 2 * back
        ]
        for d, back in enumerate(directions[node.attributes["direction"]])
    ]
    expected = cell.unroll(params, cell.initial_carry(params), jnp.asarray(XS))[1]
    np.testing.assert_allclose(np.concatenate(ys, -1), expected, atol=1e-10)

    # From ONNX with both biases and torn apart, as other exporters write it.
    rng = np.random.default_rng(2)
    both = rng.normal(size=node.arrays["B"].shape)
    torn = node.arrays | {"B": both}
    # Texts are bytes, as onnx.helper.get_attribute_value returns them.
    attributes = node.attributes | {
        "direction": node.attributes["direction"].encode(),
        "activations": [name.encode() for name in node.attributes["activations"]],
    }
    found = interop.from_onnx_weights(node.op, torn, attributes)
    ys = [
        onnx_direction(node.op, node.attributes, torn, d, XS[:: 1 - 2 * back])[
            :: 1 - 2 * back
        ]
        for d, back in enumerate(directions[node.attributes["direction"]])
    ]
    start = found.cell.initial_carry(found.params)
    again = found.cell.unroll(found.params, start, jnp.asarray(XS))[1]
    np.testing.assert_allclose(np.concatenate(ys, -1), again, atol=1e-10)
    assert found.report.verdict == "exact after merging biases"


CUDNN = [
    rnnjax.stack(*[rnnjax.bidirectional(rnnjax.gru(i, 3)) for i in (2, 6)]),
    rnnjax.elman(2, 3, activation=jax.nn.relu),
]


@pytest.mark.parametrize("cell", CUDNN, ids=repr)
def test_cudnn_buffer_is_all_matrices_then_all_biases(cell):
    params = random_params(cell)
    exported = interop.to_cudnn(cell, params)
    arrays = interop.to_torch(cell, params).arrays
    # As torch concatenates its flat weights: by layer and direction in each half.
    names = [n for n in arrays if "weight" in n] + [n for n in arrays if "bias" in n]
    expected = np.concatenate([arrays[name].ravel() for name in names])
    np.testing.assert_array_equal(exported.arrays["weights"], expected)
    kind = "elman" if "elman" in repr(cell) else "gru"
    options = {} if kind == "gru" else {"activation": jax.nn.relu}
    layers = 2 if kind == "gru" else 1
    back = interop.from_cudnn(
        exported.arrays, kind=kind, input_size=2, hidden_size=3, layers=layers,
        bidirectional=layers == 2, **options,
    )  # fmt: skip
    assert back.cell == cell
    jax.tree.map(np.testing.assert_array_equal, back.params, params)


@pytest.mark.parametrize(
    "cell", [rnnjax.elman(2, 3, activation=jax.nn.relu), rnnjax.full_lstm(
        2, 3, projection_size=2)], ids=repr)  # fmt: skip
def test_safetensors_files_come_back(cell, tmp_path):
    pytest.importorskip("safetensors")
    params = random_params(cell)
    path = tmp_path / "cell.safetensors"
    report = interop.save_safetensors(path, cell, params)
    assert report.verdict == "exact"
    back = interop.load_safetensors(path)
    assert back.cell == cell
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
    with pytest.raises(ValueError, match="are there: 'bias_hh_l0'"):
        interop.load_safetensors(path, prefix="encoder.")


def test_safetensors_files_are_those_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    torch.set_num_threads(1)
    module = torch.nn.LSTM(2, 3, 2, bidirectional=True, batch_first=True)
    files.save_file(module.state_dict(), tmp_path / "theirs")
    cell, params, _ = interop.load_safetensors(tmp_path / "theirs")
    xs = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    ys = rnnjax.unroll(cell, params, xs)[1]
    with torch.no_grad():
        expected = module(torch.tensor(xs))[0].numpy()
        np.testing.assert_allclose(ys, expected, atol=1e-5)
        interop.save_safetensors(tmp_path / "ours", cell, params)
        fresh = torch.nn.LSTM(2, 3, 2, bidirectional=True, batch_first=True)
        fresh.load_state_dict(files.load_file(tmp_path / "ours"))
        np.testing.assert_allclose(fresh(torch.tensor(xs))[0], expected, atol=1e-5)


def test_no_other_library_is_imported():
    code = """
import sys, rnnjax
rnnjax.interop.from_torch
others = {"flax", "torch", "keras", "haiku", "equinox", "tensorflow", "safetensors"}
print(others & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_every_conversion_has_a_runnable_example():
    functions = [getattr(interop, n) for n in interop.__all__ if n[0].islower()]
    assert len(functions) >= 20
    assert all(">>> " in function.__doc__ for function in functions)


def test_what_your_own_constructor_returns_is_converted():
    @rnnjax.constructor
    def bidirectional(layers):  # a name that is taken
        return rnnjax.stack(*[rnnjax.gru(3, 3)] * layers)

    @rnnjax.constructor
    def model():
        return bidirectional(2)

    plain = rnnjax.stack(rnnjax.gru(3, 3), rnnjax.gru(3, 3))
    params = plain.init(jax.random.key(0))
    expected = interop.to_torch(plain, params)
    found = interop.to_torch(model(), params)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_a_wider_carry_is_noted():
    """Weights cannot say it: the other library computes in their dtype."""
    cell = rnnjax.lstm(3, 4, carry_dtype=jnp.float32)
    drawn = cell.init(jax.random.key(0))
    half, single = (
        jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), drawn)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    noted = interop.to_haiku(cell, half).report
    assert "carry_dtype=float32 is left out" in noted.notes[0]
    assert not interop.to_haiku(cell, single).report.notes
