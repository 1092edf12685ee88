"""Flax linen: ``nn.RNN`` over ``OptimizedLSTMCell``, ``GRUCell`` and others."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.peers import LeftOut, rnnjax_cells
from benchmarks.workloads import KERNEL, Case, Layer, image_of
from rnnjax import interop

PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")


def _arrays(case: Case, layers: list[Layer]) -> list[Any]:
    """The arrays of each layer by their names in linen."""
    if case.cell == "convolutional":
        w_ih, w_hh, b = map(jax_driver.exchanged, layers[0][:3])
        b -= jax_driver.exchanged(jax_driver.forget_bias(case))
        ih, hh = {"kernel": w_ih, "bias": b}, {"kernel": w_hh}
        return [{"cell": {"ih": ih, "hh": hh | {"bias": jnp.zeros_like(b)}}}]
    arrays = interop.to_linen(*rnnjax_cells.network(case, layers)).arrays
    return [*arrays.values()] if "layers_0" in arrays else [arrays]


def _layer(cell: str, params: dict[str, Any]) -> Layer:
    if cell == "convolutional":
        ih, hh = params["ih"], params["hh"]
        arrays = ih["kernel"], hh["kernel"], ih["bias"]
        w_ih, w_hh, b = map(jax_driver.exchanged, arrays)
        return Layer(w_ih, w_hh, b, None)
    if cell in ("elman", "relu"):
        i, h = params["i"], params["h"]
        return Layer(i["kernel"], h["kernel"], i["bias"], None)
    gates, bias = {"lstm": ("ifgo", "h"), "gru": ("rzn", "i"), "mgu": ("fn", "i")}[cell]

    def join(prefix, name):
        return jnp.concatenate([params[prefix + g][name] for g in gates], axis=-1)

    b_hn = params["hn"]["bias"] if cell in ("gru", "mgu") else None
    return Layer(join("i", "kernel"), join("h", "kernel"), join(bias, "bias"), b_hn)


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    kind: dict[str, Any] = {
        "lstm": nn.OptimizedLSTMCell,
        "gru": nn.GRUCell,
        "elman": nn.SimpleCell,
        "relu": functools.partial(nn.SimpleCell, activation_fn=jax.nn.relu),
        "mgu": nn.MGUCell,
        "convolutional": functools.partial(nn.ConvLSTMCell, kernel_size=KERNEL),
    }
    if case.cell not in kind:
        raise LeftOut("it projects no LSTM, and its GRU resets after the product")
    make = functools.partial(kind[case.cell], case.hidden, param_dtype=case.dtype)
    cell = make()
    params: Any = _arrays(case, layers)
    rnn = nn.RNN(cell)
    if case.bidirectional:
        rnn = nn.Bidirectional(rnn, nn.RNN(make()))

    def unroll(params, xs: Any, lengths):
        for layer in params:
            xs = rnn.apply({"params": layer}, xs, seq_lengths=lengths)
        if lengths is None:
            return xs
        # Its outputs go on after a sequence's end; everybody else's are zero there.
        return jnp.where(jnp.arange(case.time)[:, None] < lengths[:, None, None], xs, 0)

    def singles(params, xs, lengths):
        return jax.vmap(lambda x: unroll(params, x, lengths))(xs)

    def common(params):
        if case.bidirectional:
            params = [params[0]["forward_rnn"], params[0]["backward_rnn"]]
        return [_layer(case.cell, layer["cell"]) for layer in params]

    def step(params, carry, x):
        return cell.apply({"params": params[0]["cell"]}, carry, x)

    def chunk(params, carry, xs):
        return rnn.apply(
            {"params": params[0]}, xs, initial_carry=carry, return_carry=True
        )

    return jax_driver.Model(
        params=params,
        layers=common,
        unroll=singles if case.vmap else unroll,
        carry=cell.initialize_carry(
            jax.random.key(0), (1, *image_of(case), case.inputs)
        ),
        step=step,
        chunk=chunk,
    )


prepare = functools.partial(jax_driver.prepare, build)
