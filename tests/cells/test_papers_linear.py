"""Cells that are linear in their carry, against loops written from their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

TIME = 4
RNG = np.random.default_rng(2020)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def complex_of(pair):
    return np.asarray(pair[0]) + 1j * np.asarray(pair[1])


def parts(h):
    return h.real, h.imag


def lru(p, carry, x):
    eigenvalues = np.exp(-np.exp(p.eigenvalues[0]) + 1j * np.exp(p.eigenvalues[1]))
    h = eigenvalues * complex_of(carry)
    h = h + np.exp(p.log_gamma) * (x @ complex_of(p.w_in))
    return parts(h), (h @ complex_of(p.w_out)).real + p.skip * x


def held(p, dt):
    """The integral of the exponential, which the zero-order hold is."""
    rate = -np.exp(p.log_decay) + 1j * p.frequency
    keep = np.exp(rate * dt)
    return keep, (keep - 1) / rate


def s4d(p, carry, inputs):
    x, elapsed = inputs if isinstance(inputs, tuple) else (inputs, 1.0)
    keep, scale = held(p, elapsed * np.exp(p.log_dt)[:, None])
    h = keep * complex_of(carry) + scale * x[:, None]
    return parts(h), 2 * (complex_of(p.w_out) * h).sum(1).real + p.skip * x


def s5(p, carry, inputs):
    x, elapsed = inputs if isinstance(inputs, tuple) else (inputs, 1.0)
    keep, scale = held(p, elapsed * np.exp(p.log_dt))
    h = keep * complex_of(carry) + scale * (x @ complex_of(p.w_in))
    return parts(h), 2 * (h @ complex_of(p.w_out)).real + p.skip * x


def rg_lru(p, h, x):
    gates = []
    for w, b in zip(p.w, p.b, strict=True):
        blocks = zip(np.split(x, len(w)), w, strict=True)
        gates.append(sigmoid(np.concatenate([x @ w for x, w in blocks]) + b))
    r, i = gates
    a = sigmoid(-p.decay) ** (8 * r)
    h = a * h + np.sqrt(1 - a**2) * i * x
    return h, h


def selective_ssm(p, h, x):
    d, b, c = np.split(x @ p.w, [1, 3])
    dt = np.log1p(np.exp(d @ p.w_dt + p.b_dt))
    h = np.exp(-np.outer(dt, [1, 1]) * np.exp(p.log_decay)) * h + np.outer(dt * x, b)
    return h, h @ c + p.skip * x


CASES = [
    (rnnjax.lru(2, 3), lru),
    (rnnjax.s4d(2, 3), s4d),
    (rnnjax.s4d(2, 3, timed=True), s4d),
    (rnnjax.s5(2, 3), s5),
    (rnnjax.s5(2, 3, timed=True), s5),
    (rnnjax.selective_ssm(2, 2), selective_ssm),
    (rnnjax.rg_lru(2), rg_lru),
    (rnnjax.rg_lru(2, blocks=2), rg_lru),
]


def draw(tree):
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) * 0.7), tree)


@pytest.mark.parametrize(("cell", "paper"), CASES, ids=[repr(c)[:40] for c, _ in CASES])
def test_cell_is_its_paper(cell, paper):
    params = draw(cell.init(jax.random.key(0)))
    carry = draw(cell.initial_carry(params))
    xs = RNG.normal(size=(TIME, 2))
    if dict(cell.spec.arguments).get("timed"):
        xs = (xs, RNG.uniform(0, 3, TIME))
    found = jax.jit(cell.unroll)(params, carry, jax.tree.map(jnp.asarray, xs))
    (p, state), ys = jax.tree.map(np.asarray, (params, carry)), []
    for t in range(TIME):
        state, y = paper(p, state, jax.tree.map(lambda a, t=t: a[t], xs))
        ys.append(y)
    leaves = zip(jax.tree.leaves(found), [*jax.tree.leaves(state), ys], strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, np.asarray(other), atol=1e-9)


# What the papers say of them.

KEY = jax.random.key(11)


def run(cell, params, xs):
    return cell.unroll(params, cell.initial_carry(params), xs)[1]


def test_hippo_is_normal_and_has_the_eigenvalues_of_its_matrix():
    n = np.arange(8)
    below = np.sqrt((2 * n + 1)[:, None] * (2 * n + 1))
    legs = -np.tril(below, -1) - np.diag(n + 1)  # equation 2 of the S4 paper
    p = np.sqrt(n + 0.5)
    normal = legs + np.outer(p, p)
    eigenvalues, v = rnnjax.initializers.hippo(4)
    np.testing.assert_allclose(normal @ v, v * eigenvalues, atol=1e-12)
    np.testing.assert_allclose(v.conj().T @ v, np.eye(4), atol=1e-12)
    assert (eigenvalues.imag > 0).all()


def test_s5_starts_as_a_real_system_with_the_hippo_matrix():
    """Impulse responses without the diagonal, by the matrix itself."""
    linalg = pytest.importorskip("scipy.linalg")
    cell = rnnjax.s5(1, 2, dt_min=0.05, dt_max=0.05)
    params = cell.init(KEY)._replace(skip=jnp.zeros(1))
    ys = run(cell, params, jnp.zeros((6, 1)).at[0].set(1.0))
    eigenvalues, v = rnnjax.initializers.hippo(2)
    whole, values = np.c_[v, v.conj()], np.r_[eigenvalues, eigenvalues.conj()]
    matrix = (whole * values) @ whole.conj().T
    np.testing.assert_allclose(matrix.imag, 0, atol=1e-12)
    w_in = (complex_of(params.w_in) @ v.T).real * 2
    w_out = (v.conj() @ complex_of(params.w_out)).real * 2
    keep = linalg.expm(0.05 * matrix.real)
    h = np.linalg.solve(matrix.real, (keep - np.eye(4)) @ w_in[0])
    for y in ys:
        np.testing.assert_allclose(y, h @ w_out, atol=1e-6)
        h = keep @ h


def test_lru_eigenvalues_fill_the_ring_and_states_keep_the_variance():
    cell = rnnjax.lru(20, 1000, min_radius=0.8, max_radius=0.95, max_phase=1.0)
    params = cell.init(KEY)
    eigenvalues = np.exp(-np.exp(params.eigenvalues[0]))
    assert 0.799 < eigenvalues.min() < 0.805
    assert 0.945 < eigenvalues.max() <= 0.9501
    # By area: the squares are uniform.
    np.testing.assert_allclose((eigenvalues**2).mean(), (0.64 + 0.9025) / 2, rtol=0.01)
    assert np.exp(params.eigenvalues[1]).max() <= 1
    (re, im), _ = rnnjax.unroll(cell, params, jax.random.normal(KEY, (100, 60, 20)))
    np.testing.assert_allclose((re**2 + im**2).mean(), 1, rtol=0.1)


def test_selective_ssm_starts_with_steps_and_decays_of_the_paper():
    params = rnnjax.selective_ssm(2000, 3, rank=1).init(KEY)
    steps = np.log1p(np.exp(np.asarray(params.b_dt)))
    assert 0.00099 < steps.min() < 0.0011
    assert 0.095 < steps.max() < 0.1001
    np.testing.assert_allclose(np.log(steps).mean(), np.log(0.01), rtol=0.02)
    np.testing.assert_allclose(np.exp(params.log_decay[0]), [1, 2, 3], rtol=1e-6)


def test_rg_lru_starts_with_the_decays_of_the_paper():
    decay = rnnjax.rg_lru(5000).init(KEY).decay
    kept = sigmoid(-np.asarray(decay, float)) ** 8
    assert 0.9 < kept.min() < 0.901
    assert 0.998 < kept.max() < 0.9991
    np.testing.assert_allclose(kept.mean(), 0.9495, atol=1e-3)


def test_rg_lru_has_gradients_where_a_gate_is_shut():
    cell = rnnjax.rg_lru(2)
    params = cell.init(KEY)
    params = params._replace(b=params.b.at[0].set(-1000.0))
    grads = jax.grad(lambda p: run(cell, p, jnp.ones((3, 2))).sum())(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("make", [rnnjax.s4d, rnnjax.s5])
def test_time_that_stands_still_or_is_cut_changes_nothing(make):
    """A held input over two short steps is the same as over one long step."""
    cell = make(2, 3, timed=True)
    params = draw(cell.init(KEY))
    start = draw(cell.initial_carry(params))
    x = jnp.array([[0.3, -1.0]])
    one, _ = cell.unroll(params, start, (x, jnp.array([2.0])))
    two, _ = cell.unroll(params, start, (x.repeat(3, 0), jnp.array([0.5, 0.0, 1.5])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), one, two)


def test_the_spectra_of_s4d():
    frequencies = {
        name: rnnjax.s4d(1, 4, spectrum=name).init(KEY).frequency[0]
        for name in ("legs", "lin", "inv")
    }
    np.testing.assert_allclose(frequencies["lin"], np.pi * np.arange(4), rtol=1e-6)
    expected = 8 / np.pi * (8 / np.array([1, 3, 5, 7]) - 1)
    np.testing.assert_allclose(frequencies["inv"], expected, rtol=1e-6)
    assert not np.allclose(frequencies["legs"], frequencies["lin"])


LINEAR = [cell for cell, _ in CASES]


@pytest.mark.parametrize("cell", LINEAR, ids=lambda v: repr(v)[:40])
def test_carry_is_affine_in_the_carry(cell):
    params = draw(cell.init(KEY))
    x = jnp.array([0.4, -0.9])
    x = (x, jnp.array(0.5)) if dict(cell.spec.arguments).get("timed") else x

    def after(carry):
        return cell.step(params, carry, x)[0]

    a, b = (draw(cell.initial_carry(params)) for _ in range(2))
    middle = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, a, b)
    jax.tree.map(
        lambda m, a, b: np.testing.assert_allclose(m, 0.3 * a + 0.7 * b, atol=1e-12),
        after(middle),
        after(a),
        after(b),
    )


WRONG = [
    (lambda: rnnjax.lru(2, 3, min_radius=0.9, max_radius=0.5), "max_radius=0.999"),
    (lambda: rnnjax.lru(2, 3, max_radius=1.1), "at most 1"),
    (lambda: rnnjax.s4d(2, 3, spectrum="fourier"), "spectrum='legs'"),
    (lambda: rnnjax.s4d(2, 3, dt_min=0.2), "dt_min=0.001, dt_max=0.1"),
    (lambda: rnnjax.s5(2, 3, blocks=2), "blocks=1, or hidden_size=4"),
    (lambda: rnnjax.rg_lru(3, blocks=2), "blocks=1, or size=4"),
]


@pytest.mark.parametrize(("make", "write"), WRONG)
def test_arguments_that_do_not_fit_say_what_to_write(make, write):
    with pytest.raises(ValueError, match=write):
        make()
