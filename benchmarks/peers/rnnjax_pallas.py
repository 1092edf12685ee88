"""rnnjax's LSTM and GRU in one kernel written in Pallas, which is an option."""

import functools

import jax.numpy as jnp

import rnnjax
from benchmarks import jax_driver
from benchmarks.peers import DEVICE, TF32, LeftOut, rnnjax_cells
from benchmarks.workloads import Case, Layer
from rnnjax.kernels import equations, shared_memory

PACKAGES = rnnjax_cells.PACKAGES
TRAVERSALS = {
    "lstm": (rnnjax.kernels.lstm_pallas, equations.LSTM),
    "gru": (rnnjax.kernels.gru_pallas, equations.GRU),
}


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.cell not in TRAVERSALS or case.checkpointed:
        raise LeftOut("Pallas has kernels for the LSTM and the GRU")
    if DEVICE == "gpu" and not TF32:
        raise LeftOut("its products are rounded to TF32: add --tf32")
    traversal, cell = TRAVERSALS[case.cell]
    if not shared_memory.fits(cell, case.hidden, jnp.float32):
        raise LeftOut("the weights do not fit into the shared memory of a block")
    return rnnjax_cells.build(case, layers, traversal)


prepare = functools.partial(jax_driver.prepare, build)
