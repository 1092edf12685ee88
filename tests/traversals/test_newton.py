"""Newton's method on all steps: the sequential walk, found in few rounds or taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan
from rnnjax.testing import drawing
from rnnjax.traversals import linear, newton

SETTINGS = {
    "full": {},
    "units": {"jacobian": "units"},
    "diagonal": {"jacobian": "diagonal"},
    "blocks": {"block": 7, "damping": 0.2},
}
TIME = 40
MASK = np.arange(TIME) % 9 != 3
RESET = np.arange(TIME) % 17 == 2


def given(cell, time=TIME, scale=1.0):
    params = jax.tree.map(lambda a: scale * a, cell.init(jax.random.key(0)))
    carry = drawing.perturbed(jax.random.key(1), cell.initial_carry(params))
    xs = jax.random.normal(jax.random.key(2), (time, 3))
    return params, carry, xs


def report(cell, *given, **signals):
    (found,) = rnnjax.newton_report(cell, *given, **signals)
    return found


def everything(cell, given, along):
    """Values, gradients, a tangent, and a product with the Hessian."""

    def loss(*given):
        out = cell.unroll(*given, mask=MASK, reset=RESET)
        return sum(jnp.sin(a).sum() for a in jax.tree.leaves(out)), out

    gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
    (grads, out), (turned, pushed) = jax.jvp(gradient, given, along)
    return out, grads, turned, pushed


@pytest.mark.drawn(0.6)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_all_derivatives_are_exact_whatever_found_the_states(settings):
    cell = rnnjax.lstm(3, 4, traversal=scan.newton(**settings))
    args = given(cell, scale=2.0)
    along = drawing.draw(jax.random.key(3), args, ())
    run = jax.jit(everything, static_argnums=0)
    found = run(cell, args, along)
    expected = run(rnnjax.lstm(3, 4, traversal=scan.fused), args, along)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_backward_pass_through_the_diagonal_would_be_wrong():
    """That is the gradient which published forms with a diagonal Jacobian have."""
    cell = rnnjax.elman(3, 4, traversal=scan.newton(jacobian="diagonal"))
    params, carry, xs = given(cell, scale=2.0)

    def outputs(xs):
        return cell.unroll(params, carry, xs)[1]

    def after(h, x):
        return cell.step(params, h, x)[1]

    ys, pull = jax.vjp(outputs, xs)
    (ours,) = pull(jnp.cos(ys))
    before = jnp.concatenate([carry[None], ys[:-1]])
    full = jax.vmap(jax.jacfwd(after))(before, xs)

    def through(jacobians):
        back = jnp.concatenate([jnp.zeros((1, 4, 4)), jnp.flip(jacobians, 0)[:-1]]).mT
        adjoint = jnp.flip(linear.prefix(back, jnp.flip(jnp.cos(ys), 0)), 0)
        return jax.vmap(lambda h, x, d: jax.vjp(after, h, x)[1](d)[1])(
            before, xs, adjoint
        )

    np.testing.assert_allclose(ours, through(full), rtol=1e-9, atol=1e-12)
    wrong = abs(through(full * jnp.eye(4)) - ours).max() / abs(ours).max()
    assert wrong > 0.1


def test_a_loose_tolerance_leaves_the_gradient_of_these_states():
    """The tangent solves its own system, to all digits."""
    cell = rnnjax.elman(
        3, 4, traversal=scan.newton(jacobian="diagonal", tolerance=1e-2)
    )
    params, carry, xs = given(cell)
    along = drawing.draw(jax.random.key(3), carry, ())

    def states(carry):
        return cell.unroll(params, carry, xs)[1]

    h, pushed = jax.jvp(states, (carry,), (along,))
    before = jnp.concatenate([carry[None], h[:-1]])
    _, through = jax.vmap(
        lambda h, x, d: jax.jvp(lambda h: cell.step(params, h, x)[1], (h,), (d,))
    )(before, xs, jnp.concatenate([along[None], pushed[:-1]]))
    np.testing.assert_allclose(pushed, through, rtol=0.05, atol=1e-3)
    exact = rnnjax.elman(3, 4, traversal=scan.fused)
    assert 1e-8 < abs(h - exact.unroll(params, carry, xs)[1]).max() < 0.1


@pytest.mark.drawn(0.5)
@pytest.mark.parametrize(
    ("made", "settings", "most"),
    [
        (rnnjax.lstm, "full", 9),
        (rnnjax.indrnn, "diagonal", 12),
        (rnnjax.indy_lstm, "units", 9),
        (rnnjax.gru, "diagonal", 40),
    ],
)
def test_rounds_do_not_grow_with_the_length(made, settings, most):
    cell = made(3, 4, traversal=scan.newton(**SETTINGS[settings]))
    few, many = (report(cell, *given(cell, time)) for time in (100, 800))
    assert few.converged
    assert many.converged
    assert few.iterations <= many.iterations < most
    assert many.residual <= 2e-14


def test_proven_units_have_small_matrices():
    """The exact Jacobian of units that see only themselves is no (n, n) matrix."""
    cell = rnnjax.indrnn(3, 50, traversal=scan.newton())
    program = str(jax.make_jaxpr(cell.unroll)(*given(cell)))
    assert "50,50]" not in program
    dense = rnnjax.elman(3, 50, traversal=scan.newton())
    assert f"{TIME},50,50]" in str(jax.make_jaxpr(dense.unroll)(*given(dense)))
    few = rnnjax.elman(3, 50, traversal=scan.newton(jacobian="diagonal"))
    assert f"{TIME},50,50]" not in str(jax.make_jaxpr(few.unroll)(*given(few)))


@pytest.fixture
def walks(monkeypatch):
    """How often the whole sequence was walked, of which a block is one step."""
    runs, plain = [], newton._sequential

    def counted(move, start, inputs):
        if len(jax.tree.leaves(inputs)[0]) > 1:
            jax.debug.callback(lambda: runs.append(None))
        return plain(move, start, inputs)

    monkeypatch.setattr(newton, "_sequential", counted)
    return runs


def batch_of(cell, scales):
    params, carry, xs = given(cell, 60)
    many = jax.vmap(lambda s: jax.tree.map(lambda a: s * a, params))(jnp.array(scales))
    return jax.jit(jax.vmap(cell.unroll, (0, None, None)))(many, carry, xs), many


@pytest.mark.parametrize(("scales", "runs"), [([0.5, 1.0], 0), ([0.5, 40.0], 1)])
def test_only_what_does_not_converge_is_walked_step_by_step(walks, scales, runs):
    cell = rnnjax.elman(3, 4, traversal=scan.newton(max_iterations=12))
    (_, ys), many = batch_of(cell, scales)
    jax.effects_barrier()
    assert bool(walks) == bool(runs)
    _, carry, xs = given(cell, 60)
    exact = rnnjax.elman(3, 4, traversal=scan.fused)
    expected = jax.vmap(exact.unroll, (0, None, None))(many, carry, xs)[1]
    np.testing.assert_allclose(ys[0], expected[0], atol=1e-12)
    # Chaos: only the same walk has the same states.
    np.testing.assert_allclose(ys[1], expected[1], atol=1e-6)


def test_without_a_fallback_there_is_never_a_wrong_number():
    cell = rnnjax.elman(3, 4, traversal=scan.newton(max_iterations=12, fallback=False))
    (carry, ys), _ = batch_of(cell, [0.5, 40.0])
    assert np.isfinite(ys[0]).all()
    # The first output comes from the carry that was given.
    assert np.isnan(ys[1, 1:]).all()
    assert np.isnan(carry[1]).all()
    params, start, xs = given(cell, 60, scale=40.0)
    found = report(cell, params, start, xs)
    assert not found.converged
    assert found.iterations == 12


def test_bfloat16_has_its_own_tolerance():
    cell = rnnjax.lstm(3, 4, traversal=scan.newton())
    args = drawing.cast(given(cell), jnp.bfloat16)
    found = report(cell, *args)
    assert found.converged
    assert found.iterations < 15
    assert found.residual <= 2**-7
    exact = rnnjax.lstm(3, 4, traversal=scan.fused).unroll(*args)[1]
    found, exact = (a.astype(float) for a in (cell.unroll(*args)[1], exact))
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_a_stack_has_a_report_for_each_layer():
    cell = rnnjax.stack(
        rnnjax.gru(3, 4, traversal=scan.newton()),
        rnnjax.dense(4, 3),
        rnnjax.elman(3, 4, traversal=scan.newton(block=4)),
    )
    params = cell.init(jax.random.key(0))
    xs = jnp.ones((20, 3))
    reports = rnnjax.newton_report(cell, params, cell.initial_carry(params), xs)
    assert [bool(one.converged) for one in reports] == [True, True]
    with pytest.raises(ValueError, match="no part walks with"):
        rnnjax.newton_report(rnnjax.gru(3, 4), *given(rnnjax.gru(3, 4)))


def test_equal_calls_make_equal_cells():
    assert scan.newton(block=4) is scan.newton(block=4, damping=0)
    cell = rnnjax.gru(3, 4, traversal=scan.newton(block=4))
    assert repr(cell) == "gru(3, 4, traversal=newton(block=4))"


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"jacobian": "half"}, ValueError, "jacobian is 'half'; expected 'full' or"),
        ({"block": 0}, ValueError, "block is 0; expected a positive integer"),
        ({"damping": 1.0}, ValueError, "damping is 1.0; expected a number from 0"),
        ({"tolerance": 0.0}, ValueError, "tolerance is 0.0; expected a positive"),
        ({"max_iterations": 2.5}, ValueError, "max_iterations is 2.5; expected"),
        ({"fallback": 1}, TypeError, "fallback is 1; expected True or False"),
    ],
)
def test_wrong_settings(settings, error, sentence):
    with pytest.raises(error, match=sentence):
        scan.newton(**settings)


def _with_carry(carry):
    return rnnjax.recurrence(
        lambda key: jax.random.normal(key, (3,)),
        lambda params: carry,
        lambda params, x: x,
        lambda params, carry, z: (carry, z),
        (3,),
        scan.newton(jacobian="units"),
    )


@pytest.mark.parametrize(
    ("carry", "error", "sentence"),
    [
        (np.zeros(2, int), TypeError, "_with_carry: the carry has a leaf of int64"),
        (
            (np.zeros(2), np.zeros(3)),
            ValueError,
            r"shapes \[\(2,\), \(3,\)\]; jacobian",
        ),
    ],
)
def test_carries_that_are_refused(carry, error, sentence):
    cell = _with_carry(carry)
    params = cell.init(jax.random.key(0))
    with pytest.raises(error, match=sentence):
        cell.unroll(params, jax.tree.map(jnp.asarray, carry), jnp.ones((4, 3)))
