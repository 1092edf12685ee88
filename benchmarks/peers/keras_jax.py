"""Keras 3 on its JAX backend: ``LSTM``, ``GRU``, ``SimpleRNN`` and ``ConvLSTM2D``."""

import functools
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import jax_driver
from benchmarks.peers import LeftOut, rnnjax_cells
from benchmarks.workloads import KERNEL, Case, Layer, image_of
from rnnjax import interop

os.environ["KERAS_BACKEND"] = "jax"
import keras

PACKAGES = ("keras", "jax", "jaxlib", "numpy", "optax")


def _swap(array):
    """Keras's gates z r n become r z n."""
    z, r, n = np.split(np.asarray(array), 3, axis=-1)
    return np.concatenate([r, z, n], axis=-1)


def _images(*size: Any, **options: Any) -> Any:
    return keras.layers.ConvLSTM2D(*size, kernel_size=KERNEL, padding="same", **options)


def _arrays(case: Case, layers: list[Layer]) -> list[Any]:
    """The arrays of all layers in the order in which Keras has them."""
    if case.cell == "convolutional":
        return list(layers[0][:3])
    return [*interop.to_keras(*rnnjax_cells.network(case, layers)).arrays.values()]


def _layer(case: Case, weights: list[Any]) -> Layer:
    w_ih, w_hh, b = weights
    if case.cell not in ("gru", "reset_before"):
        return Layer(w_ih, w_hh, b, None)
    w_ih, w_hh, b = _swap(w_ih), _swap(w_hh), _swap(b)
    if case.cell == "reset_before":
        return Layer(w_ih, w_hh, b, None)
    return Layer(w_ih, w_hh, b[0], b[1][-case.hidden :])


def _states(case: Case, carry: Any) -> list[Any]:
    return [*carry] if case.cell == "lstm" else [carry]


def _step(case: Case, kind: Any) -> Any:
    cell = kind(case.hidden, dtype=case.dtype, recurrent_initializer="zeros")
    cell.build((1, case.inputs))
    fixed = [v.value for v in cell.non_trainable_variables]

    def step(params, carry, x):
        states = _states(case, carry)
        (y, carry), _ = cell.stateless_call(params[0], fixed, x, states)
        return tuple(carry) if case.cell == "lstm" else carry[0], y

    return step


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    kinds: dict[str, tuple[Any, Any]] = {
        "lstm": (keras.layers.LSTM, keras.layers.LSTMCell),
        "gru": (keras.layers.GRU, keras.layers.GRUCell),
        "elman": (keras.layers.SimpleRNN, keras.layers.SimpleRNNCell),
        "convolutional": (_images, None),
    }
    # The same with one argument more.
    other = {"relu": {"activation": "relu"}, "reset_before": {"reset_after": False}}
    base = {"relu": "elman", "reset_before": "gru"}.get(case.cell, case.cell)
    if base not in kinds:
        raise LeftOut("it has no MGU, and projects no LSTM")
    kind, cell_kind = kinds[base]
    kind = functools.partial(kind, **other.get(case.cell, {}))
    streams = case.mode in ("step", "chunk")
    options: dict[str, Any] = {"return_sequences": True, "zero_output_for_mask": True}
    # Orthogonal weights, its default, cannot be drawn in bfloat16.
    options |= {"dtype": case.dtype, "recurrent_initializer": "zeros"}
    rnns: list[Any] = []
    if case.bidirectional:
        inner = kind(case.hidden, **options)
        rnns = [keras.layers.Bidirectional(inner, dtype=case.dtype)]
    else:
        for _ in layers:
            rnns.append(kind(case.hidden, return_state=streams, **options))
    inputs = case.inputs
    for rnn in rnns:
        rnn.build((case.batch, case.time, *image_of(case), inputs))
        inputs = len(layers) // len(rnns) * case.hidden
    variables = [variable for rnn in rnns for variable in rnn.trainable_variables]
    for variable, value in zip(variables, _arrays(case, layers), strict=True):
        variable.assign(value)
    fixed = [[v.value for v in rnn.non_trainable_variables] for rnn in rnns]

    def unroll(params, xs, lengths):
        rest = {}
        if lengths is not None:
            rest["mask"] = jnp.arange(case.time) < lengths[:, None]
        for rnn, own, other in zip(rnns, params, fixed, strict=True):
            xs, _ = rnn.stateless_call(own, other, xs, **rest)
        return xs

    def common(params):
        flat = [weight for own in params for weight in own]
        return [_layer(case, flat[i : i + 3]) for i in range(0, len(flat), 3)]

    def chunk(params, carry, xs):
        (ys, *carry), _ = rnns[0].stateless_call(
            params[0], fixed[0], xs, initial_state=_states(case, carry)
        )
        return tuple(carry) if case.cell == "lstm" else carry[0], ys

    h = jnp.zeros((1, case.hidden), case.dtype)
    return jax_driver.Model(
        params=[[v.value for v in rnn.trainable_variables] for rnn in rnns],
        layers=common,
        unroll=unroll,
        carry=(h, h) if case.cell == "lstm" else h,
        step=_step(case, cell_kind) if streams else None,
        chunk=chunk,
    )


prepare = functools.partial(jax_driver.prepare, build)
