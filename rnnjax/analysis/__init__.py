"""Looking into a cell: what it is made of, and what it computes at every step."""

from rnnjax.analysis import plot
from rnnjax.analysis.description import Description, describe
from rnnjax.analysis.gradients import carry_gradients
from rnnjax.analysis.solving import newton_report
from rnnjax.analysis.tracing import Trace, trace

__all__ = [
    "Description",
    "Trace",
    "carry_gradients",
    "describe",
    "newton_report",
    "plot",
    "trace",
]
