"""Cells against loops written from their papers, for those no library ships."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

TIME = 4
RNG = np.random.default_rng(1997)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def norm(a):
    return (a - a.mean()) / np.sqrt(a.var() + 1e-5)


def split(a, parts):
    return np.split(np.asarray(a), parts, axis=-1)


def coupled_lstm(p, carry, x):
    c, h = carry
    f, g, o = split(x @ p.w_ih + h @ p.w_hh + p.b, 3)
    p_f, p_o = p.peepholes
    f = sigmoid(f + p_f * c)
    c = f * c + (1 - f) * np.tanh(g)
    h = sigmoid(o + p_o * c) * np.tanh(c)
    return (c, h), h


def lstm_layer_norm_gates(p, carry, x):
    """TensorFlow 1's LayerNormBasicLSTMCell: each gate, and c before it is carried."""
    c, h = carry
    blocks = zip(
        split(x @ p.w_ih + h @ p.w_hh, 4),
        split(p.norm.gain_ih, 4),
        split(p.b, 4),
        strict=True,
    )
    i, f, g, o = (gain * norm(a) + b for a, gain, b in blocks)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    c = p.norm.gain_c * norm(c) + p.norm.b_c
    h = sigmoid(o) * np.tanh(c)
    return (c, h), h


def lstm_layer_norm_products(p, carry, x):
    """Ba et al. 2016, the supplement: both products, and c on its way out."""
    c, h = carry
    a = p.norm.gain_ih * norm(x @ p.w_ih) + p.norm.gain_hh * norm(h @ p.w_hh) + p.b
    i, f, g, o = split(a, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(p.norm.gain_c * norm(c) + p.norm.b_c)
    return (c, h), h


def layer_norm_gru(p, h, x):
    """Ba et al. 2016, the supplement, with z for one minus theirs."""
    units = len(h)
    x_rz, x_n = np.split(x @ p.w_ih, [2 * units])
    h_rz, h_n = np.split(h @ p.w_hh, [2 * units])
    gain_x, gain_h = (np.split(g, [2 * units]) for g in (p.gain_ih, p.gain_hh))
    b_rz, b_n = np.split(p.b, [2 * units])
    r, z = split(sigmoid(gain_x[0] * norm(x_rz) + gain_h[0] * norm(h_rz) + b_rz), 2)
    n = gain_x[1] * norm(x_n) + b_n + r * (gain_h[1] * norm(h_n) + p.b_hn)
    h = (1 - z) * np.tanh(n) + z * h
    return h, h


def mgu(p, h, x):
    (i_f, i_n), (h_f, h_n), (b_f, b_n) = (split(a, 2) for a in (p.w_ih, p.w_hh, p.b))
    f = sigmoid(x @ i_f + h @ h_f + b_f)
    h = (1 - f) * h + f * np.tanh(x @ i_n + (f * h) @ h_n + b_n)
    return h, h


def ugrnn(p, h, x):
    g, n = split(x @ p.w_ih + h @ p.w_hh + p.b, 2)
    h = sigmoid(g) * h + (1 - sigmoid(g)) * np.tanh(n)
    return h, h


def intersection_rnn(p, h, x):
    gh, nh, gy, ny = split(x @ p.w_ih + h @ p.w_hh + p.b, 4)
    y = sigmoid(gy) * x + (1 - sigmoid(gy)) * np.maximum(ny, 0)
    h = sigmoid(gh) * h + (1 - sigmoid(gh)) * np.tanh(nh)
    return h, y


def indrnn(p, h, x):
    h = np.maximum(x @ p.w_ih + p.u[0] * h + p.b, 0)
    return h, h


def indy_lstm(p, carry, x):
    c, h = carry
    i, f, g, o = np.reshape(x @ p.w_ih + p.b, (4, -1)) + p.u * h
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (c, h), h


def indy_gru(p, h, x):
    r, z, n = split(x @ p.w_ih + p.b, 3)
    r, z = sigmoid(r + p.u[0] * h), sigmoid(z + p.u[1] * h)
    h = (1 - z) * np.tanh(n + p.u[2] * r * h) + z * h
    return h, h


def glstm(p, carry, x):
    c, h = (np.split(np.asarray(a), 2) for a in carry)
    x = np.split(x, 2)
    for j in range(2):
        i, f, g, o = split(x[j] @ p.w_ih[j] + h[j] @ p.w_hh[j] + p.b[j], 4)
        c[j] = sigmoid(f) * c[j] + sigmoid(i) * np.tanh(g)
        h[j] = sigmoid(o) * np.tanh(c[j])
    return (np.concatenate(c), np.concatenate(h)), np.concatenate(h)


def grid_lstm(p, carry, x):
    """Kalchbrenner et al. 2016: every block updates a memory along each dimension."""
    c, h = (np.array(a) for a in carry)
    depth_c, depth_h = split(x @ p.w_in + p.b_in, 2)
    for layer in range(len(c)):
        both = np.concatenate([h[layer], depth_h])
        memories = []
        for memory, w, b in zip(
            (c[layer], depth_c), p.w[layer], p.b[layer], strict=True
        ):
            i, f, g, o = split(both @ w + b, 4)
            new = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            memories.append((new, sigmoid(o) * np.tanh(new)))
        (c[layer], h[layer]), (depth_c, depth_h) = memories
    return (c, h), depth_h


def phased_lstm(p, carry, inputs):
    (c, h), (x, time) = carry, inputs
    period, on, leak = np.exp(p.log_period), 0.5, 0.001
    phase = ((time - p.shift) % period) / period
    k = np.select(
        [phase < on / 2, phase < on], [2 * phase / on, 2 - 2 * phase / on], leak * phase
    )
    i, f, g, o = split(x @ p.w_ih + h @ p.w_hh + p.b, 4)
    p_i, p_f, p_o = p.peepholes
    new_c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
    new_h = sigmoid(o + p_o * new_c) * np.tanh(new_c)
    c, h = k * new_c + (1 - k) * c, k * new_h + (1 - k) * h
    return (c, h), h


def min_gru(p, h, x):
    z, n = split(x @ p.w + p.b, 2)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * n
    return h, h


def min_lstm(p, h, x):
    f, i, n = split(x @ p.w + p.b, 3)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * n
    return h, h


def leaky_rnn(p, v, x):
    v = 0.8 * v + 0.2 * (x @ p.w_ih + np.tanh(v) @ p.w_hh + p.b)
    return v, np.tanh(v)


def dale_rnn(p, v, x):
    signs = np.diag([1, 1, 1, -1])
    w = signs @ (np.abs(p.w_hh) * (1 - np.eye(4)))
    v = 0.8 * v + 0.2 * (x @ p.w_ih + np.maximum(v, 0) @ w + p.b)
    return v, np.maximum(v, 0)


def low_rank_rnn(p, v, x):
    w = np.asarray(p.n) @ np.asarray(p.m).T / len(v)
    v = 0.8 * v + 0.2 * (x @ p.w_ih + np.tanh(v) @ w + p.b)
    return v, np.tanh(v)


def convolve(x, kernel, strides=(1, 1)):
    """A correlation with zeros around, written as a sum over places."""
    size = np.array(kernel.shape[:2])
    space = np.array(x.shape[:2])
    out = -(-space // strides)
    around = np.maximum((out - 1) * strides + size - space, 0)
    x = np.pad(x, [*((a // 2, a - a // 2) for a in around), (0, 0)])
    ys = np.zeros((*out, kernel.shape[-1]))
    for place in np.ndindex(*out):
        a, b = place * np.array(strides)
        patch = x[a : a + size[0], b : b + size[1]]
        ys[place] = np.tensordot(patch, kernel, 3)
    return ys


def conv_gru(p, h, x):
    x_r, x_z, x_n = split(convolve(x, p.w_ih, (2, 1)) + p.b, 3)
    w_r, w_z, w_n = split(p.w_hh, 3)
    r, z = sigmoid(x_r + convolve(h, w_r)), sigmoid(x_z + convolve(h, w_z))
    h = (1 - z) * np.tanh(x_n + convolve(r * h, w_n)) + z * h
    return h, h


CASES = [
    (rnnjax.full_lstm(2, 3, coupled=True, peepholes=True), coupled_lstm),
    (rnnjax.full_lstm(2, 3, layer_norm="gates"), lstm_layer_norm_gates),
    (rnnjax.full_lstm(2, 3, layer_norm="products"), lstm_layer_norm_products),
    (rnnjax.layer_norm_gru(2, 3), layer_norm_gru),
    (rnnjax.mgu(2, 3), mgu),
    (rnnjax.ugrnn(2, 3), ugrnn),
    (rnnjax.intersection_rnn(2), intersection_rnn),
    (rnnjax.indrnn(2, 3), indrnn),
    (rnnjax.indy_lstm(2, 3), indy_lstm),
    (rnnjax.indy_gru(2, 3), indy_gru),
    (rnnjax.glstm(2, 6, groups=2), glstm),
    (rnnjax.grid_lstm(2, 3, layers=2), grid_lstm),
    (rnnjax.phased_lstm(2, 3, ratio_on=0.5, longest_period=4.0), phased_lstm),
    (rnnjax.min_gru(2, 3), min_gru),
    (rnnjax.min_lstm(2, 3), min_lstm),
    (rnnjax.leaky_rnn(2, 3), leaky_rnn),
    (rnnjax.dale_rnn(2, 4, excitatory=0.75), dale_rnn),
    (rnnjax.low_rank_rnn(2, 4, rank=2), low_rank_rnn),
    (rnnjax.conv_gru((4, 3, 2), 2, (3, 2), strides=(2, 1)), conv_gru),
]


def draw(tree):
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) * 0.7), tree)


@pytest.mark.parametrize(
    ("cell", "paper"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_cell_is_its_paper(cell, paper):
    params = draw(cell.init(jax.random.key(0)))
    carry = draw(cell.initial_carry(params))
    shape = cell.spec["input_shape"] if paper is conv_gru else (2,)
    xs = RNG.normal(size=(TIME, *shape))
    if paper is phased_lstm:
        xs = (xs, np.cumsum(RNG.uniform(0, 3, TIME)))
    found = jax.jit(cell.unroll)(params, carry, jax.tree.map(jnp.asarray, xs))
    p, state, ys = jax.tree.map(np.asarray, params), carry, []
    for t in range(TIME):
        state, y = paper(p, state, jax.tree.map(lambda a, t=t: a[t], xs))
        ys.append(y)
    leaves = zip(jax.tree.leaves(found), [*jax.tree.leaves(state), ys], strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, np.asarray(other), atol=1e-9)
