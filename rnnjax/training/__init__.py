"""Training: epochs, predictions, checkpoints, and runs that can be resumed.

Everything works on pytrees and plain functions, so it takes any model and any optax
optimizer; nothing here knows about cells.
"""

from rnnjax.training.checkpoint import restore, save
from rnnjax.training.loop import LossFn, TrainState, epoch, init, predict
from rnnjax.training.report import environment, parameter_count
from rnnjax.training.run import fit, resume

__all__ = [
    "LossFn",
    "TrainState",
    "environment",
    "epoch",
    "fit",
    "init",
    "parameter_count",
    "predict",
    "restore",
    "resume",
    "save",
]
