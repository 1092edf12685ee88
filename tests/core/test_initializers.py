"""What each initialiser promises, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import initializers

KEY = jax.random.key(3)

RECURRENT = {
    "elman": (rnnjax.elman(2, 6), 1),
    "gru": (rnnjax.gru(2, 6), 3),
    "lstm": (rnnjax.lstm(2, 6), 4),
    "coupled": (rnnjax.full_lstm(2, 6, coupled=True), 3),
    "projected": (rnnjax.full_lstm(2, 6, projection_size=4), 4),
    "layer_norm_gru": (rnnjax.layer_norm_gru(2, 6), 3),
    "mgu": (rnnjax.mgu(2, 6), 2),
    "nas": (rnnjax.nas(2, 6), 8),
    "conv_gru": (rnnjax.conv_gru((4, 2), 3, 2), 3),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_each_gate_of_the_recurrent_weights_is_orthogonal(name):
    cell, gates = RECURRENT[name]
    for block in jnp.split(cell.init(KEY).w_hh, gates, axis=-1):
        block = np.asarray(block).reshape(-1, block.shape[-1])
        # Orthonormal along the shorter side.
        product = block.T @ block if len(block) >= block.shape[1] else block @ block.T
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)


def test_each_gate_of_the_input_weights_has_glorots_variance():
    w_ih, _ = initializers.recurrent_weights(KEY, 60, 40, 4)
    bound = np.sqrt(6 / (60 + 40))
    for block in np.split(np.asarray(w_ih), 4, axis=1):
        assert 0.95 * bound < np.abs(block).max() <= bound
        np.testing.assert_allclose(block.var(), bound**2 / 3, rtol=0.1)


def test_chrono_spreads_the_memories_of_an_lstm():
    b = initializers.chrono(50)(KEY, (4 * 2000,))
    i, f, g, o = np.split(np.asarray(b), 4)
    np.testing.assert_array_equal(i, -f)
    np.testing.assert_array_equal(np.r_[g, o], 0)
    # sigmoid(f) = T / (T + 1) for a memory of T steps, uniform between 1 and 49.
    steps = np.exp(f)
    assert 1 <= steps.min() < 1.2
    assert 48 < steps.max() <= 49
    np.testing.assert_allclose(steps.mean(), 25, rtol=0.05)


def test_chrono_biases_the_gate_that_keeps_in_a_gru():
    r, z, n = jnp.split(initializers.chrono(50, gates=3)(KEY, (30,)), 3)
    assert (z > 0).all()
    assert (r == 0).all()
    assert (n == 0).all()


def test_identity_keeps_what_a_relu_network_holds():
    cell = rnnjax.elman(2, 3, activation=jax.nn.relu)
    params = cell.init(KEY)
    params = params._replace(w_hh=initializers.identity()(KEY, (3, 3)))
    h = jnp.array([0.5, 0.0, 2.0])
    last, _ = cell.unroll(params, h, jnp.zeros((20, 2)))
    np.testing.assert_array_equal(last, h)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_unitary_is_orthogonal_and_multiplies_complex_units(dtype):
    w = initializers.per_gate(initializers.unitary(), 2)(KEY, (6, 12), dtype)
    assert w.dtype == dtype
    for block in np.split(np.asarray(w), 2, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-6)
        unitary = block[:3, :3] + 1j * block[:3, 3:]
        h = np.arange(3) + 1j
        product = np.r_[h.real, h.imag] @ block
        np.testing.assert_allclose(
            product[:3] + 1j * product[3:], h @ unitary, atol=1e-5
        )


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (lambda: initializers.chrono(2), "longest=len"),
        (lambda: initializers.chrono(9, gates=5), "gates=4"),
        (lambda: initializers.unitary()(KEY, (3, 3)), "even hidden_size"),
    ],
)
def test_shapes_that_do_not_fit_say_what_to_write(make, write):
    with pytest.raises(ValueError, match=write):
        make()
