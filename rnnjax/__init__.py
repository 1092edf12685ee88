"""Recurrent neural networks for JAX: a cell is four pure functions.

Start with `lstm`, `gru` or `elman`, combine them with `stack` and `bidirectional`, run
a batch with `unroll`, and train with optax, for example by `rnnjax.training`.
"""

from rnnjax import initializers, scan, testing
from rnnjax.attention import (
    AttentionCarry,
    AttentionParams,
    AttentionWindowCarry,
    AttentionWindowParams,
    attention,
    attention_window,
)
from rnnjax.beam import Beams, beam_search
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
from rnnjax.decoding import (
    Generated,
    generate,
    greedy,
    sample,
    scheduled_sampling,
    sequence_loss,
)
from rnnjax.noise import drop_connect, dropout, with_dropout, zoneout
from rnnjax.pooling import (
    attention_pool,
    last_valid,
    masked_softmax,
    max_pool,
    mean_pool,
)
from rnnjax.raw import Next, Raw, raw_unroll
from rnnjax.recurrence import recurrence
from rnnjax.sequences import (
    Packed,
    boolean_mask,
    concatenate_carries,
    embedding_lookup,
    pack,
    pad_sequences,
    pad_to_bucket,
    reverse_sequence,
    sequence_mask,
    unpack,
    unpad_sequences,
)
from rnnjax.trace import Trace, observe, trace
from rnnjax.unroll import carry_spec, output_spec, static_unroll, unroll
from rnnjax.wrappers import (
    HighwayParams,
    InitialCarryParams,
    highway,
    skip_stack,
    with_initial_carry,
)

__version__ = "0.1.0"

__all__ = [
    "AttentionCarry",
    "AttentionParams",
    "AttentionWindowCarry",
    "AttentionWindowParams",
    "Beams",
    "Cell",
    "DenseParams",
    "ElmanParams",
    "GRUParams",
    "Generated",
    "HighwayParams",
    "InitialCarryParams",
    "Keys",
    "LSTMCarry",
    "LSTMParams",
    "LearnedCarryParams",
    "Next",
    "NoStepError",
    "Packed",
    "Raw",
    "Reset",
    "Spec",
    "Trace",
    "attention",
    "attention_pool",
    "attention_window",
    "beam_search",
    "bidirectional",
    "boolean_mask",
    "carry_spec",
    "concatenate_carries",
    "constructor",
    "dense",
    "drop_connect",
    "dropout",
    "elman",
    "embedding",
    "embedding_lookup",
    "generate",
    "greedy",
    "gru",
    "highway",
    "initializers",
    "last_valid",
    "learned_carry",
    "lstm",
    "masked_softmax",
    "max_pool",
    "mean_pool",
    "observe",
    "output_spec",
    "pack",
    "pad_sequences",
    "pad_to_bucket",
    "parallel",
    "pointwise",
    "raw_unroll",
    "recurrence",
    "residual",
    "reverse",
    "reverse_sequence",
    "sample",
    "scan",
    "scheduled_sampling",
    "sequence_loss",
    "sequence_mask",
    "skip_stack",
    "stack",
    "static_unroll",
    "testing",
    "time_distributed",
    "trace",
    "unpack",
    "unpad_sequences",
    "unroll",
    "with_dropout",
    "with_initial_carry",
    "zoneout",
]
