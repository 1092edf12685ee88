"""rnnjax through its public interface, every option at its default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import rnnjax
from benchmarks import jax_driver
from benchmarks.workloads import Case, Layer

PACKAGES = ("rnnjax", "jax", "jaxlib", "numpy", "optax")


def about() -> str:
    """Which program runs each cell here."""
    return str(rnnjax.kernels.status())


def _params(cell: str, layer: Layer):
    w_ih, w_hh, b = map(jnp.asarray, layer[:3])
    if layer.b_hn is not None:
        return rnnjax.GRUParams(w_ih, w_hh, b, jnp.asarray(layer.b_hn))
    kind = rnnjax.LSTMParams if cell == "lstm" else rnnjax.ElmanParams
    return kind(w_ih, w_hh, b)


def network(
    case: Case, layers: list[Layer], traversal: Any = None
) -> tuple[rnnjax.Cell, Any]:
    """The cell of a case and its params, which other peers may convert."""
    make = {"lstm": rnnjax.lstm, "gru": rnnjax.gru, "elman": rnnjax.elman}[case.cell]
    if case.checkpointed:
        make = functools.partial(make, traversal=rnnjax.scan.checkpointed)
    if traversal is not None:
        make = functools.partial(make, traversal=traversal)
    params = tuple(_params(case.cell, layer) for layer in layers)
    cell = make(case.inputs, case.hidden)
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
        return [Layer(p.w_ih, p.w_hh, p.b, getattr(p, "b_hn", None)) for p in each]

    return jax_driver.Model(
        params=params,
        layers=common,
        unroll=singles if case.vmap else batch,
        carry=cell.initial_carry(params),
        step=None if case.bidirectional else cell.step,
        chunk=cell.unroll,
        batch_of_one=False,
    )


prepare = functools.partial(jax_driver.prepare, build)
