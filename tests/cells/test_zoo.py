"""Every cell of the zoo keeps the seven laws of `rnnjax.testing.check_cell`."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.testing import check_cell

X = np.ones(2)
TIMED = (X, np.ones(()))

CELLS = [
    (rnnjax.elman(2, 3), X),
    (rnnjax.gru(2, 3), X),
    (rnnjax.gru(2, 3, reset_after=False), X),
    (rnnjax.lstm(2, 3), X),
    (rnnjax.full_lstm(2, 3), X),
    (
        rnnjax.full_lstm(
            2,
            3,
            peepholes=True,
            projection_size=2,
            cell_clip=0.5,
            projection_clip=0.4,
            activation=jax.nn.soft_sign,
        ),
        X,
    ),
    (rnnjax.full_lstm(2, 3, layer_norm="gates", peepholes=True, cell_clip=0.9), X),
    (
        rnnjax.full_lstm(
            2, 3, layer_norm="products", coupled=True, peepholes=True, projection_size=4
        ),
        X,
    ),
    (rnnjax.layer_norm_elman(2, 3), X),
    (rnnjax.layer_norm_gru(2, 3), X),
    (rnnjax.mgu(2, 3), X),
    (rnnjax.mgu(2, 3, reset_after=True), X),
    (rnnjax.ugrnn(2, 3), X),
    (rnnjax.intersection_rnn(2), X),
    (rnnjax.indrnn(2, 3), X),
    (rnnjax.indy_lstm(2, 3), X),
    (rnnjax.indy_gru(2, 3), X),
    (rnnjax.sru(2, 3), X),
    (rnnjax.sru(2, 2, recurrent_gates=True), X),
    (rnnjax.nas(2, 3), X),
    (rnnjax.phased_lstm(2, 3, ratio_on=0.5, longest_period=4.0), TIMED),
    (rnnjax.phased_lstm(2, 3, peepholes=False), TIMED),
    (rnnjax.conv_lstm((4, 2), 2, 3), np.ones((4, 2))),
    (
        rnnjax.conv_lstm((5, 3, 1), 2, (3, 2), strides=2, padding="VALID"),
        np.ones((5, 3, 1)),
    ),
    (rnnjax.conv_lstm((2, 2, 2, 1), 1, 2), np.ones((2, 2, 2, 1))),
    (rnnjax.conv_gru((4, 3, 1), 2, 2, strides=(2, 1)), np.ones((4, 3, 1))),
    (rnnjax.glstm(2, 4, groups=2), X),
    (rnnjax.grid_lstm(2, 2, layers=2), X),
    (rnnjax.grid_lstm(2, 2, layers=2, depth_last=True), X),
    (rnnjax.min_gru(2, 3), X),
    (rnnjax.min_lstm(2, 3), X),
    (rnnjax.lru(2, 3), X),
    (rnnjax.s4d(2, 2), X),
    (rnnjax.s5(2, 3), X),
    (rnnjax.s5(2, 4, blocks=2, timed=True), TIMED),
    (rnnjax.rg_lru(2, blocks=2), X),
    (rnnjax.selective_ssm(2, 2), X),
    (rnnjax.slstm(2, 2), X),
    (rnnjax.mlstm(2, 2), X),
    (rnnjax.gated_linear_attention(2, 2, rank=1), X),
    (rnnjax.delta_net(2, 2), X),
    (rnnjax.gated_delta_net(2, 2), X),
    (rnnjax.cornn(2, 3), X),
    (rnnjax.antisymmetric_rnn(2, 3, gated=True), X),
    (rnnjax.lipschitz_rnn(2, 3), X),
    (rnnjax.unitary(2, 2), X),
    (rnnjax.clockwork(2, 4, periods=(1, 3)), X),
    (rnnjax.lem(2, 3), X),
    (rnnjax.echo_state(2, 3, density=1.0), X),
    (rnnjax.leaky_rnn(2, 3, noise=0.1), X),
    (rnnjax.dale_rnn(2, 4), X),
    (rnnjax.low_rank_rnn(2, 4, rank=2), X),
    (rnnjax.cfc(2, 3, backbone_size=4, backbone_layers=2), TIMED),
    (rnnjax.ltc(2, 2, solver_steps=2), TIMED),
]


@pytest.mark.drawn(0.15)
@pytest.mark.parametrize(("cell", "x"), CELLS, ids=lambda v: repr(v)[:60])
def test_contract(cell, x):
    check_cell(cell, x)


def test_the_table_holds_every_cell():
    def is_cell(name):
        made = getattr(rnnjax.cells, name)
        return callable(made) and "traversal" in inspect.signature(made).parameters

    public = {name for name in rnnjax.cells.__all__ if is_cell(name)}
    assert public == {cell.spec.name for cell, _ in CELLS}


@pytest.mark.drawn(0.3)
def test_times_keep_their_precision_beside_bfloat16_params():
    check_cell(rnnjax.phased_lstm(2, 3, peepholes=False), TIMED, dtype=jnp.bfloat16)
