"""The exponential of skew-Hermitian matrices is that of SciPy, and unitary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from rnnjax.cells import exponential


def skew_hermitian(size, norm, dtype=jnp.float64):
    """Of about this norm."""
    numbers = np.random.default_rng(size).normal(size=(2, size, size))
    re, im = numbers[0] - numbers[0].T, numbers[1] + numbers[1].T
    scale = norm / np.hypot(re, im).sum(0).max()
    return jnp.asarray(scale * re, dtype), jnp.asarray(scale * im, dtype)


def of_scipy(re, im):
    re, im = np.asarray(re, np.float64), np.asarray(im, np.float64)
    return np.asarray(scipy.linalg.expm(np.block([[re, im], [-im, re]])))


@pytest.mark.parametrize("norm", [0.0, 1e-3, 0.5, 0.51, 3.0, 100.0])
@pytest.mark.parametrize("size", [1, 2, 33])
@pytest.mark.parametrize(("dtype", "digits"), [("float32", 2e-6), ("float64", 1e-14)])
def test_it_is_exact_and_unitary(size, norm, dtype, digits):
    given = skew_hermitian(size, norm, dtype)
    u = jax.jit(exponential.unitary)(*given)
    assert u.dtype == dtype
    u = np.asarray(u, np.float64)
    # What the angles themselves have lost grows with them.
    exact = digits * max(1.0, norm)
    np.testing.assert_allclose(u, of_scipy(*given), rtol=0, atol=exact)
    np.testing.assert_allclose(u @ u.T, np.eye(2 * size), rtol=0, atol=digits)


@pytest.mark.parametrize("norm", [0.0, 0.3, 20.0])
def test_its_derivatives_are_those_of_pade(norm):
    def ours(re, im):
        return exponential.unitary((re - re.T) / 2, (im + im.T) / 2)

    def pade(re, im):
        re, im = (re - re.T) / 2, (im + im.T) / 2
        return jax.scipy.linalg.expm(jnp.block([[re, im], [-im, re]]))

    def slopes(of):
        def loss(re, im):
            return jnp.sum(of(re, im) * jnp.cos(jnp.arange(64.0).reshape(8, 8)))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(*skew_hermitian(4, norm))

    jax.tree.map(np.testing.assert_allclose, slopes(ours), slopes(pade))
    check_grads(ours, skew_hermitian(3, norm), order=2)


def test_several_at_once_and_one_without_digits():
    given = [skew_hermitian(3, norm) for norm in (0.1, 7.0, 1e5)]
    several = jax.vmap(exponential.unitary)(*map(jnp.stack, zip(*given, strict=True)))
    for u, parts in zip(several[:2], given, strict=False):
        np.testing.assert_allclose(u, of_scipy(*parts), atol=1e-12)
    assert jnp.isnan(several[2]).all()
