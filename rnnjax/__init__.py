"""Recurrent neural networks for JAX: a cell is four pure functions.

Start with `lstm`, `gru` or `elman`, combine them with `stack` and `bidirectional`, run
a batch with `unroll`, and train with optax, for example by `rnnjax.training`.
"""

from rnnjax import initializers, scan, testing
from rnnjax.cell import Cell, Keys, NoStepError, Reset, Spec, constructor
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
    embedding,
    learned_carry,
    parallel,
    pointwise,
    residual,
    reverse,
    stack,
    time_distributed,
)
from rnnjax.noise import drop_connect, dropout, with_dropout, zoneout
from rnnjax.recurrence import recurrence
from rnnjax.trace import Trace, observe, trace
from rnnjax.unroll import carry_spec, output_spec, static_unroll, unroll

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "DenseParams",
    "ElmanParams",
    "GRUParams",
    "Keys",
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
    "drop_connect",
    "dropout",
    "elman",
    "embedding",
    "gru",
    "initializers",
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
    "time_distributed",
    "trace",
    "unroll",
    "with_dropout",
    "zoneout",
]
