"""The cells, one file for each family."""

from rnnjax.cells.clockwork import ClockworkCarry, ClockworkParams, clockwork
from rnnjax.cells.convolutional import (
    ConvGRUParams,
    ConvLSTMParams,
    conv_gru,
    conv_lstm,
)
from rnnjax.cells.delta import (
    DeltaNetParams,
    GatedDeltaNetParams,
    delta_net,
    gated_delta_net,
)
from rnnjax.cells.diagonal import ComplexCarry
from rnnjax.cells.elman import ElmanParams, elman
from rnnjax.cells.full_lstm import FullLSTMNorm, FullLSTMParams, full_lstm
from rnnjax.cells.gated_linear import GatedLinearAttentionParams, gated_linear_attention
from rnnjax.cells.grid_lstm import GridLSTMParams, grid_lstm
from rnnjax.cells.grouped_lstm import GroupedLSTMParams, glstm
from rnnjax.cells.gru import GRUParams, gru
from rnnjax.cells.independent import IndependentParams, indrnn, indy_gru, indy_lstm
from rnnjax.cells.layer_norm import (
    LayerNormElmanParams,
    LayerNormGRUParams,
    layer_norm_elman,
    layer_norm_gru,
    normalize,
)
from rnnjax.cells.leaky import (
    LeakyParams,
    LowRankParams,
    dale_rnn,
    leaky_rnn,
    low_rank_rnn,
)
from rnnjax.cells.liquid import CfCParams, LTCParams, Synapses, cfc, ltc
from rnnjax.cells.lru import LRUParams, lru
from rnnjax.cells.lstm import LSTMCarry, LSTMParams, lstm
from rnnjax.cells.mgu import MGUParams, mgu
from rnnjax.cells.minimal_linear import MinimalParams, min_gru, min_lstm
from rnnjax.cells.nas import NASParams, nas
from rnnjax.cells.oscillators import (
    CoRNNCarry,
    CoRNNParams,
    LEMCarry,
    LEMParams,
    cornn,
    lem,
)
from rnnjax.cells.phased_lstm import PhasedLSTMParams, phased_lstm
from rnnjax.cells.reservoir import EchoStateParams, echo_state
from rnnjax.cells.rg_lru import RGLRUParams, rg_lru
from rnnjax.cells.s4d import S4DParams, s4d
from rnnjax.cells.s5 import S5Params, s5
from rnnjax.cells.selective import SelectiveSSMParams, selective_ssm
from rnnjax.cells.sru import SRUParams, sru
from rnnjax.cells.stable import (
    AntisymmetricParams,
    LipschitzParams,
    antisymmetric_rnn,
    lipschitz_rnn,
)
from rnnjax.cells.unitary import UnitaryParams, unitary
from rnnjax.cells.update_gate import (
    IntersectionRNNParams,
    UGRNNParams,
    intersection_rnn,
    ugrnn,
)
from rnnjax.cells.xlstm import (
    MLSTMCarry,
    MLSTMParams,
    SLSTMCarry,
    SLSTMParams,
    mlstm,
    slstm,
)

__all__ = [
    "AntisymmetricParams",
    "CfCParams",
    "ClockworkCarry",
    "ClockworkParams",
    "CoRNNCarry",
    "CoRNNParams",
    "ComplexCarry",
    "ConvGRUParams",
    "ConvLSTMParams",
    "DeltaNetParams",
    "EchoStateParams",
    "ElmanParams",
    "FullLSTMNorm",
    "FullLSTMParams",
    "GRUParams",
    "GatedDeltaNetParams",
    "GatedLinearAttentionParams",
    "GridLSTMParams",
    "GroupedLSTMParams",
    "IndependentParams",
    "IntersectionRNNParams",
    "LEMCarry",
    "LEMParams",
    "LRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LTCParams",
    "LayerNormElmanParams",
    "LayerNormGRUParams",
    "LeakyParams",
    "LipschitzParams",
    "LowRankParams",
    "MGUParams",
    "MLSTMCarry",
    "MLSTMParams",
    "MinimalParams",
    "NASParams",
    "PhasedLSTMParams",
    "RGLRUParams",
    "S4DParams",
    "S5Params",
    "SLSTMCarry",
    "SLSTMParams",
    "SRUParams",
    "SelectiveSSMParams",
    "Synapses",
    "UGRNNParams",
    "UnitaryParams",
    "antisymmetric_rnn",
    "cfc",
    "clockwork",
    "conv_gru",
    "conv_lstm",
    "cornn",
    "dale_rnn",
    "delta_net",
    "echo_state",
    "elman",
    "full_lstm",
    "gated_delta_net",
    "gated_linear_attention",
    "glstm",
    "grid_lstm",
    "gru",
    "indrnn",
    "indy_gru",
    "indy_lstm",
    "intersection_rnn",
    "layer_norm_elman",
    "layer_norm_gru",
    "leaky_rnn",
    "lem",
    "lipschitz_rnn",
    "low_rank_rnn",
    "lru",
    "lstm",
    "ltc",
    "mgu",
    "min_gru",
    "min_lstm",
    "mlstm",
    "nas",
    "normalize",
    "phased_lstm",
    "rg_lru",
    "s4d",
    "s5",
    "selective_ssm",
    "slstm",
    "sru",
    "ugrnn",
    "unitary",
]
