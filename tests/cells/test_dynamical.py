"""Cells made as dynamical systems: loops from their papers, and what these claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

TIME = 6
KEY = jax.random.key(9)
RNG = np.random.default_rng(1402)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def drawn(tree):
    return jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(size=a.shape)) if a.dtype != jnp.int32 else a,
        tree,
    )


def cornn(p, carry, x):
    y, z = carry
    force = np.tanh(y @ p.w_hh + z @ p.w_vh + x @ p.w_ih + p.b)
    z = z + 0.1 * force - 0.1 * 2.7 * y - 0.1 * 4.7 * z
    y = y + 0.1 * z
    return (y, z), y


def lem(p, carry, x):
    z, y = carry
    u = np.split(x @ p.w_ih + p.b, 4)
    w = np.split(y @ p.w_hh, 3)
    dt, dt_bar = (0.5 * sigmoid(u[j] + w[j]) for j in range(2))
    z = (1 - dt) * z + dt * np.tanh(u[2] + w[2])
    y = (1 - dt_bar) * y + dt_bar * np.tanh(u[3] + z @ p.w_zy)
    return (z, y), y


def antisymmetric(p, h, x):
    a = p.w_hh - p.w_hh.T - 0.3 * np.eye(len(h))
    parts = [u + h @ a for u in np.split(x @ p.w_ih + p.b, len(p.b) // len(h))]
    gate = sigmoid(parts[0]) if len(parts) == 2 else 1
    h = h + 0.2 * gate * np.tanh(parts[-1])
    return h, h


def lipschitz(p, h, x):
    beta, gamma, eye = (0.8, 0.6), (0.1, 0.2), np.eye(len(h))
    a, w = (
        (1 - b) * (m + m.T) + b * (m - m.T) - g * eye
        for m, b, g in zip((p.m_a, p.m_w), beta, gamma, strict=True)
    )
    h = h + 0.1 * h @ a + 0.1 * np.tanh(h @ w + x @ p.w_ih + p.b)
    return h, h


def unitary(p, carry, x):
    h = carry[0] + 1j * carry[1]
    skew, symmetric = p.generator
    hermitian = (symmetric + symmetric.T) / 2 - 1j * (skew - skew.T) / 2
    phases, vectors = np.linalg.eigh(hermitian)
    u = (vectors * np.exp(1j * phases)) @ vectors.conj().T
    re, im = np.split(x @ p.w_ih, 2)
    a = h @ u + re + 1j * im
    h = np.maximum(np.abs(a) + p.b, 0) * a / np.abs(a)
    return (h.real, h.imag), np.concatenate([h.real, h.imag])


def clockwork(p, carry, x):
    """Units 0 and 1 move at each step, 2 and 3 at every third, and read no others."""
    h, wait = carry
    time = -wait[-1]  # of a step before which all moved
    n = np.tanh(x @ p.w_ih + h @ p.w_hh + p.b)
    slow = np.tanh(x @ p.w_ih[:, 2:] + h[2:] @ p.w_hh[2:, 2:] + p.b[2:])
    h = np.concatenate([n[:2], h[2:] if time % 3 else slow])
    return (h, np.array([0, 0, *[-(time + 1) % 3] * 2], np.int32)), h


def echo_state(p, h, x):
    h = 0.7 * h + 0.3 * np.tanh(x @ p.w_ih + h @ p.w_hh + p.b)
    return h, h


CASES = [
    (rnnjax.cornn(2, 3, dt=0.1), cornn),
    (rnnjax.lem(2, 3, dt=0.5), lem),
    (rnnjax.antisymmetric_rnn(2, 3, dt=0.2, diffusion=0.3), antisymmetric),
    (rnnjax.antisymmetric_rnn(2, 3, gated=True, dt=0.2, diffusion=0.3), antisymmetric),
    (
        rnnjax.lipschitz_rnn(
            2,
            3,
            dt=0.1,
            symmetry_a=0.2,
            symmetry_w=0.4,
            diffusion_a=0.1,
            diffusion_w=0.2,
        ),
        lipschitz,
    ),
    (rnnjax.unitary(2, 3), unitary),
    (rnnjax.clockwork(2, 4, periods=(1, 3)), clockwork),
    (rnnjax.echo_state(2, 3, leak=0.3), echo_state),
]


@pytest.mark.parametrize(
    ("cell", "paper"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_cell_is_its_paper(cell, paper):
    params = drawn(cell.init(KEY))
    carry = drawn(cell.initial_carry(params))
    xs = RNG.normal(size=(TIME, 2))
    found = jax.jit(cell.unroll)(params, carry, jnp.asarray(xs))
    p, state, ys = *jax.tree.map(np.asarray, (params, carry)), []
    for x in xs:
        state, y = paper(p, state, x)
        ys.append(y)
    leaves = zip(jax.tree.leaves(found), [*jax.tree.leaves(state), ys], strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, np.asarray(other), atol=1e-9)


def zeros(cell):
    return jax.tree.map(jnp.zeros_like, cell.init(KEY))


def test_cornn_without_weights_is_a_damped_oscillator():
    cell = rnnjax.cornn(1, 1, dt=1e-3, stiffness=9.0, damping=1.0)
    start = rnnjax.CoRNNCarry(jnp.ones(1), jnp.zeros(1))
    _, ys = cell.unroll(zeros(cell), start, jnp.zeros((2000, 1)))
    t, frequency = 1e-3 * np.arange(1, 2001), np.sqrt(9 - 0.25)
    wave = np.cos(frequency * t) + np.sin(frequency * t) / (2 * frequency)
    np.testing.assert_allclose(ys[:, 0], np.exp(-t / 2) * wave, atol=5e-3)


def test_lem_stays_in_range_and_steps_as_far_as_it_may():
    cell = rnnjax.lem(2, 3, dt=0.25)
    params, xs = drawn(cell.init(KEY)), 9 * drawn(jnp.zeros((20, 2)))
    found = rnnjax.trace(cell, params, cell.initial_carry(params), xs)
    assert jnp.abs(found["y"]).max() <= 1
    for name in "de":
        assert found[name].min() >= 0
        assert 0.2 < found[name].max() <= 0.25


def test_antisymmetric_rnn_keeps_the_length_of_small_states():
    """The system is a rotation, to the order of dt, without input and diffusion."""
    cell = rnnjax.antisymmetric_rnn(1, 4, dt=1e-3, diffusion=0.0)
    params = cell.init(KEY)
    h = 1e-3 * drawn(jnp.zeros(4))
    last, _ = cell.unroll(params, h, jnp.zeros((1000, 1)))
    assert jnp.abs(last - h).max() > 1e-4
    np.testing.assert_allclose(jnp.linalg.norm(last), jnp.linalg.norm(h), rtol=1e-2)


def test_lipschitz_rnn_without_symmetry_turns_and_with_it_decays():
    def eigenvalues(symmetry):
        cell = rnnjax.lipschitz_rnn(1, 4, symmetry_a=symmetry, diffusion_a=0.1)
        params = drawn(cell.init(KEY))
        xs = jnp.zeros((1, 1))
        a = rnnjax.trace(cell, params, cell.initial_carry(params), xs)["A"][0]
        return np.linalg.eigvals(a)

    np.testing.assert_allclose(eigenvalues(0.0).real, -0.1, atol=1e-9)
    np.testing.assert_allclose(eigenvalues(1.0).imag, 0, atol=1e-9)


def test_unitary_keeps_length_and_has_gradients_at_rest():
    cell = rnnjax.unitary(2, 3)
    params = drawn(cell.init(KEY))._replace(b=jnp.zeros(3))
    start = drawn(cell.initial_carry(params))
    found = rnnjax.trace(cell, params, start, jnp.zeros((50, 2)))
    u = found["U"][0]
    np.testing.assert_allclose(u @ u.T, np.eye(6), atol=1e-10)
    lengths = jnp.linalg.norm(found["h"], axis=(1, 2))
    np.testing.assert_allclose(lengths, jnp.linalg.norm(jnp.stack(start)), rtol=1e-9)
    grads = jax.grad(
        lambda p: cell.unroll(p, cell.initial_carry(p), jnp.zeros((3, 2)))[1].sum()
    )(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_unitary_starts_with_phases_on_the_whole_circle():
    cell = rnnjax.unitary(1, 300)
    params = cell.init(KEY)
    phases = np.diag(params.generator[1])
    assert np.abs(params.generator[0]).max() == 0
    assert phases.min() < -3.0
    assert phases.max() > 3.0


def test_slow_units_of_a_clockwork_hold_and_do_not_read_fast_ones():
    cell = rnnjax.clockwork(2, 6, periods=(1, 2, 6))
    params = drawn(cell.init(KEY))
    start = cell.initial_carry(params)
    _, ys = cell.unroll(params, start, drawn(jnp.zeros((12, 2))))
    moved = np.any(np.diff(ys, axis=0) != 0, axis=0)
    assert moved.all()
    for unit, period in enumerate((1, 1, 2, 2, 6, 6)):
        runs = np.reshape(ys[:, unit], (-1, period))
        np.testing.assert_array_equal(runs, runs[:, :1] * np.ones(period))

    def after(h):
        return cell.step(params, start._replace(h=h), jnp.ones(2))[1]

    jacobian = np.asarray(jax.jacobian(after)(jnp.zeros(6)))  # (to, from)
    reads = np.kron([[1, 1, 1], [0, 1, 1], [0, 0, 1]], np.ones((2, 2)))
    np.testing.assert_array_equal(jacobian != 0, reads.astype(bool))


def test_a_reservoir_has_its_radius_and_forgets_its_start():
    cell = rnnjax.echo_state(1, 60, spectral_radius=0.8, density=0.2)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), cell.init(KEY))
    radius = np.abs(np.linalg.eigvals(params.w_hh)).max()
    np.testing.assert_allclose(radius, 0.8, rtol=1e-4)
    np.testing.assert_allclose((params.w_hh != 0).mean(), 0.2, atol=0.03)
    xs = jnp.sin(jnp.arange(100.0))[:, None]
    one, other = (cell.unroll(params, h, xs)[0] for h in (jnp.ones(60), -jnp.ones(60)))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_reservoir_without_a_cycle_starts_finite():
    init = rnnjax.echo_state(1, 3, density=0.2).init
    w_hh = jax.vmap(init)(jax.random.split(KEY, 50)).w_hh
    no_cycle = (np.linalg.matrix_power(w_hh, 3) == 0).all((1, 2))
    assert (no_cycle & (w_hh != 0).any((1, 2))).any()
    assert jnp.isfinite(w_hh).all()


def test_a_reservoir_is_not_trained_and_passes_gradients_on():
    cell = rnnjax.echo_state(2, 5)

    def loss(params, h, xs):
        return cell.unroll(params, h, xs)[1].sum()

    params, xs = drawn(cell.init(KEY)), drawn(jnp.zeros((4, 2)))
    by_params, *others = jax.grad(loss, (0, 1, 2))(params, jnp.zeros(5), xs)
    assert all((g == 0).all() for g in by_params)
    assert all((g != 0).any() for g in others)


WRONG = [
    (lambda: rnnjax.lem(2, 3, dt=1.5), "Write dt=1.0"),
    (lambda: rnnjax.cornn(2, 3, damping=-1.0), "damping=4.7"),
    (lambda: rnnjax.lipschitz_rnn(2, 3, symmetry_w=1.5), "symmetry_w=0.25"),
    (lambda: rnnjax.clockwork(2, 4, periods=(2, 1)), "periods=\\(1, 2, 4, 8\\)"),
    (lambda: rnnjax.clockwork(2, 4, periods=(1, 2, 3)), "hidden_size=6"),
    (lambda: rnnjax.echo_state(2, 3, leak=2.0), "leak=0.1"),
]


@pytest.mark.parametrize(("make", "write"), WRONG)
def test_arguments_that_do_not_fit_say_what_to_write(make, write):
    with pytest.raises(ValueError, match=write):
        make()
