"""Known systems as cells, and what the library's own cells do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnnjax
from rnnjax import dynamics


def autonomous(step, size):
    """A map of states as a cell; its inputs have no features."""

    def init(key):
        return jnp.ones(())

    def initial_carry(params):
        return jnp.zeros(size)

    def one(params, carry, x):
        after = step(params, carry)
        return after, after

    return rnnjax.recurrence(init, initial_carry, lambda params, x: x, one)


def nothing(time):
    return jnp.zeros((time, 0))


def henon(params, s):
    return params * jnp.stack([1 - 1.4 * s[0] ** 2 + s[1], 0.3 * s[0]])


def lorenz(params, s, dt=0.01):
    def slope(s):
        x, y, z = s
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    a = slope(s)
    b = slope(s + dt / 2 * a)
    c = slope(s + dt / 2 * b)
    d = slope(s + dt * c)
    return s + params * dt / 6 * (a + 2 * b + 2 * c + d)


SYSTEMS = {
    # name: step, start, steps, time of a step, exponents, tolerance
    "logistic": (
        lambda params, s: params * 4 * s * (1 - s),
        *([0.3], 20_000, 1.0, [np.log(2)], 0.01),
    ),
    "henon": (henon, [0.1, 0.1], 20_000, 1.0, [0.419, -1.623], 0.01),
    "lorenz": (lorenz, [1.0, 1.0, 20.0], 40_000, 0.01, [0.906, 0.0, -14.57], 0.02),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_lyapunov_exponents_of_known_systems(name):
    step, start, time, duration, expected, tolerance = SYSTEMS[name]
    cell = autonomous(step, len(start))
    found = jax.jit(dynamics.lyapunov, static_argnames="skip")(
        cell, jnp.ones(()), jnp.array(start), nothing(time), skip=500
    )
    np.testing.assert_allclose(found / duration, expected, atol=tolerance)


def random_network(gain, size=200):
    cell = rnnjax.elman(1, size)
    params = cell.init(jax.random.key(0))
    drawn = jax.random.normal(jax.random.key(1), (size, size)) * gain / np.sqrt(size)
    return cell, params._replace(w_hh=drawn, b=jnp.zeros(size))


def test_random_tanh_networks_turn_to_chaos_near_a_gain_of_one():
    """Sompolinsky, Crisanti, Sommers 1988."""
    cell, params = random_network(1.0)
    gains = jnp.array([0.8, 1.6])
    start = jax.random.normal(jax.random.key(2), (200,))

    @jax.jit
    @jax.vmap
    def largest(gain):
        scaled = params._replace(w_hh=gain * params.w_hh)
        xs = jnp.zeros((600, 1))
        return dynamics.lyapunov(cell, scaled, start, xs, count=1, skip=200)[0]

    below, above = largest(gains)
    assert below < -0.05
    assert above > 0.05


def cell_and_run(make, time=6):
    cell = make(2, 3)
    params = jax.tree.map(lambda a: a + 0.1, cell.init(jax.random.key(0)))
    xs = jax.random.normal(jax.random.key(1), (time, 2))
    return cell, params, cell.initial_carry(params), xs


@pytest.mark.parametrize("make", [rnnjax.elman, rnnjax.lstm, rnnjax.indy_lstm])
def test_jacobians_multiply_to_the_derivative_of_the_whole(make):
    cell, params, carry, xs = cell_and_run(make)
    each = dynamics.jacobians(cell, params, carry, xs)
    flat, back = ravel_pytree(carry)

    def whole(start):
        last, _ = cell.unroll(params, back(start), xs)
        return ravel_pytree(last)[0]

    found = np.linalg.multi_dot([np.asarray(j) for j in each[::-1]])
    np.testing.assert_allclose(found, jax.jacrev(whole)(flat), atol=1e-13)


def test_a_trajectory_holds_the_carry_after_each_step():
    cell, params, carry, xs = cell_and_run(rnnjax.lstm)
    carries = dynamics.trajectory(cell, params, carry, xs)
    last, ys = cell.unroll(params, carry, xs)
    np.testing.assert_allclose(carries.h, ys, atol=1e-15)
    np.testing.assert_allclose(carries.c[-1], last.c, atol=1e-15)


def test_a_linearization_foresees_small_changes():
    cell, params, carry, xs = cell_and_run(rnnjax.lstm)
    near = dynamics.linearize(cell, params, carry, xs[0])
    by = 1e-5
    moved = rnnjax.LSTMCarry(carry.c + by, carry.h - by)
    after, _ = cell.step(params, moved, xs[0] + by)
    expected = (
        near.next
        + near.by_state @ (by * np.array([1, 1, 1, -1, -1, -1]))
        + near.by_input @ (by * np.ones(2))
    )
    np.testing.assert_allclose(np.concatenate(after), expected, atol=1e-9)


def test_tokens_have_no_derivative():
    cell = rnnjax.stack(rnnjax.embedding(5, 2), rnnjax.gru(2, 3))
    params = cell.init(jax.random.key(0))
    carry = cell.initial_carry(params)
    near = dynamics.linearize(cell, params, carry, jnp.array(4))
    assert (near.by_state.shape, near.by_input.shape) == ((3, 3), (3, 0))


def test_gradients_shrink_at_the_rate_of_the_largest_exponent():
    cell, params = random_network(0.7, size=50)
    xs, start = jnp.zeros((300, 1)), jnp.ones(50)
    (rate,) = dynamics.lyapunov(cell, params, start, xs, count=1, skip=100)
    norms = dynamics.gradient_norms(cell, params, start, xs)
    slope = np.polyfit(np.arange(50, 250), np.log(norms[50:250]), 1)[0]
    np.testing.assert_allclose(slope, -rate, rtol=0.05)


def test_exponents_in_bfloat16_are_near_those_of_float32():
    cell, params = random_network(0.7, size=20)
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    found, expected = (
        dynamics.lyapunov(
            cell,
            p,
            jnp.ones(20, p.b.dtype),
            jnp.zeros((200, 1), p.b.dtype),
            count=2,
            skip=50,
        )
        for p in (narrow, wide)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.03)


# Two units that excite themselves and each other a little: nine fixed points.
BISTABLE = rnnjax.elman(1, 2)
W = np.array([[2.0, 0.1], [0.1, 2.0]])


def search(**given):
    params = rnnjax.ElmanParams(jnp.ones((1, 2)), jnp.array(W), jnp.zeros(2))
    starts = jax.random.uniform(jax.random.key(0), (200, 2), minval=-1.2, maxval=1.2)
    return dynamics.fixed_points(BISTABLE, params, starts, jnp.zeros(1), **given)


def test_all_fixed_points_are_found_with_their_kinds():
    points = search(tolerance=1e-12)
    assert points.missed == 0
    assert points.starts.sum() == 200
    assert sorted(points.kind) == ["saddle"] * 4 + ["stable"] * 4 + ["unstable"]
    np.testing.assert_allclose(np.tanh(points.carry @ W), points.carry, atol=1e-12)
    assert (points.speed < 1e-24).all()
    for at, jacobian, values in zip(
        points.carry, points.jacobian, points.eigenvalues, strict=True
    ):
        expected = np.diag(1 - at**2) @ W.T
        np.testing.assert_allclose(jacobian, expected, atol=1e-10)
        found = np.linalg.eigvals(expected)
        np.testing.assert_allclose(sorted(values), sorted(found), atol=1e-10)
        assert (np.diff(np.abs(values)) <= 0).all()
    assert points.growing.tolist() == [
        {"stable": 0, "saddle": 1, "unstable": 2}[kind] for kind in points.kind
    ]


def test_close_points_are_one():
    assert len(search(radius=0.0).speed) > len(search(radius=0.01).speed) == 9
    assert len(search(radius=3.0).speed) == 1


def test_starts_that_come_to_no_fixed_point_are_counted():
    drift = autonomous(lambda params, s: s + params, 1)
    starts = jnp.zeros((4, 1))
    points = dynamics.fixed_points(drift, jnp.ones(()), starts, jnp.zeros(0))
    assert points.missed == 4
    assert points.carry.shape == (0, 1)
    assert points.kind == ()


def test_a_slow_place_counts_if_allowed():
    """One step below a saddle-node bifurcation: no fixed point, but a ghost of one."""
    ghost = autonomous(lambda params, s: s + params * (s**2 + 1e-4), 1)
    given = (ghost, jnp.ones(()), jnp.array([[-0.5], [0.3]]), jnp.zeros(0))
    assert dynamics.fixed_points(*given).missed == 2
    points = dynamics.fixed_points(*given, tolerance=2e-4)
    np.testing.assert_allclose(points.carry, [[0.0]], atol=1e-2)


def test_an_lstm_is_searched_in_both_of_its_states():
    cell, params, _, xs = cell_and_run(rnnjax.lstm, time=40)
    carries = dynamics.trajectory(cell, params, cell.initial_carry(params), xs)
    points = dynamics.fixed_points(cell, params, carries, xs[0], tolerance=1e-11)
    after, _ = jax.vmap(cell.step, (None, 0, None))(params, points.carry, xs[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), after, points.carry
    )
    assert points.eigenvalues.shape[1] == 6


def test_cells_that_need_the_whole_sequence_have_no_step():
    both = rnnjax.bidirectional(rnnjax.gru(2, 3))
    params = both.init(jax.random.key(0))
    with pytest.raises(rnnjax.NoStepError):
        dynamics.jacobians(both, params, both.initial_carry(params), jnp.zeros((5, 2)))


def test_leaves_that_are_not_floating_go_along():
    """An attention cell holds flags: which places of its memory are valid."""
    cell = rnnjax.attention(rnnjax.gru(4, 3), 2, 2, (3, 2))
    params = cell.init(jax.random.key(0))
    carry, xs = cell.initial_carry(params), jnp.ones((5, 2))
    size = sum(a.size for a in jax.tree.leaves(carry) if a.dtype != bool)
    given = (cell, params, carry, xs)
    assert dynamics.jacobians(*given).shape == (5, size, size)
    assert dynamics.lyapunov(*given).shape == (size,)
    starts = jax.tree.map(lambda a: a[None], carry)
    points = dynamics.fixed_points(cell, params, starts, xs[0], tolerance=1e-9)
    assert points.carry.valid.shape == (1, 3)
    np.testing.assert_array_equal(points.carry.valid[0], carry.valid)
