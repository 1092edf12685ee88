"""Read-outs that are solved for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

RNG = np.random.default_rng(2012)


def test_ridge_is_the_solution_of_its_normal_equations():
    ys, targets = RNG.normal(size=(2, 9, 4)), RNG.normal(size=(2, 9, 3))
    mask = RNG.uniform(size=(2, 9)) < 0.7
    a, t = ys[mask], targets[mask]
    centred = a - a.mean(0)
    w = np.linalg.solve(centred.T @ centred + 0.5 * np.eye(4), centred.T @ t)
    ys[~mask], targets[~mask] = np.nan, np.inf
    found = rnnjax.ridge_readout(
        jnp.asarray(ys), jnp.asarray(targets), penalty=0.5, mask=jnp.asarray(mask)
    )
    np.testing.assert_allclose(found.w, w, atol=1e-12)
    np.testing.assert_allclose(found.b, t.mean(0) - a.mean(0) @ w, atol=1e-12)


def test_ridge_takes_states_that_are_dependent():
    ys = jnp.asarray(RNG.normal(size=(20, 2)).repeat(2, 1))
    w, b = rnnjax.ridge_readout(ys, ys[:, :1] - 1)
    np.testing.assert_allclose(ys @ w + b, ys[:, :1] - 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"targets": jnp.ones(9)}, "targets\\[..., None\\]"),
        ({"penalty": -1.0}, "penalty=1e-06"),
        ({"mask": jnp.ones(8, bool)}, "mask has shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, sentence):
    given = {"ys": jnp.ones((9, 4)), "targets": jnp.ones((9, 1))} | change
    with pytest.raises((TypeError, ValueError), match=sentence):
        jax.jit(lambda: rnnjax.ridge_readout(**given))()
