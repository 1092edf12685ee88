"""Flax nnx: ``nnx.RNN`` over ``OptimizedLSTMCell``, ``GRUCell`` and ``SimpleCell``."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import jax_driver
from benchmarks.peers import LeftOut
from benchmarks.workloads import Case, Layer

PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")


def _cell(case: Case, inputs: int, layer: Layer) -> Any:
    kind: dict[str, Any] = {
        "lstm": nnx.OptimizedLSTMCell,
        "gru": nnx.GRUCell,
        "elman": nnx.SimpleCell,
        "relu": functools.partial(nnx.SimpleCell, activation_fn=jax.nn.relu),
    }
    if case.cell not in kind:
        raise LeftOut("it has no MGU, projects no LSTM, and its GRU resets after")
    cell: Any = kind[case.cell](inputs, case.hidden, dtype=case.dtype, rngs=nnx.Rngs(0))
    # Of its carry. Told when it is made, it would draw orthogonal weights too, which
    # JAX cannot do in bfloat16.
    cell.param_dtype = jnp.dtype(case.dtype)
    if layer.b_hn is not None:
        # Its GRU has no bias inside the reset gate. With a bias in the recurrent
        # product, as in torch, the equations are the same; nothing else changes.
        size = layer.b.size
        cell.dense_h = nnx.Linear(case.hidden, size, rngs=nnx.Rngs(0))
        bias = np.concatenate([np.zeros(size - case.hidden), layer.b_hn])
        cell.dense_h.bias = nnx.Param(jnp.asarray(bias, case.dtype))
    cell.dense_i.kernel = nnx.Param(jnp.asarray(layer.w_ih, case.dtype))
    cell.dense_h.kernel = nnx.Param(jnp.asarray(layer.w_hh, case.dtype))
    biased = cell.dense_h if case.cell == "lstm" else cell.dense_i
    biased.bias = nnx.Param(jnp.asarray(layer.b, case.dtype))
    return cell


def _layer(case: Case, cell: Any) -> Layer:
    biased = cell.dense_h if case.cell == "lstm" else cell.dense_i
    b_hn = cell.dense_h.bias[...][-case.hidden :] if case.cell == "gru" else None
    w_ih, w_hh = cell.dense_i.kernel[...], cell.dense_h.kernel[...]
    return Layer(w_ih, w_hh, biased.bias[...], b_hn)


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    cells = [_cell(case, layer.w_ih.shape[0], layer) for layer in layers]
    networks: list[Any] = [nnx.RNN(cell) for cell in cells]
    if case.bidirectional:
        networks = [nnx.Bidirectional(*networks)]
    graph, params, rest = nnx.split(nnx.List(networks), nnx.Param, ...)

    def merge(params):
        # A copy, for the layers count up a key of their own inside the trace.
        return nnx.merge(graph, params, jax.tree.map(jnp.array, rest))

    def unroll(params, xs, lengths):
        for network in merge(params):
            xs = network(xs, seq_lengths=lengths)
        if lengths is None:
            return xs
        # Its outputs go on after a sequence's end; everybody else's are zero there.
        return jnp.where(jnp.arange(case.time)[:, None] < lengths[:, None, None], xs, 0)

    def common(params):
        found = list(merge(params))
        if case.bidirectional:
            found = [found[0].forward_rnn, found[0].backward_rnn]
        return [_layer(case, network.cell) for network in found]

    def step(params, carry, x):
        return merge(params)[0].cell(carry, x)

    def chunk(params, carry, xs):
        network = merge(params)[0]
        return network(xs, initial_carry=carry, return_carry=True)

    return jax_driver.Model(
        params=params,
        layers=common,
        unroll=unroll,
        carry=cells[0].initialize_carry((1, case.inputs), nnx.Rngs(0)),
        step=step,
        chunk=chunk,
    )


prepare = functools.partial(jax_driver.prepare, build)
