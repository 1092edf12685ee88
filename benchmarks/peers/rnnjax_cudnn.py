"""rnnjax's LSTM through cuDNN, which is an option."""

import functools

import rnnjax
from benchmarks import jax_driver
from benchmarks.peers import LeftOut, rnnjax_cells
from benchmarks.workloads import Case, Layer

PACKAGES = rnnjax_cells.PACKAGES


def build(case: Case, layers: list[Layer]) -> jax_driver.Model:
    if case.cell != "lstm" or case.checkpointed:
        raise LeftOut("kernels.lstm_cudnn is for the LSTM")
    return rnnjax_cells.build(case, layers, rnnjax.kernels.lstm_cudnn)


prepare = functools.partial(jax_driver.prepare, build)
