"""Cells made of cells, and cells without a memory. All of them are a `Cell`."""

from rnnjax.combinators.attending import AttentionCarry, AttentionParams, attention
from rnnjax.combinators.blocks import griffin_block, residual_block
from rnnjax.combinators.convolving import CausalConvParams, causal_conv
from rnnjax.combinators.fitting import ridge_readout
from rnnjax.combinators.layers import (
    bidirectional,
    parallel,
    reverse,
    skip_stack,
    stack,
)
from rnnjax.combinators.memoryless import (
    DenseParams,
    dense,
    embedding,
    pointwise,
    time_distributed,
)
from rnnjax.combinators.noise import drop_connect, dropout, with_dropout, zoneout
from rnnjax.combinators.normalizing import LayerNormParams, layer_norm, rms_norm
from rnnjax.combinators.shortcuts import HighwayParams, highway, residual
from rnnjax.combinators.starting import (
    InitialCarryParams,
    LearnedCarryParams,
    learned_carry,
    with_initial_carry,
)
from rnnjax.combinators.timing import passing_time
from rnnjax.combinators.windows import (
    AttentionWindowCarry,
    AttentionWindowParams,
    attention_window,
)

__all__ = [
    "AttentionCarry",
    "AttentionParams",
    "AttentionWindowCarry",
    "AttentionWindowParams",
    "CausalConvParams",
    "DenseParams",
    "HighwayParams",
    "InitialCarryParams",
    "LayerNormParams",
    "LearnedCarryParams",
    "attention",
    "attention_window",
    "bidirectional",
    "causal_conv",
    "dense",
    "drop_connect",
    "dropout",
    "embedding",
    "griffin_block",
    "highway",
    "layer_norm",
    "learned_carry",
    "parallel",
    "passing_time",
    "pointwise",
    "residual",
    "residual_block",
    "reverse",
    "ridge_readout",
    "rms_norm",
    "skip_stack",
    "stack",
    "time_distributed",
    "with_dropout",
    "with_initial_carry",
    "zoneout",
]
