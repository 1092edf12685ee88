"""Haiku: ``hk.dynamic_unroll`` over ``hk.LSTM``."""

import functools
import warnings

import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.peers import LeftOut
from benchmarks.workloads import Case, Layer

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk

PACKAGES = ("dm-haiku", "jax", "jaxlib", "numpy", "optax")


def _reorder(array, case: Case):
    """Gates i f g o become i g f o, and back."""
    i, f, g, o = jnp.split(jnp.asarray(array), 4, axis=-1)
    return jnp.concatenate([i, g, f, o], axis=-1)


def _params(case: Case, layer: Layer):
    # Haiku adds 1 to the forget gate by itself.
    forget = jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0], jnp.float32), case.hidden)
    w = jnp.concatenate([layer.w_ih, layer.w_hh])
    return {"w": _reorder(w, case), "b": _reorder(layer.b, case) - forget}


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.cell == "gru":
        raise LeftOut("hk.GRU resets before the recurrent product: other equations")
    if case.cell == "elman":
        raise LeftOut("hk.VanillaRNN has a ReLU in place of tanh")
    if case.ragged:
        raise LeftOut("hk.dynamic_unroll takes no lengths")
    depth = 2 if case.bidirectional else 1

    def cast(a):
        return a.astype(case.dtype)

    def network(xs):
        for first in range(0, len(layers), depth):
            ys = []
            for d in range(depth):
                core = hk.LSTM(case.hidden, name=f"layer_{first + d}")
                start = jax.tree.map(cast, core.initial_state(xs.shape[1]))
                ys.append(hk.dynamic_unroll(core, xs, start, reverse=bool(d))[0])
            xs = jnp.concatenate(ys, axis=-1)
        return xs

    def one(inputs, state):
        return hk.LSTM(case.hidden, name="layer_0")(inputs, state)

    def several(inputs, state):
        return hk.dynamic_unroll(hk.LSTM(case.hidden, name="layer_0"), inputs, state)

    apply = hk.without_apply_rng(hk.transform(network)).apply
    step = hk.without_apply_rng(hk.transform(one)).apply
    chunk = hk.without_apply_rng(hk.transform(several)).apply

    def unroll(params, xs, lengths):
        return apply(params, xs)

    def common(params):
        made = []
        for i, layer in enumerate(layers):
            weights = params[f"layer_{i}/linear"]
            w, inputs = _reorder(weights["w"], case), layer.w_ih.shape[0]
            b = _reorder(weights["b"], case)
            made.append(Layer(w[:inputs], w[inputs:], b, None))
        return made

    zeros = jnp.zeros((1, case.hidden), case.dtype)
    return jax_driver.Model(
        params={f"layer_{i}/linear": _params(case, w) for i, w in enumerate(layers)},
        layers=common,
        unroll=unroll,
        time_major=True,
        carry=hk.LSTMState(zeros, zeros),
        step=lambda params, carry, x: step(params, x, carry)[::-1],
        chunk=lambda params, carry, xs: chunk(params, xs, carry)[::-1],
    )


prepare = functools.partial(jax_driver.prepare, build)
