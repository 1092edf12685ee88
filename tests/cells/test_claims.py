"""What the papers say of their cells, and arguments that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

KEY = jax.random.key(11)


def drawn(cell, scale=0.7):
    leaves, structure = jax.tree.flatten(cell.init(KEY))
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            scale * jax.random.normal(k, a.shape)
            for k, a in zip(keys, leaves, strict=True)
        ],
    )


def unrolled(cell, params, xs, **signals):
    return cell.unroll(params, cell.initial_carry(params), xs, **signals)


def sequence(*shape):
    return jax.random.normal(jax.random.key(5), shape)


def test_full_lstm_without_variants_is_the_lstm():
    plain, full = rnnjax.lstm(2, 3), rnnjax.full_lstm(2, 3)
    params, whole = plain.init(KEY), drawn(full)
    whole = whole._replace(**params._asdict())
    expected = unrolled(plain, params, sequence(6, 2))
    jax.tree.map(
        np.testing.assert_allclose, unrolled(full, whole, sequence(6, 2)), expected
    )


def test_coupled_gates_share_out_the_memory():
    # Between the largest and the smallest of what it held and what it is offered.
    cell = rnnjax.full_lstm(2, 3, coupled=True)
    trace = rnnjax.trace(
        cell, drawn(cell), cell.initial_carry(drawn(cell)), sequence(9, 2)
    )
    np.testing.assert_allclose(trace["i"] + trace["f"], 1)
    assert jnp.abs(trace["c"]).max() <= 1


def test_clips_bound_memory_and_output():
    cell = rnnjax.full_lstm(
        2, 3, cell_clip=0.2, projection_size=2, projection_clip=0.05, forget_bias=3.0
    )
    params = drawn(cell, 3.0)
    trace = rnnjax.trace(cell, params, cell.initial_carry(params), sequence(9, 2))
    assert jnp.abs(trace["c"]).max() == 0.2
    assert jnp.abs(trace["h"]).max() == 0.05


@pytest.mark.parametrize("form", ["gates", "products"])
def test_layer_normalisation_undoes_a_scale_of_the_weights(form):
    cell = rnnjax.full_lstm(2, 3, layer_norm=form, epsilon=0.0)
    params = drawn(cell)
    louder = params._replace(w_ih=7 * params.w_ih, w_hh=7 * params.w_hh)
    # Not from zero: the product of a carry of zeros has no variance to normalise.
    carry = jax.tree.map(
        lambda a: a + jnp.array([1.0, 2.0, -1.0]), cell.initial_carry(params)
    )
    one, other = (cell.unroll(p, carry, sequence(6, 2))[1] for p in (params, louder))
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_indrnn_gradient_through_time_is_a_power_of_u():
    cell = rnnjax.indrnn(2, 3)
    params = cell.init(KEY)._replace(b=jnp.full(3, 9.0))  # every unit is active

    def last(h):
        return cell.unroll(params, h, sequence(6, 2))[0]

    jacobian = jax.jacobian(last)(jnp.ones(3))
    np.testing.assert_allclose(jacobian, jnp.diag(params.u[0] ** 6), atol=1e-12)


ELEMENTWISE = [
    rnnjax.sru(2, 3),
    rnnjax.sru(2, 3, recurrent_gates=True),
    rnnjax.indy_gru(2, 3),
    rnnjax.min_gru(2, 3),
    rnnjax.min_lstm(2, 3),
]


@pytest.mark.parametrize("cell", ELEMENTWISE, ids=repr)
def test_recurrence_is_elementwise(cell):
    jacobian = jax.jacobian(lambda c: cell.unroll(drawn(cell), c, sequence(4, 2))[0])
    found = jacobian(jnp.array([0.3, -0.2, 0.5]))
    assert (jnp.diagonal(found) != 0).all()
    np.testing.assert_array_equal(found, jnp.diag(jnp.diagonal(found)))


LINEAR = [rnnjax.sru(2, 3), rnnjax.min_gru(2, 3), rnnjax.min_lstm(2, 3)]


@pytest.mark.parametrize("cell", LINEAR, ids=repr)
def test_carry_is_linear_in_the_carry(cell):
    def last(c):
        return cell.unroll(drawn(cell), c, sequence(4, 2))[0]

    a, b, zero = jnp.array([1.0, 2.0, 3.0]), jnp.array([-5.0, 0.5, 1.0]), jnp.zeros(3)
    np.testing.assert_allclose(last(a + b) - last(b), last(a) - last(zero), atol=1e-12)


def test_min_lstm_shares_survive_gates_that_are_both_shut():
    cell = rnnjax.min_lstm(1, 1)
    params = cell.init(KEY)._replace(b=jnp.array([-900.0, -900.0, 0.5]))
    params = params._replace(w=jnp.zeros_like(params.w))
    h, _ = unrolled(cell, params, jnp.ones((1, 1)))
    np.testing.assert_allclose(h, 0.25)


@pytest.mark.parametrize("cell", [rnnjax.ugrnn(2, 3), rnnjax.mgu(2, 3)], ids=repr)
def test_update_gate_averages(cell):
    # The state stays between the candidates, and with a shut gate where it was.
    params = drawn(cell)
    assert jnp.abs(unrolled(cell, params, sequence(20, 2))[1]).max() < 1
    keep = 50.0 if cell.spec.name == "ugrnn" else -50.0
    params = params._replace(b=params.b.at[:3].set(keep))
    h = jnp.array([0.5, -0.9, 0.1])
    np.testing.assert_allclose(cell.unroll(params, h, sequence(20, 2))[0], h, atol=1e-9)


def test_intersection_rnn_passes_its_input_on():
    cell = rnnjax.intersection_rnn(3)
    params = drawn(cell)
    params = params._replace(b=params.b.at[6:9].set(60.0))
    xs = sequence(5, 3)
    np.testing.assert_allclose(unrolled(cell, params, xs)[1], xs, atol=1e-9)


def test_groups_do_not_see_each_other():
    cell = rnnjax.glstm(4, 6, groups=2)
    jacobian = jax.jacobian(lambda xs: unrolled(cell, drawn(cell), xs)[1])(
        sequence(3, 4)
    )
    assert (jacobian[:, :3, :, 2:] == 0).all()
    assert (jacobian[:, 3:, :, :2] == 0).all()
    assert (jacobian[2, :3, 0, :2] != 0).all()


def test_grid_memory_runs_up_through_the_layers():
    # With gates that keep and let nothing in, what enters below arrives above.
    cell = rnnjax.grid_lstm(2, 3, layers=4)
    params = cell.init(KEY)
    b = jnp.stack([jnp.full(3, v) for v in (-60.0, 60.0, 0.0, 60.0)]).ravel()
    params = params._replace(
        w=jnp.zeros_like(params.w), b=jnp.broadcast_to(b, params.b.shape)
    )
    xs = sequence(2, 2)
    expected = jnp.tanh((xs @ params.w_in)[:, :3])
    np.testing.assert_allclose(unrolled(cell, params, xs)[1], expected, atol=1e-9)


def test_nas_output_and_memory_are_bounded():
    cell = rnnjax.nas(2, 3)
    (c, _), ys = unrolled(cell, drawn(cell, 5.0), 10 * sequence(9, 2))
    assert jnp.abs(c).max() <= 1
    assert jnp.abs(ys).max() <= np.tanh(1)


def test_phased_lstm_is_still_while_closed_and_periodic():
    cell = rnnjax.phased_lstm(2, 3, ratio_on=0.1, leak=0.0)
    params = drawn(cell)._replace(
        log_period=jnp.log(jnp.full(3, 8.0)), shift=jnp.zeros(3)
    )
    xs, h = sequence(4, 2), jnp.array([0.1, 0.2, 0.3])
    carry = rnnjax.cells.LSTMCarry(h, h)
    closed, _ = cell.unroll(params, carry, (xs, jnp.array([1.0, 3.0, 5.5, 7.9])))
    jax.tree.map(np.testing.assert_array_equal, closed, carry)
    times = jnp.array([0.1, 0.3, 0.4, 0.7])
    early, late = (cell.unroll(params, carry, (xs, times + t)) for t in (0.0, 8000.0))
    assert jnp.abs(early[0].h - h).min() > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), early, late)


@pytest.mark.parametrize("make", [rnnjax.conv_lstm, rnnjax.conv_gru])
def test_convolution_moves_with_its_input(make):
    cell = make((9, 1), 2, 3)
    params = drawn(cell)
    xs = jnp.zeros((2, 9, 1)).at[:, 3].set(sequence(2, 1))
    here = unrolled(cell, params._replace(b=0 * params.b), xs)[1]
    there = unrolled(cell, params._replace(b=0 * params.b), jnp.roll(xs, 2, axis=1))[1]
    np.testing.assert_allclose(jnp.roll(here, 2, axis=1), there, atol=1e-12)


def test_leaky_rnn_forgets_at_its_time_constant():
    cell = rnnjax.leaky_rnn(2, 3, dt=0.01)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    v, _ = cell.unroll(params, jnp.ones(3), jnp.zeros((100, 2)))
    np.testing.assert_allclose(v, np.exp(-1), rtol=0.01)


def test_leaky_noise_is_drawn_by_the_key_and_has_its_deviation():
    cell = rnnjax.leaky_rnn(2, 200, dt=0.05, noise=0.3)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    xs = jnp.zeros((400, 2))
    quiet, _ = unrolled(cell, params, xs)
    assert (quiet == 0).all()
    v, again, other = (
        unrolled(cell, params, xs, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    assert (v == again).all()
    assert (v != other).all()
    # 200 units, each 0.3 but for the discretisation, 1 / (1 - dt / 2).
    assert 0.26 < v.std() < 0.36


def test_dale_units_have_one_sign_each():
    cell = rnnjax.dale_rnn(2, 10)
    params = drawn(cell)

    def effect(r):
        # One step from rest, all else equal: what unit j does to the others.
        return cell.step(params, r, jnp.zeros(2))[0] - 0.8 * r

    jacobian = np.asarray(jax.jacobian(effect)(jnp.ones(10)))  # (to, from)
    off = ~np.eye(10, dtype=bool)
    assert (jacobian[:, :8][off[:, :8]] > 0).all()
    assert (jacobian[:, 8:][off[:, 8:]] < 0).all()
    assert (np.diag(jacobian) == 0).all()


def test_dale_weights_start_balanced_with_the_radius_of_the_paper():
    params = rnnjax.dale_rnn(2, 200).init(KEY)
    sign = np.where(np.arange(200) < 160, 1, -1)
    w = sign[:, None] * np.asarray(params.w_hh)
    np.testing.assert_allclose(w.sum(0), 0, atol=1e-4)
    assert 1.3 < np.abs(np.linalg.eigvals(w)).max() < 1.7


def test_low_rank_potential_falls_into_the_span_of_m():
    cell = rnnjax.low_rank_rnn(2, 6, rank=2, dt=0.5)
    params = drawn(cell)._replace(b=jnp.zeros(6))
    v, _ = cell.unroll(params, sequence(6), jnp.zeros((60, 2)))
    residue = np.linalg.lstsq(params.m, v)[1]
    assert residue < 1e-20


def test_liquid_cells_stand_still_in_no_time_and_stay_between_the_reversals():
    cell = rnnjax.ltc(2, 3)
    params = cell.init(KEY)
    v = jnp.array([0.3, -0.4, 0.9])
    still, _ = cell.unroll(params, v, (sequence(4, 2), jnp.zeros(4)))
    np.testing.assert_allclose(still, v, rtol=1e-12)
    # However large inputs and times are: theorem 2 of the paper.
    elapsed = jnp.array([0.1, 10.0, 1e3, 1e6])
    _, vs = cell.unroll(params, v, (1e3 * sequence(4, 2), elapsed))
    assert jnp.abs(vs).max() <= 1


def test_cfc_moves_from_one_state_to_another_with_time():
    cell = rnnjax.cfc(2, 3, backbone_size=4)
    params = drawn(cell)
    # a = 1 for every unit, b = 0: the longer the wait, the more of g there is.
    b_out = jnp.repeat(jnp.array([0.2, -0.6, 1.0, 0.0]), 3)
    params = params._replace(w_out=jnp.zeros_like(params.w_out), b_out=b_out)
    for elapsed, expected in ((-50.0, np.tanh(0.2)), (50.0, np.tanh(-0.6))):
        h, _ = unrolled(cell, params, (sequence(1, 2), jnp.array([elapsed])))
        np.testing.assert_allclose(h, expected, atol=1e-9)


WRONG = [
    (lambda: rnnjax.full_lstm(2, 3, projection_clip=1.0), "projection_size=3"),
    (lambda: rnnjax.full_lstm(2, 3, cell_clip=-1.0), "cell_clip=3.0"),
    (lambda: rnnjax.full_lstm(2, 3, layer_norm="batch"), "Write 'gates' for Ten"),  # pyright: ignore
    (lambda: rnnjax.phased_lstm(2, 3, ratio_on=1.5), "ratio_on=0.05"),
    (lambda: rnnjax.phased_lstm(2, 3, longest_period=0.1), "longest_period=1000"),
    (lambda: rnnjax.conv_lstm((4,), 2), "input_shape=\\(height, width, channels\\)"),
    (lambda: rnnjax.conv_lstm((4, 1), 2, padding="CAUSAL"), "padding='SAME'"),
    (lambda: rnnjax.conv_lstm((2, 1), 2, 3, padding="VALID"), "smaller kernel_size"),
    (lambda: rnnjax.conv_gru((4, 4, 1), 2, (3, 3, 3)), "kernel_size=\\(3, 3\\)"),
    (lambda: rnnjax.glstm(3, 4, groups=2), "input_size=4"),
    (lambda: rnnjax.leaky_rnn(2, 3, dt=20), "dt=20 / 100"),
    (lambda: rnnjax.leaky_rnn(2, 3, noise=-1.0), "noise=0.05"),
    (lambda: rnnjax.dale_rnn(2, 3, excitatory=1.0), "rnnjax.leaky_rnn"),
    (lambda: rnnjax.low_rank_rnn(2, 3, rank=4), "rnnjax.leaky_rnn"),
]


@pytest.mark.parametrize(("make", "write"), WRONG)
def test_arguments_that_do_not_fit_say_what_to_write(make, write):
    with pytest.raises(ValueError, match=write):
        make()


@pytest.mark.parametrize("cell", [rnnjax.cfc(2, 3), rnnjax.phased_lstm(2, 3)], ids=repr)
def test_an_input_without_its_time_says_what_to_write(cell):
    params = cell.init(KEY)
    with pytest.raises(TypeError, match=r"cell.unroll\(params, carry, \(xs, "):
        unrolled(cell, params, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="a single number"):
        unrolled(cell, params, (jnp.ones((5, 2)), jnp.ones((5, 1))))
