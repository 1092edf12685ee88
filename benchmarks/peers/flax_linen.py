"""Flax linen: ``nn.RNN`` over ``OptimizedLSTMCell``, ``GRUCell`` and ``SimpleCell``."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.workloads import Case, Layer

PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")


def _params(cell: str, layer: Layer) -> dict[str, Any]:
    """The dense layers of each gate, as linen names them."""
    if cell == "elman":
        h = {"kernel": layer.w_hh}
        return {"i": {"kernel": layer.w_ih, "bias": layer.b}, "h": h}
    gates = "ifgo" if cell == "lstm" else "rzn"
    w_ih, w_hh, b = (jnp.split(w, len(gates), axis=-1) for w in layer[:3])
    made: dict[str, Any] = {}
    for k, gate in enumerate(gates):
        made["i" + gate], made["h" + gate] = {"kernel": w_ih[k]}, {"kernel": w_hh[k]}
        made[("h" if cell == "lstm" else "i") + gate]["bias"] = b[k]
    if layer.b_hn is not None:
        made["hn"]["bias"] = layer.b_hn
    return made


def _layer(cell: str, params: dict[str, Any]) -> Layer:
    if cell == "elman":
        i, h = params["i"], params["h"]
        return Layer(i["kernel"], h["kernel"], i["bias"], None)
    gates, bias = ("ifgo", "h") if cell == "lstm" else ("rzn", "i")

    def join(prefix, name):
        return jnp.concatenate([params[prefix + g][name] for g in gates], axis=-1)

    b_hn = params["hn"]["bias"] if cell == "gru" else None
    return Layer(join("i", "kernel"), join("h", "kernel"), join(bias, "bias"), b_hn)


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    kind = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    cell = kind[case.cell](case.hidden)
    params: Any = [{"cell": _params(case.cell, layer)} for layer in layers]
    rnn = nn.RNN(cell)
    if case.bidirectional:
        rnn = nn.Bidirectional(rnn, nn.RNN(kind[case.cell](case.hidden)))
        params = [{"forward_rnn": params[0], "backward_rnn": params[1]}]

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
        params=jax.tree.map(jnp.asarray, params),
        layers=common,
        unroll=singles if case.vmap else unroll,
        carry=cell.initialize_carry(jax.random.key(0), (1, case.inputs)),
        step=step,
        chunk=chunk,
    )


prepare = functools.partial(jax_driver.prepare, build)
