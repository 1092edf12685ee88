"""No library: `jax.lax.scan` and the equations, as you would write them."""

import functools

import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.peers import LeftOut
from benchmarks.workloads import Case, Layer, outputs_of

PACKAGES = ("jax", "jaxlib", "numpy", "optax")


def _lstm(layer, carry, x, multiply=jnp.matmul):
    c, h = carry
    gates = multiply(x, layer.w_ih) + multiply(h, layer.w_hh) + layer.b
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    c = f * c + i * jnp.tanh(g)
    h = o * jnp.tanh(c)
    return (c, h), h


def _gru(layer, h, x):
    x_r, x_z, x_n = jnp.split(x @ layer.w_ih + layer.b, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ layer.w_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    h = (1 - z) * jnp.tanh(x_n + r * (h_n + layer.b_hn)) + z * h
    return h, h


def _elman(layer, h, x):
    h = jnp.tanh(x @ layer.w_ih + h @ layer.w_hh + layer.b)
    return h, h


def _relu(layer, h, x):
    h = jax.nn.relu(x @ layer.w_ih + h @ layer.w_hh + layer.b)
    return h, h


def _reset_before(layer, h, x):
    x_r, x_z, x_n = jnp.split(x @ layer.w_ih + layer.b, 3, axis=-1)
    w_r, w_z, w_n = jnp.split(layer.w_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h @ w_r), jax.nn.sigmoid(x_z + h @ w_z)
    h = (1 - z) * jnp.tanh(x_n + (r * h) @ w_n) + z * h
    return h, h


def _mgu(layer, h, x):
    x_f, x_n = jnp.split(x @ layer.w_ih + layer.b, 2, axis=-1)
    h_f, h_n = jnp.split(h @ layer.w_hh, 2, axis=-1)
    f = jax.nn.sigmoid(x_f + h_f)
    h = (1 - f) * jnp.tanh(x_n + f * (h_n + layer.b_hn)) + f * h
    return h, h


def _projected(layer, carry, x):
    (c, _), h = _lstm(layer, carry, x)
    h = h @ layer.w_proj
    return (c, h), h


def _convolve(x, w):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)


STEPS = {
    "lstm": _lstm,
    "gru": _gru,
    "elman": _elman,
    "relu": _relu,
    "reset_before": _reset_before,
    "mgu": _mgu,
    "projected": _projected,
    "convolutional": functools.partial(_lstm, multiply=_convolve),
}

WITH_MEMORY = ("lstm", "projected", "convolutional")


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.checkpointed:
        raise LeftOut("recomputation is rnnjax's row")
    step = STEPS[case.cell]

    def zeros(*shape):
        c = jnp.zeros((*shape, case.hidden), case.dtype)
        h = jnp.zeros((*shape, outputs_of(case)), case.dtype)
        return (c, h) if case.cell in WITH_MEMORY else h

    def masked(layer, carry, inputs):
        x, valid = inputs
        after, y = step(layer, carry, x)
        hold = functools.partial(jnp.where, valid[:, None])
        return jax.tree.map(hold, after, carry), hold(y, 0)

    def unroll(params, xs, lengths):
        depth = 2 if case.bidirectional else 1
        for first in range(0, len(params), depth):
            directions = []
            for backwards, layer in enumerate(params[first : first + depth]):
                walk, inputs = functools.partial(step, layer), xs
                if lengths is not None:
                    # Backwards the padding comes first, and the carry stays at zero.
                    walk = functools.partial(masked, layer)
                    inputs = xs, jnp.arange(case.time)[:, None] < lengths
                start = zeros(*xs.shape[1:-1])
                reverse = bool(backwards)
                directions.append(jax.lax.scan(walk, start, inputs, reverse=reverse)[1])
            xs = jnp.concatenate(directions, axis=-1)
        return xs

    def unroll_singles(params, xs, lengths):
        return jax.vmap(lambda x: unroll(params, x, lengths))(xs)

    def chunk(params, carry, xs):
        return jax.lax.scan(functools.partial(step, params[0]), carry, xs)

    return jax_driver.Model(
        params=layers,
        layers=lambda params: params,
        unroll=unroll_singles if case.vmap else unroll,
        time_major=not case.vmap,
        carry=zeros(1),
        step=lambda params, carry, x: step(params[0], carry, x),
        chunk=chunk,
    )


prepare = functools.partial(jax_driver.prepare, build)
