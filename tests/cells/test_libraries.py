"""Values and gradients of real libraries, recorded by the scripts in ../recorded."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells
from rnnjax.cells import LSTMCarry

RECORDED = pathlib.Path(__file__).parents[1] / "recorded"


def lstm_params(p):
    return cells.LSTMParams(**p)


def full_lstm_params(p):
    return cells.FullLSTMParams(**({"peepholes": None, "w_proj": None} | p), norm=None)


def cfc_params(p):
    p = dict(p)
    return cells.CfCParams(backbone=((p.pop("w_2"), p.pop("b_2")),), **p)


def ltc_params(p):
    def synapses(kind):
        names = cells.Synapses._fields
        return cells.Synapses(*(p[f"{kind}.{name}"] for name in names))

    rest = {k: v for k, v in p.items() if "." not in k}
    return cells.LTCParams(synapses("sensory"), synapses("recurrent"), **rest)


def layer_norm_params(p):
    p, names = dict(p), cells.FullLSTMNorm._fields
    norm = cells.FullLSTMNorm(*(p.pop(name, None) for name in names))
    return cells.FullLSTMParams(**p, peepholes=None, w_proj=None, norm=norm)


def grid_params(p):
    # TensorFlow projects the input without a bias.
    return cells.GridLSTMParams(b_in=jnp.zeros(p["w_in"].shape[1]), **p)


def lstm_carry(c):
    return LSTMCarry(c["c"], c["h"])


def only(c):
    (carry,) = c.values()
    return carry


CASES = {
    "tf1_elman": (
        rnnjax.elman(2, 3),
        lambda p: cells.ElmanParams(**p),
        only,
    ),
    "tf1_gru": (
        rnnjax.gru(2, 3, reset_after=False),
        lambda p: cells.GRUParams(**p, b_hn=None),
        only,
    ),
    "tf1_basic_lstm": (rnnjax.lstm(2, 3), lstm_params, lstm_carry),
    "tf1_lstm_peepholes_tanh": (
        rnnjax.full_lstm(2, 3, peepholes=True, cell_clip=0.5),
        full_lstm_params,
        lstm_carry,
    ),
    "tf1_lstm_peepholes_softsign": (
        rnnjax.full_lstm(
            2, 3, peepholes=True, cell_clip=0.5, activation=jax.nn.soft_sign
        ),
        full_lstm_params,
        lstm_carry,
    ),
    "tf1_lstm_projection": (
        rnnjax.full_lstm(
            2,
            3,
            peepholes=True,
            cell_clip=0.8,
            projection_size=2,
            projection_clip=0.3,
        ),
        full_lstm_params,
        lstm_carry,
    ),
    "tf1_lstm_block": (rnnjax.lstm(2, 3), lstm_params, lstm_carry),
    "tf1_gru_block": (
        rnnjax.gru(2, 3, reset_after=False),
        lambda p: cells.GRUParams(**p, b_hn=None),
        only,
    ),
    "tf1_nas": (rnnjax.nas(2, 3), lambda p: cells.NASParams(**p), lstm_carry),
    "tf1_conv_lstm": (
        rnnjax.conv_lstm((5, 4, 2), 3, (3, 2)),
        lambda p: cells.ConvLSTMParams(**p),
        lstm_carry,
    ),
    "tf1_coupled": (
        rnnjax.full_lstm(
            2, 3, peepholes=True, coupled=True, projection_size=2, projection_clip=0.3
        ),
        full_lstm_params,
        lstm_carry,
    ),
    "tf1_layer_norm": (
        rnnjax.full_lstm(2, 3, layer_norm="gates", epsilon=1e-12),
        layer_norm_params,
        lstm_carry,
    ),
    "tf1_ugrnn": (rnnjax.ugrnn(2, 3), lambda p: cells.UGRNNParams(**p), only),
    "tf1_intersection": (
        rnnjax.intersection_rnn(3),
        lambda p: cells.IntersectionRNNParams(**p),
        only,
    ),
    "tf1_phased": (
        rnnjax.phased_lstm(2, 3, ratio_on=0.3),
        lambda p: cells.PhasedLSTMParams(**p),
        lstm_carry,
    ),
    "tf1_grouped": (
        rnnjax.glstm(4, 6, 2),
        lambda p: cells.GroupedLSTMParams(**p),
        lstm_carry,
    ),
    "tf1_grid": (rnnjax.grid_lstm(2, 3, 1), grid_params, lstm_carry),
    "tf1_grid2": (
        rnnjax.grid_lstm(2, 3, 1, depth_last=True),
        grid_params,
        lstm_carry,
    ),
    "tf1_indrnn": (
        rnnjax.indrnn(2, 3, activation=jnp.tanh),
        lambda p: cells.IndependentParams(**p),
        only,
    ),
    "tf1_indy_lstm": (
        rnnjax.indy_lstm(2, 3),
        lambda p: cells.IndependentParams(**p),
        lstm_carry,
    ),
    "tf1_indy_gru": (
        rnnjax.indy_gru(2, 3),
        lambda p: cells.IndependentParams(**p),
        only,
    ),
    "tf1_sru": (rnnjax.sru(2, 3), lambda p: cells.SRUParams(**p, v=None), only),
    "torch_lstm_projection": (
        rnnjax.full_lstm(2, 3, projection_size=2),
        full_lstm_params,
        lstm_carry,
    ),
    "addons_nas": (rnnjax.nas(2, 3), lambda p: cells.NASParams(**p), lstm_carry),
    "addons_layer_norm_elman": (
        rnnjax.layer_norm_elman(2, 3),
        lambda p: cells.LayerNormElmanParams(**p),
        only,
    ),
    "flax_mgu": (
        rnnjax.mgu(2, 3, reset_after=True),
        lambda p: cells.MGUParams(**p),
        only,
    ),
    "sru_first_version": (
        rnnjax.sru(2, 3),
        lambda p: cells.SRUParams(**p, v=None),
        only,
    ),
    "sru_recurrent_gates": (
        rnnjax.sru(2, 3, recurrent_gates=True, activation=jnp.asarray),
        lambda p: cells.SRUParams(**p),
        only,
    ),
    "keras_conv_lstm_1d": (
        rnnjax.conv_lstm((5, 2), 2, 3),
        lambda p: cells.ConvLSTMParams(**p),
        lstm_carry,
    ),
    "keras_conv_lstm_2d": (
        rnnjax.conv_lstm((5, 4, 2), 2, (3, 2), strides=2, padding="VALID"),
        lambda p: cells.ConvLSTMParams(**p),
        lstm_carry,
    ),
    "keras_conv_lstm_3d": (
        rnnjax.conv_lstm((3, 2, 3, 2), 2, 2, strides=(1, 2, 1)),
        lambda p: cells.ConvLSTMParams(**p),
        lstm_carry,
    ),
    "ncps_cfc": (
        rnnjax.cfc(2, 3, backbone_size=4, backbone_layers=2),
        cfc_params,
        only,
    ),
    "ncps_ltc": (rnnjax.ltc(2, 3), ltc_params, only),
}
# TensorFlow stops the gradient of the phase by the period.
OTHER_GRADIENTS = {("tf1_phased", "params.log_period")}


def part(recorded, prefix):
    return {
        k[len(prefix) :]: jnp.asarray(v)
        for k, v in recorded.items()
        if k.startswith(prefix)
    }


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_match(name):
    cell, make_params, make_carry = CASES[name]
    recorded = dict(np.load(RECORDED / f"{name}.npz"))
    floating = ("params.", "xs", "carry.", "elapsed", "times")
    given = {k: jnp.asarray(v) for k, v in recorded.items() if k.startswith(floating)}

    def run(given):
        xs = given["xs"]
        carry, ys = rnnjax.unroll(
            cell,
            make_params(part(given, "params.")),
            next(((xs, given[k]) for k in ("elapsed", "times") if k in given), xs),
            carry=make_carry(part(given, "carry.")),
            lengths=jnp.asarray(recorded["lengths"]),
        )
        return ys, carry

    # Compiled once: op by op the gradient of a scan costs many small compilations.
    def weighted(given):
        ys, carry = run(given)
        weights = part(recorded, "weight.")
        ones = (weights.pop("ys"), make_carry(part(weights, "last.")))
        products = jax.tree.map(lambda a, w: (a * w).sum(), (ys, carry), ones)
        return sum(jax.tree.leaves(products)), (ys, carry)

    grads, (ys, carry) = jax.jit(jax.grad(weighted, has_aux=True))(given)
    exact = all(recorded[key].dtype == np.float64 for key in (*given, "ys"))
    close = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=1e-12 if exact else 1e-5
    )
    close(ys, recorded["ys"])
    jax.tree.map(close, carry, make_carry(part(recorded, "last.")))
    for key, grad in grads.items():
        if (name, key) not in OTHER_GRADIENTS:
            close(grad, recorded[f"grad.{key}"], err_msg=key)


def test_every_recorded_case_is_compared():
    recorded = {path.stem for path in RECORDED.glob("*.npz")}
    recorded -= {"wrappers_tf1"}  # not cells
    recorded = {name for name in recorded if not name.startswith("braintrace_")}
    assert recorded == set(CASES)
