"""Gradients while a sequence goes on, with no way back through time.

A `Learner` carries forward how the state depends on the params, exactly or roughly, so
that the gradient of every step's loss is there at that step. Its memory does not grow
with the sequence.
"""

from rnnjax.online.kronecker import kf_rtrl
from rnnjax.online.learning import Learner, LearnerState, Rule, learner
from rnnjax.online.rules import rtrl, uoro
from rnnjax.online.truncated import tbptt
from rnnjax.online.unitwise import e_prop, snap, units

__all__ = [
    "Learner",
    "LearnerState",
    "Rule",
    "e_prop",
    "kf_rtrl",
    "learner",
    "rtrl",
    "snap",
    "tbptt",
    "units",
    "uoro",
]
