"""Sequences that a cell continues by itself: the loop, tokens, beams."""

from rnnjax.decoding.beam import Beams, beam_search
from rnnjax.decoding.loop import Next, Raw, raw_unroll
from rnnjax.decoding.tokens import (
    Generated,
    generate,
    greedy,
    sample,
    scheduled_sampling,
    sequence_loss,
)

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
    "scheduled_sampling",
    "sequence_loss",
]
