"""The cells against plain NumPy written from the papers, and against real libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

BATCH, TIME, INPUT, HIDDEN = 3, 6, 4, 5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def elman_loop(p, h, xs, activation=np.tanh):
    ys = []
    for x in xs:
        h = activation(x @ p.w_ih + h @ p.w_hh + p.b)
        ys.append(h)
    return h, np.stack(ys)


def lstm_loop(p, carry, xs):
    c, h = carry
    ys = []
    for x in xs:
        i, f, g, o = np.split(x @ p.w_ih + h @ p.w_hh + p.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return (c, h), np.stack(ys)


def gru_loop(p, h, xs):
    w, u, b = (np.split(a, 3, axis=-1) for a in (p.w_ih, p.w_hh, p.b))
    ys = []
    for x in xs:
        r = sigmoid(x @ w[0] + h @ u[0] + b[0])
        z = sigmoid(x @ w[1] + h @ u[1] + b[1])
        if p.b_hn is None:
            n = np.tanh(x @ w[2] + (r * h) @ u[2] + b[2])
        else:
            n = np.tanh(x @ w[2] + b[2] + r * (h @ u[2] + p.b_hn))
        h = (1 - z) * n + z * h
        ys.append(h)
    return h, np.stack(ys)


LOOPS = {
    "elman": (rnnjax.elman(INPUT, HIDDEN), elman_loop),
    "elman-relu": (
        rnnjax.elman(INPUT, HIDDEN, activation=jax.nn.relu),
        lambda p, h, xs: elman_loop(p, h, xs, lambda a: np.maximum(a, 0)),
    ),
    "lstm": (rnnjax.lstm(INPUT, HIDDEN), lstm_loop),
    "gru": (rnnjax.gru(INPUT, HIDDEN), gru_loop),
    "gru-before": (rnnjax.gru(INPUT, HIDDEN, reset_after=False), gru_loop),
}


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), tree)


@pytest.mark.parametrize(("cell", "loop"), LOOPS.values(), ids=LOOPS)
def test_cell_equals_a_numpy_loop(cell, loop):
    params = random_like(cell.init(jax.random.key(0)))
    carry = random_like(cell.initial_carry(params), 1)
    xs = random_like(jnp.zeros((TIME, INPUT)), 2)
    expected = jax.tree.leaves(loop(*jax.tree.map(np.asarray, (params, carry, xs))))
    for found, want in zip(
        jax.tree.leaves(cell.unroll(params, carry, xs)), expected, strict=True
    ):
        np.testing.assert_allclose(found, want, rtol=1e-12)


# The real torch: values, final states and gradients, lengths included.

TORCH = {
    "elman": ("RNN", rnnjax.elman(INPUT, HIDDEN), {}),
    "elman-relu": (
        "RNN",
        rnnjax.elman(INPUT, HIDDEN, activation=jax.nn.relu),
        {"nonlinearity": "relu"},
    ),
    "lstm": ("LSTM", rnnjax.lstm(INPUT, HIDDEN), {}),
    "gru": ("GRU", rnnjax.gru(INPUT, HIDDEN), {}),
}


def params_of_torch(cell, module, suffix="_l0"):
    """Torch keeps (out, in) and two biases; only the GRU needs both of them."""
    w_ih, w_hh, b_ih, b_hh = (
        jnp.asarray(getattr(module, name + suffix).detach().numpy())
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    if cell.spec.name != "gru":
        return type(cell.init(jax.random.key(0)))(w_ih.T, w_hh.T, b_ih + b_hh)
    b = b_ih.at[: 2 * HIDDEN].add(b_hh[: 2 * HIDDEN])
    return rnnjax.GRUParams(w_ih.T, w_hh.T, b, b_hh[2 * HIDDEN :])


@pytest.mark.parametrize(("name", "cell", "options"), TORCH.values(), ids=TORCH)
@pytest.mark.parametrize("directions", [1, 2])
def test_cell_equals_torch(name, cell, options, directions):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(
        INPUT, HIDDEN, batch_first=True, bidirectional=directions == 2, **options
    ).double()
    xs = np.random.default_rng(0).normal(size=(BATCH, TIME, INPUT))
    lengths = np.array([6, 1, 4])
    inputs = torch.tensor(xs, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    (ys * torch.cos(ys)).sum().backward()

    params = params_of_torch(cell, module)
    if directions == 2:
        params = (params, params_of_torch(cell, module, "_l0_reverse"))
        cell = rnnjax.bidirectional(cell)

    def loss(params, xs):
        _, ys = rnnjax.unroll(cell, params, xs, lengths=jnp.asarray(lengths))
        return (ys * jnp.cos(ys)).sum(), ys

    (_, found), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, jnp.asarray(xs)
    )
    np.testing.assert_allclose(found, ys.detach(), atol=1e-12)
    np.testing.assert_allclose(grads[1], inputs.grad, atol=1e-12)
    forward = grads[0][0] if directions == 2 else grads[0]
    np.testing.assert_allclose(
        forward.w_hh, module.weight_hh_l0.grad.numpy().T, atol=1e-12
    )
    np.testing.assert_allclose(
        forward.w_ih, module.weight_ih_l0.grad.numpy().T, atol=1e-12
    )


def test_lstm_equals_flax():
    nn = pytest.importorskip("flax.linen")
    module = nn.LSTMCell(HIDDEN, param_dtype=jnp.float64)
    x = jnp.zeros(INPUT)
    carry = module.initialize_carry(jax.random.key(0), x.shape)
    carry = jax.tree.map(lambda a: a.astype(jnp.float64), carry)
    weights = random_like(module.init(jax.random.key(0), carry, x)["params"])
    gates = "ifgo"
    params = rnnjax.LSTMParams(
        jnp.concatenate([weights[f"i{g}"]["kernel"] for g in gates], axis=1),
        jnp.concatenate([weights[f"h{g}"]["kernel"] for g in gates], axis=1),
        jnp.concatenate([weights[f"h{g}"]["bias"] for g in gates]),
    )
    xs = random_like(jnp.zeros((TIME, INPUT)), 2)
    cell = rnnjax.lstm(INPUT, HIDDEN)
    last, ys = cell.unroll(params, cell.initial_carry(params), xs)
    for x, y in zip(xs, ys, strict=True):
        carry, want = module.apply({"params": weights}, carry, x)
        np.testing.assert_allclose(y, want, atol=1e-12)
    np.testing.assert_allclose(last, carry, atol=1e-12)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_equals_keras(reset_after, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    layer = keras.layers.GRU(
        HIDDEN, reset_after=reset_after, return_sequences=True, dtype="float64"
    )
    layer.build((BATCH, TIME, INPUT))
    weights = random_like([w.value for w in layer.weights])
    layer.set_weights(weights)
    z_r_n = [a.reshape(*a.shape[:-1], 3, HIDDEN) for a in weights]
    w_ih, w_hh, b = (a[..., jnp.array([1, 0, 2]), :] for a in z_r_n)
    if reset_after:
        b, b_hn = b[0].at[:2].add(b[1, :2]), b[1, 2]
    else:
        b_hn = None
    params = rnnjax.GRUParams(
        w_ih.reshape(INPUT, -1), w_hh.reshape(HIDDEN, -1), b.ravel(), b_hn
    )
    xs = random_like(jnp.zeros((BATCH, TIME, INPUT)), 2)
    cell = rnnjax.gru(INPUT, HIDDEN, reset_after=reset_after)
    _, ys = rnnjax.unroll(cell, params, xs)
    with jax.numpy_dtype_promotion("standard"):  # Keras mixes dtypes inside,
        np.testing.assert_allclose(ys, layer(xs), atol=1e-6)  # and casts to float32


# What the initialisers promise.


@pytest.mark.parametrize(
    ("cell", "gates"),
    [(rnnjax.elman(3, 8), 1), (rnnjax.lstm(3, 8), 4), (rnnjax.gru(3, 8), 3)],
    ids=str,
)
def test_each_recurrent_gate_block_is_orthogonal(cell, gates):
    w_hh = cell.init(jax.random.key(0)).w_hh
    for block in jnp.split(w_hh, gates, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(8), atol=1e-10)
    if gates > 1:
        first, second, *_ = jnp.split(w_hh, gates, axis=1)
        assert not np.allclose(first, second)


def test_each_input_gate_block_has_the_variance_of_its_own_size():
    w_ih = rnnjax.lstm(200, 300).init(jax.random.key(0)).w_ih
    for block in jnp.split(w_ih, 4, axis=1):
        np.testing.assert_allclose(block.var(), 2 / (200 + 300), rtol=0.05)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.5])
def test_forget_bias_is_stored_in_the_bias(forget_bias):
    b = rnnjax.lstm(3, 8, forget_bias=forget_bias).init(jax.random.key(0)).b
    np.testing.assert_array_equal(b.reshape(4, 8)[1], forget_bias)
    np.testing.assert_array_equal(b.reshape(4, 8)[jnp.array([0, 2, 3])], 0)
