"""Haiku: ``hk.dynamic_unroll`` over ``hk.LSTM``, ``hk.GRU`` and others."""

import functools
import warnings

import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.peers import LeftOut
from benchmarks.workloads import KERNEL, Case, Layer, image_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk

PACKAGES = ("dm-haiku", "jax", "jaxlib", "numpy", "optax")

# The convolutions of its convolutional LSTM.
INPUT, HIDDEN = "input_to_hidden", "hidden_to_hidden"
CORES = {
    "lstm": hk.LSTM,
    "relu": functools.partial(hk.VanillaRNN, double_bias=False),
    "reset_before": hk.GRU,
}


def _params(case: Case, layer: Layer):
    """The arrays of a core by their names below the core's."""
    w_ih, w_hh, b = map(jnp.asarray, layer[:3])
    if case.cell == "relu":
        return {"/linear": {"w": w_ih, "b": b}, "/linear_1": {"w": w_hh}}
    if case.cell == "reset_before":
        # Its gates are z r n, and its z is what is taken of the new.
        def turned(array):
            r, z, n = jnp.split(array, 3, axis=-1)
            return jnp.concatenate([-z, r, n], axis=-1)

        return {"": {"w_i": turned(w_ih), "w_h": turned(w_hh), "b": turned(b)}}
    b = jax_driver.exchanged(b - jax_driver.forget_bias(case))
    if case.cell == "convolutional":
        w_ih, w_hh = map(jax_driver.exchanged, (w_ih, w_hh))
        return {
            f"/{INPUT}": {"w": w_ih, "b": b},
            f"/{HIDDEN}": {"w": w_hh, "b": jnp.zeros_like(b)},
        }
    return {
        "/linear": {"w": jax_driver.exchanged(jnp.concatenate([w_ih, w_hh])), "b": b}
    }


def _layer(case: Case, params, name: str, inputs: int) -> Layer:
    if case.cell == "relu":
        first, second = params[f"{name}/linear"], params[f"{name}/linear_1"]
        return Layer(first["w"], second["w"], first["b"], None)
    if case.cell == "reset_before":

        def turned(array):
            z, r, n = jnp.split(array, 3, axis=-1)
            return jnp.concatenate([r, -z, n], axis=-1)

        w_ih, w_hh, b = (turned(params[name][key]) for key in ("w_i", "w_h", "b"))
        return Layer(w_ih, w_hh, b, None)
    if case.cell == "convolutional":
        first, second = params[f"{name}/{INPUT}"], params[f"{name}/{HIDDEN}"]
        arrays = first["w"], second["w"], first["b"]
        w_ih, w_hh, b = map(jax_driver.exchanged, arrays)
        return Layer(w_ih, w_hh, b, None)
    weights = params[f"{name}/linear"]
    w, b = map(jax_driver.exchanged, (weights["w"], weights["b"]))
    return Layer(w[:inputs], w[inputs:], b, None)


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.cell == "gru":
        raise LeftOut("hk.GRU resets before the recurrent product: other equations")
    if case.cell == "elman":
        raise LeftOut("hk.VanillaRNN has a ReLU in place of tanh")
    if case.cell not in (*CORES, "convolutional"):
        raise LeftOut("it has no MGU, and projects no LSTM")
    if case.ragged:
        raise LeftOut("hk.dynamic_unroll takes no lengths")
    depth = 2 if case.bidirectional else 1
    images = functools.partial(hk.Conv2DLSTM, image_of(case), kernel_shape=KERNEL)
    make = images if case.side else CORES[case.cell]

    def cast(a):
        return a.astype(case.dtype)

    def network(xs):
        for first in range(0, len(layers), depth):
            ys = []
            for d in range(depth):
                core = make(case.hidden, name=f"layer_{first + d}")
                start = jax.tree.map(cast, core.initial_state(xs.shape[1]))
                ys.append(hk.dynamic_unroll(core, xs, start, reverse=bool(d))[0])
            xs = jnp.concatenate(ys, axis=-1)
        return xs

    def one(inputs, state):
        return make(case.hidden, name="layer_0")(inputs, state)

    def several(inputs, state):
        return hk.dynamic_unroll(make(case.hidden, name="layer_0"), inputs, state)

    apply = hk.without_apply_rng(hk.transform(network)).apply
    step = hk.without_apply_rng(hk.transform(one)).apply
    chunk = hk.without_apply_rng(hk.transform(several)).apply

    def unroll(params, xs, lengths):
        return apply(params, xs)

    def common(params):
        return [
            _layer(case, params, f"layer_{i}", layer.w_ih.shape[0])
            for i, layer in enumerate(layers)
        ]

    zeros = jnp.zeros((1, case.hidden), case.dtype)
    return jax_driver.Model(
        params={
            f"layer_{i}{name}": arrays
            for i, layer in enumerate(layers)
            for name, arrays in _params(case, layer).items()
        },
        layers=common,
        unroll=unroll,
        time_major=True,
        carry=hk.LSTMState(zeros, zeros) if case.cell == "lstm" else zeros,
        step=lambda params, carry, x: step(params, x, carry)[::-1],
        chunk=lambda params, carry, xs: chunk(params, xs, carry)[::-1],
    )


prepare = functools.partial(jax_driver.prepare, build)
