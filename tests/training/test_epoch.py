"""An epoch is a loop over optax, and predictions are those of one call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import regression, regression_data, start_of_regression

import rnnjax
from rnnjax import training

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(optax.exponential_decay(0.05, 3, 0.9), momentum=0.9),
    "adam": optax.adam(0.1),
    "rmsprop": optax.rmsprop(0.05, decay=0.9),
    "clipped adamw": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_onecycle_schedule(20, 0.1), weight_decay=0.1),
    ),
    "every second": optax.MultiSteps(
        optax.adam(0.1), every_k_schedule=2
    ).gradient_transformation(),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "on plateau": optax.chain(
        optax.adam(0.1), optax.contrib.reduce_on_plateau(accumulation_size=8)
    ),
    "line search": optax.lbfgs(),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_epoch_is_a_loop_over_optax(name):
    """With examples all alike the order does not matter: the updates are known."""
    optimizer, steps = OPTIMIZERS[name], 6
    data = jax.tree.map(lambda a: jnp.repeat(a[:1], 4 * steps, 0), regression_data(1))
    state = start_of_regression(optimizer)
    batch = jax.tree.map(lambda a: a[:4], data)
    params, opt_state = jax.tree.map(jnp.copy, (state.params, state.opt_state))
    losses = []

    def value_fn(params):
        return regression(params, batch, None)[0]

    @jax.jit
    def update(params, opt_state):
        value, grads = jax.value_and_grad(value_fn)(params)
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            grads, opt_state, params, value=value, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), opt_state, value

    for _ in range(steps):
        params, opt_state, value = update(params, opt_state)
        losses.append(value)
    after, metrics = training.epoch(regression, optimizer, batch_size=4)(state, data)
    assert int(after.step) == steps
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-10)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
        after.params,
        params,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_learns_in_one_trace(name):
    traces = []

    def loss(params, batch, key):
        traces.append(None)
        return regression(params, batch, key)

    optimizer = OPTIMIZERS[name]
    train = training.epoch(loss, optimizer, batch_size=8)
    state, losses, counts = start_of_regression(optimizer), [], set()
    for _ in range(4):
        state, metrics = train(state, regression_data(64))
        losses.append(float(metrics["loss"]))
        counts.add(len(traces))
    assert losses[-1] < 0.5 * losses[0]
    assert len(counts) == 1


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (13, 4), (7, 7), (5, 3)])
def test_epoch_visits_examples_once_in_a_new_order(examples, batch_size):
    """Plain gradient descent on a linear loss counts the visits of each example."""

    def loss(params, batch, key):
        visited, place = params
        position = lax_position(batch)
        return -jnp.sum(batch @ visited) - 0 * place, {"first": position[0]}

    def lax_position(batch):
        return jnp.argmax(batch, axis=-1).astype(jnp.float64)

    optimizer = optax.sgd(1.0)
    train = training.epoch(loss, optimizer, batch_size=batch_size)
    params = (jnp.zeros(examples), jnp.zeros(()))
    state = training.init(params, optimizer, jax.random.key(3))
    data, total, patterns = jnp.eye(examples), np.zeros(examples), set()
    for _ in range(8):
        state, metrics = train(state, data)
        visits = np.asarray(state.params[0]) - total
        total = np.asarray(state.params[0])
        assert set(visits) <= {0.0, 1.0}
        assert visits.sum() == examples // batch_size * batch_size
        patterns.add((tuple(visits), float(metrics["first"])))
    assert len(patterns) > 1


def test_metrics_are_means_and_keys_differ():
    def loss(params, batch, key):
        return params * 0 + jnp.mean(batch), {"noise": jax.random.uniform(key)}

    train = training.epoch(loss, optax.sgd(0.0), batch_size=5)
    state = training.init(jnp.zeros(()), optax.sgd(0.0), jax.random.key(0))
    data, noise = jnp.arange(20.0), []
    for _ in range(3):
        state, metrics = train(state, data)
        np.testing.assert_allclose(metrics["loss"], 9.5)
        noise.append(float(metrics["noise"]))
    assert len(set(noise)) == 3


def test_state_is_donated_and_params_are_kept():
    optimizer = optax.adam(0.1)
    shared = jnp.ones(3)  # one buffer twice, as an LSTM's initial carry holds it
    params = {"w": shared, "b": shared}
    state = training.init(params, optimizer, jax.random.key(0))
    data = (jnp.ones((8, 3)), jnp.ones((8, 3)))

    def loss(params, batch, key):
        return jnp.mean((batch[0] * params["w"] + params["b"] - batch[1]) ** 2), {}

    after, _ = training.epoch(loss, optimizer, batch_size=4)(state, data)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, after)))


@pytest.mark.parametrize(("examples", "batch_size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_predict_is_apply(examples, batch_size):
    cell = rnnjax.lstm(3, 4)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (examples, 5, 3))

    def apply(params, xs):
        return rnnjax.unroll(cell, params, xs)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-12),
        training.predict(apply, params, xs, batch_size=batch_size),
        apply(params, xs),
    )


MISUSE = {
    "too few": (
        lambda: training.epoch(regression, optax.sgd(0.1), batch_size=9)(
            start_of_regression(optax.sgd(0.1)), regression_data(8)
        ),
        ValueError,
        "8 examples, fewer than batch_size=9",
    ),
    "unequal": (
        lambda: training.epoch(regression, optax.sgd(0.1), batch_size=2)(
            start_of_regression(optax.sgd(0.1)), (jnp.ones((8, 3)), jnp.ones(7))
        ),
        ValueError,
        "same number of examples",
    ),
    "no batch": (
        lambda: training.epoch(regression, optax.sgd(0.1), batch_size=0),
        ValueError,
        "batch_size is 0",
    ),
    "legacy key": (
        lambda: training.init({}, optax.sgd(0.1), jax.random.PRNGKey(0)),
        TypeError,
        "legacy",
    ),
    "nothing": (
        lambda: training.predict(lambda p, x: x, (), jnp.ones((0, 3))),
        ValueError,
        "one or more",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name):
    call, error, sentence = MISUSE[name]
    with pytest.raises(error, match=sentence):
        call()
