"""Wrappers answer like TensorFlow 1: values and gradients recorded from it."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import LSTMCarry

LENGTHS = jnp.array([6, 4, 1])
TENSORFLOW = dict(
    np.load(pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz")
)


def lstm_params(values, name):
    # TensorFlow's gates are i j f o, and j is our g.
    def reorder(a):
        i, g, f, o = np.split(a, 4, axis=-1)
        return np.concatenate([i, f, g, o], axis=-1)

    return dense_params(values, name, rnnjax.LSTMParams, reorder)


def dense_params(values, name, build: Any = rnnjax.ElmanParams, reorder=lambda a: a):
    kernel, bias = reorder(values[name + ".kernel"]), reorder(values[name + ".bias"])
    inputs = len(kernel) - kernel.shape[1] // (4 if build is rnnjax.LSTMParams else 1)
    return build(kernel[:inputs], kernel[inputs:], bias)


def window_params(values):
    def of(name):
        return values["rnn.attention_cell_wrapper." + name]

    return rnnjax.AttentionWindowParams(
        cell=lstm_params(values, "rnn.attention_cell_wrapper.basic_lstm_cell"),
        w_in=of("kernel"),
        b_in=of("bias"),
        w_window=of("attention.attn_w")[0, 0],
        w_query=of("attention.kernel"),
        b_query=of("attention.bias"),
        v=of("attention.attn_v"),
        w_out=of("attn_output_projection.kernel"),
        b_out=of("attn_output_projection.bias"),
    )


def memory_params(values, additive):
    wrapper = "rnn.attention_wrapper."
    own = wrapper + "bahdanau_attention."
    return rnnjax.AttentionParams(
        cell=dense_params(values, wrapper + "basic_rnn_cell"),
        w_memory=values["memory_layer.kernel"],
        w_query=values[own + "query_layer.kernel"] if additive else None,
        v=values[own + "attention_v"] if additive else None,
        w_out=values[wrapper + "dense.kernel"],
    )


def highway_params(values):
    cell = dense_params(values, "rnn.basic_rnn_cell")
    return rnnjax.HighwayParams(
        cell, values["rnn.carry_w"], values["rnn.carry_b"], None
    )


def pair_params(values):
    name = "bidirectional_rnn.{}.basic_lstm_cell"
    return tuple(lstm_params(values, name.format(way)) for way in ("fw", "bw"))


ANSWERS = {
    "attention_window": (
        rnnjax.attention_window(rnnjax.lstm(3, 5), 3, 4, 3),
        window_params,
    ),
    "bahdanau": (
        rnnjax.attention(rnnjax.elman(7, 4), 3, 4, (5, 4)),
        functools.partial(memory_params, additive=True),
    ),
    "luong": (
        rnnjax.attention(rnnjax.elman(7, 4), 3, 4, (5, 4), score="multiplicative"),
        functools.partial(memory_params, additive=False),
    ),
    "highway": (rnnjax.highway(rnnjax.elman(3, 3), 3), highway_params),
    "bidirectional": (rnnjax.bidirectional(rnnjax.lstm(3, 4)), pair_params),
}


def first_carry(name, cell, params, memory):
    if name in ("bahdanau", "luong"):
        valid = rnnjax.sequence_mask(np.array([5, 2, 3]), 5)
        carry = jax.vmap(lambda _: cell.initial_carry(params))(memory)
        return carry._replace(memory=memory, valid=valid)
    if name == "bidirectional":
        one, two, three, four = (
            jnp.asarray(np.random.RandomState(seed).normal(size=(3, 4)))
            for seed in range(3, 7)
        )
        return LSTMCarry(one, two), LSTMCarry(three, four)
    return None


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_tensorflow_1(name):
    cell, params_of = ANSWERS[name]
    found = {
        key.removeprefix(name + "/"): value
        for key, value in TENSORFLOW.items()
        if key.startswith(name + "/")
    }
    gradients = {k[2:]: v for k, v in found.items() if k.startswith("d_")}
    xs = np.random.RandomState(1).normal(size=(3, 6, 3))
    memory = np.random.RandomState(2).normal(size=(3, 5, 4))

    def loss(params, xs, memory):
        start = first_carry(name, cell, params, memory)
        carry, ys = rnnjax.unroll(cell, params, xs, carry=start, lengths=LENGTHS)
        return (ys * found["weights"]).sum(), (carry, ys)

    run = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    grads, (carry, ys) = run(params_of(found), xs, memory)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(ys, found["outputs"])
    close(grads[1], gradients["xs"])
    jax.tree.map(close, grads[0], params_of(gradients))
    if "memory" in gradients:
        close(grads[2], gradients["memory"])
        close(carry.attention, found["attention"])
        close(carry.cell, found["h"])
    if "window" in found:
        close(carry.window.reshape(3, -1), found["window"])
        close(carry.cell.h, found["h"])
        close(carry.cell.c, found["c"])
    if name == "bidirectional":
        last = [found[key] for key in ("c_fw", "h_fw", "c_bw", "h_bw")]
        jax.tree.map(close, jax.tree.leaves(carry), last)
