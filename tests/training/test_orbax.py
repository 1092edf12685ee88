"""Orbax checkpoints of the training state: saved, restored, gone on with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import training

pytest.importorskip("orbax.checkpoint")
orbax = pytest.importorskip("rnnjax.training.orbax")

CELL = rnnjax.stack(rnnjax.lstm(2, 5), rnnjax.dropout(0.3), rnnjax.dense(5, 1))
OPTIMIZER = optax.chain(
    optax.clip(1.0), optax.adamw(optax.cosine_onecycle_schedule(24, 0.05))
)
XS = np.random.default_rng(0).normal(size=(50, 6, 2)).astype(np.float32)
DATA = (XS, XS.sum((1, 2)))


def loss(params, batch, key):
    xs, targets = batch
    _, ys = rnnjax.unroll(CELL, params, xs, key=key)
    return jnp.mean((ys[:, -1, 0] - targets) ** 2), {}


def start(seed=5, impl=None):
    key = jax.random.key(seed, impl=impl)
    return training.init(CELL.init(jax.random.key(seed)), OPTIMIZER, key)


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = map(jax.random.key_data, (one, other))
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.float32
@pytest.mark.parametrize("impl", [None, "rbg"])
@pytest.mark.parametrize("as_shapes", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(impl, as_shapes, tmp_path):
    train = training.epoch(loss, OPTIMIZER, batch_size=8)
    whole = start(impl=impl)
    losses = []
    for epoch in range(4):
        whole, metrics = train(whole, DATA)
        losses.append(float(metrics["loss"]))
        if epoch == 1:
            orbax.save(tmp_path / "1", whole, {"epoch": 1, "losses": losses})

    template = start(seed=0, impl=impl)
    template = jax.eval_shape(lambda: template) if as_shapes else template
    state, metadata = orbax.restore(tmp_path / "1", template)
    assert metadata == {"epoch": 1, "losses": losses[:2]}
    for expected in losses[2:]:
        state, metrics = train(state, DATA)
        assert float(metrics["loss"]) == expected
    same(state, whole)


@pytest.mark.float32
def test_every_leaf_comes_back_as_it_was(tmp_path):
    state = {
        "params": jax.tree.map(
            lambda p: p.astype(jnp.bfloat16), CELL.init(jax.random.key(0))
        ),
        "keys": jax.random.split(jax.random.key(1), 3),
        "counter": jnp.zeros((), jnp.int32),
        "flags": (jnp.array([True, False]), rnnjax.LSTMCarry(jnp.ones(2), jnp.ones(3))),
    }
    orbax.save(tmp_path / "a", state, {})
    same(orbax.restore(tmp_path / "a", state)[0], state)


@pytest.mark.float32
def test_what_does_not_fit_is_refused(tmp_path):
    orbax.save(tmp_path / "a", start(), {})
    with pytest.raises(ValueError, match="exists"):
        orbax.save(tmp_path / "a", start(), {})
    other = rnnjax.lstm(2, 6).init(jax.random.key(0))
    with pytest.raises(ValueError):  # noqa: PT011, orbax's own words
        orbax.restore(
            tmp_path / "a", training.init(other, OPTIMIZER, jax.random.key(0))
        )
    with pytest.raises(FileNotFoundError, match="does not exist"):
        orbax.restore(tmp_path / "b", start())
