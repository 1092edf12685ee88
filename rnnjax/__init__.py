"""Recurrent neural networks for JAX: a cell is four pure functions.

Start with `lstm`, `gru` or `elman`, combine them with `stack` and `bidirectional`, run
a batch with `unroll`, and train with optax, for example by `rnnjax.training`.
"""

from rnnjax import initializers, kernels, scan, testing, training
from rnnjax.cell import Cell, NoStepError, Reset, Spec, constructor
from rnnjax.cells import (
    ElmanParams,
    GRUParams,
    LSTMCarry,
    LSTMParams,
    elman,
    gru,
    lstm,
)
from rnnjax.combinators import (
    DenseParams,
    LearnedCarryParams,
    bidirectional,
    dense,
    dropout,
    embedding,
    learned_carry,
    parallel,
    pointwise,
    residual,
    reverse,
    stack,
)
from rnnjax.recurrence import recurrence
from rnnjax.trace import Trace, observe, trace
from rnnjax.unroll import carry_spec, output_spec, static_unroll, unroll

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "DenseParams",
    "ElmanParams",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LearnedCarryParams",
    "NoStepError",
    "Reset",
    "Spec",
    "Trace",
    "bidirectional",
    "carry_spec",
    "constructor",
    "dense",
    "dropout",
    "elman",
    "embedding",
    "gru",
    "initializers",
    "kernels",
    "learned_carry",
    "lstm",
    "observe",
    "output_spec",
    "parallel",
    "pointwise",
    "recurrence",
    "residual",
    "reverse",
    "scan",
    "stack",
    "static_unroll",
    "testing",
    "trace",
    "training",
    "unroll",
]
