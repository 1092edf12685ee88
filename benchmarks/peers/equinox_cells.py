"""Equinox: `jax.lax.scan` of ``eqx.nn.LSTMCell`` and ``GRUCell`` under `jax.vmap`."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks import jax_driver
from benchmarks.peers import LeftOut
from benchmarks.workloads import Case, Layer

PACKAGES = ("equinox", "jax", "jaxlib", "numpy", "optax")


def _cell(case: Case, layer: Layer):
    kind = eqx.nn.LSTMCell if case.cell == "lstm" else eqx.nn.GRUCell
    cell = kind(layer.w_ih.shape[0], case.hidden, key=jax.random.key(0))

    def weights(cell):
        rest = [] if layer.b_hn is None else [cell.bias_n]
        return [cell.weight_ih, cell.weight_hh, cell.bias, *rest]

    rest = [] if layer.b_hn is None else [layer.b_hn]
    values = [layer.w_ih.T, layer.w_hh.T, layer.b, *rest]
    return eqx.tree_at(weights, cell, values)


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.cell not in ("lstm", "gru"):
        raise LeftOut("it has an LSTM and a GRU, and no other recurrent cell")
    zeros = jnp.zeros(case.hidden, case.dtype)
    start = (zeros, zeros) if case.cell == "lstm" else zeros

    def step(cell, carry, x):
        carry = cell(x, carry)
        return carry, carry[0] if case.cell == "lstm" else carry

    def one_sequence(params, xs, length):
        def hold(cell, carry, inputs):
            x, valid = inputs
            after, y = step(cell, carry, x)
            keep = functools.partial(jnp.where, valid)
            return jax.tree.map(keep, after, carry), keep(y, 0)

        depth = 2 if case.bidirectional else 1
        for first in range(0, len(params), depth):
            directions = []
            for backwards, cell in enumerate(params[first : first + depth]):
                walk, inputs = functools.partial(step, cell), xs
                if length is not None:
                    # Backwards the padding comes first, and the carry stays at zero.
                    walk = functools.partial(hold, cell)
                    inputs = xs, jnp.arange(case.time) < length
                reverse = bool(backwards)
                directions.append(jax.lax.scan(walk, start, inputs, reverse=reverse)[1])
            xs = jnp.concatenate(directions, axis=-1)
        return xs

    def unroll(params, xs, lengths):
        return jax.vmap(one_sequence, in_axes=(None, 0, 0))(params, xs, lengths)

    def common(params):
        return [
            Layer(
                p.weight_ih.T,
                p.weight_hh.T,
                p.bias,
                p.bias_n if case.cell == "gru" else None,
            )
            for p in params
        ]

    return jax_driver.Model(
        params=[_cell(case, layer) for layer in layers],
        layers=common,
        unroll=unroll,
        carry=start,
        step=lambda params, carry, x: step(params[0], carry, x),
        chunk=lambda params, carry, xs: jax.lax.scan(
            functools.partial(step, params[0]), carry, xs
        ),
        batch_of_one=False,
    )


prepare = functools.partial(jax_driver.prepare, build)
