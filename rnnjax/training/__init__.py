"""What stands around a cell in training: epochs, predictions, checkpoints, runs.

Everything works on pytrees and plain functions, so any model and any optax optimizer
fits; nothing here knows about cells.
"""

from rnnjax.training.checkpoint import restore, save
from rnnjax.training.loop import LossFn, TrainState, epoch, init, predict
from rnnjax.training.run import environment, fit, parameter_count, resume

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
