"""Sequences that a cell writes by itself: the loop, tokens, beams, and training."""

from rnnjax.decoding.beam import Beams, beam_search
from rnnjax.decoding.loop import Next, Raw, raw_unroll
from rnnjax.decoding.scheduling import scheduled_outputs, scheduled_sampling
from rnnjax.decoding.tokens import Generated, generate, greedy, sample, sequence_loss

__all__ = [
    "Beams",
    "Generated",
    "Next",
    "Raw",
    "beam_search",
    "generate",
    "greedy",
    "raw_unroll",
    "sample",
    "scheduled_outputs",
    "scheduled_sampling",
    "sequence_loss",
]
