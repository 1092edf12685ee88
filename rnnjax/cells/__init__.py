"""The cells, one file for each family."""

from rnnjax.cells.elman import ElmanParams, elman
from rnnjax.cells.gru import GRUParams, gru
from rnnjax.cells.lstm import LSTMCarry, LSTMParams, lstm

__all__ = [
    "ElmanParams",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "elman",
    "gru",
    "lstm",
]
