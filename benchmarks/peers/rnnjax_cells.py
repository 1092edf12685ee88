"""rnnjax through its public interface, every option at its default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import rnnjax
from benchmarks import jax_driver
from benchmarks.workloads import Case, Layer, image_of, outputs_of

PACKAGES = ("rnnjax", "jax", "jaxlib", "numpy", "optax")


def about() -> str:
    """Which program runs each cell here."""
    return str(rnnjax.kernels.status())


def _params(cell: str, layer: Layer):
    w_ih, w_hh, b, b_hn, w_proj = jax.tree.map(jnp.asarray, layer)
    if cell in ("gru", "reset_before"):
        return rnnjax.GRUParams(w_ih, w_hh, b, b_hn)
    if cell == "mgu":
        return rnnjax.MGUParams(w_ih, w_hh, b, b_hn)
    if cell == "projected":
        return rnnjax.FullLSTMParams(w_ih, w_hh, b, None, w_proj, None)
    kinds = {"lstm": rnnjax.LSTMParams, "convolutional": rnnjax.ConvLSTMParams}
    return kinds.get(cell, rnnjax.ElmanParams)(w_ih, w_hh, b)


def network(
    case: Case, layers: list[Layer], traversal: Any = None
) -> tuple[rnnjax.Cell, Any]:
    """The cell of a case and its params, which other peers may convert."""
    make: Any = {
        "lstm": rnnjax.lstm,
        "gru": rnnjax.gru,
        "elman": rnnjax.elman,
        "relu": functools.partial(rnnjax.elman, activation=jax.nn.relu),
        "reset_before": functools.partial(rnnjax.gru, reset_after=False),
        "mgu": functools.partial(rnnjax.mgu, reset_after=True),
        "projected": functools.partial(
            rnnjax.full_lstm, projection_size=outputs_of(case)
        ),
        "convolutional": rnnjax.conv_lstm,
    }[case.cell]
    if case.checkpointed:
        make = functools.partial(make, traversal=rnnjax.scan.checkpointed)
    if traversal is not None:
        make = functools.partial(make, traversal=traversal)
    params = tuple(_params(case.cell, layer) for layer in layers)
    image = image_of(case)
    cell = make((*image, case.inputs) if image else case.inputs, case.hidden)
    if case.bidirectional:
        return rnnjax.bidirectional(cell), params
    if case.layers > 1:
        deeper = [make(case.hidden, case.hidden)] * (case.layers - 1)
        return rnnjax.stack(cell, *deeper), params
    return cell, params[0]


def build(case: Case, layers: list[Layer], traversal: Any = None) -> jax_driver.Model:
    cell, params = network(case, layers, traversal)

    def singles(params, xs, lengths):
        def one(xs):
            return cell.unroll(params, cell.initial_carry(params), xs)[1]

        return jax.vmap(one)(xs)

    def batch(params, xs, lengths):
        return rnnjax.unroll(cell, params, xs, lengths=lengths)[1]

    def common(params):
        one = case.layers == 1 and not case.bidirectional
        each = [params] if one else params
        rest = "b_hn", "w_proj"
        return [
            Layer(p.w_ih, p.w_hh, p.b, *(getattr(p, name, None) for name in rest))
            for p in each
        ]

    def dense(w, b, rows):
        cell = rnnjax.dense(*w.shape)
        sequence = rows.reshape(-1, len(w))
        ys = cell.unroll(rnnjax.DenseParams(w, b), (), sequence)[1]
        return ys.reshape(*rows.shape[:-1], len(b))

    return jax_driver.Model(
        params=params,
        layers=common,
        unroll=singles if case.vmap else batch,
        carry=cell.initial_carry(params),
        step=None if case.bidirectional else cell.step,
        chunk=cell.unroll,
        batch_of_one=False,
        dense=dense,
        loss=rnnjax.sequence_loss,
    )


prepare = functools.partial(jax_driver.prepare, build)
