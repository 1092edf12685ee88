"""Laws of training on a mesh; `test_mesh` runs this file with eight devices."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from regression import regression, regression_data, same_bits, start_of_regression

import rnnjax
from rnnjax import training

MESHES = {
    "eight": lambda: mesh_of(8),
    "by two axes": lambda: jax.make_mesh((4, 2), ("data", "model")),
    "data last": lambda: jax.make_mesh((2, 4), ("model", "data")),
}
CELL = rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.dropout(0.3), rnnjax.dense(4, 1))


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])


def sequences(examples):
    xs = np.random.default_rng(0).normal(size=(examples, 5, 3))
    return xs, xs.sum((1, 2))


def loss_of_sequences(params, batch, key):
    xs, targets = batch
    _, ys = rnnjax.unroll(CELL, params, xs, key=key)
    error = ys[:, -1, 0] - targets
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def epochs(mesh, data, loss, params, batch_size=16):
    """The metrics of three epochs and the params after them."""
    optimizer = optax.adam(0.05)
    train = training.epoch(loss, optimizer, batch_size=batch_size, mesh=mesh)
    state, logged = training.init(params, optimizer, jax.random.key(1)), []
    for _ in range(3):
        state, metrics = train(state, data)
        logged.append({name: float(value) for name, value in metrics.items()})
    return logged, state.params


def close(one, other, tolerance=1e-9):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        one,
        other,
    )


def epochs_of_sequences(mesh):
    params = CELL.init(jax.random.key(0))
    return epochs(mesh, sequences(48), loss_of_sequences, params)


@pytest.fixture(scope="module")
def on_one_device():
    jax.config.update("jax_enable_x64", True)
    return epochs_of_sequences(mesh_of(1))


@pytest.mark.parametrize("name", MESHES)
def test_losses_are_those_of_one_device(name, on_one_device):
    close(epochs_of_sequences(MESHES[name]()), on_one_device)


def regressed(mesh, loss=regression, examples=48):
    params = {"w": jnp.array([0.5, -0.5, 0.25]), "b": jnp.zeros(())}
    return epochs(mesh, regression_data(examples), loss, params)


@pytest.mark.float32
@pytest.mark.parametrize("count", [2, 8])
def test_losses_in_float32_agree_to_a_millionth(count):
    close(regressed(mesh_of(1))[0], regressed(mesh_of(count))[0], tolerance=1e-6)


def test_a_loss_that_is_no_mean_over_examples_is_that_of_the_whole_batch():
    """Devices count different numbers of examples: means of means would be wrong."""

    def loss(params, batch, key):
        xs, ys = batch
        counts = (ys > 0).astype(xs.dtype)
        errors = (xs @ params["w"] + params["b"] - ys) ** 2
        return jnp.sum(counts * errors) / jnp.sum(counts), {}

    close(regressed(mesh_of(8), loss), regressed(mesh_of(1), loss))


def test_one_batch_of_everything_is_the_same_without_a_mesh():
    close(regressed(mesh_of(8), examples=16), regressed(None, examples=16))


@pytest.mark.parametrize(("examples", "batch_size"), [(32, 8), (40, 16), (8, 8)])
def test_examples_are_visited_once_in_a_new_order(examples, batch_size):
    """Plain gradient descent on a linear loss counts the visits of each example."""

    def loss(params, batch, key):
        first, last = jnp.argmax(batch, axis=1)[jnp.array([0, -1])]
        return -jnp.sum(batch @ params), {"met": (first * last).astype(batch.dtype)}

    optimizer, mesh = optax.sgd(1.0), mesh_of(8)
    train = training.epoch(loss, optimizer, batch_size=batch_size, mesh=mesh)
    state = training.init(jnp.zeros(examples), optimizer, jax.random.key(3))
    data = jax.device_put(jnp.eye(examples), NamedSharding(mesh, PartitionSpec("data")))
    total, patterns = np.zeros(examples), set()
    for _ in range(8):
        state, metrics = train(state, data)
        visits = np.asarray(state.params) - total
        total = np.asarray(state.params)
        assert set(visits) <= {0.0, 1.0}
        assert visits.sum() == examples // batch_size * batch_size
        patterns.add((tuple(visits), float(metrics["met"])))
    assert (len(patterns) > 1) == (examples > batch_size)


def test_only_gradients_and_metrics_travel():
    optimizer = optax.adam(0.1)
    train = training.epoch(regression, optimizer, batch_size=16, mesh=mesh_of(8))
    lowered = train.lower(start_of_regression(optimizer), regression_data(64))
    text = lowered.compile().as_text() or ""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf" ({kinds})(?:-start)?\(", text)
    assert set(found) == {"all-reduce"}
    assert "f64[8,3]" in text  # of 64 examples each device has eight
    assert "f64[64,3]" not in text


@pytest.mark.parametrize(
    ("name", "examples", "batch_size"),
    [("eight", 1, 3), ("eight", 20, 9), ("by two axes", 8, 1000)],
)
def test_predict_is_apply(name, examples, batch_size):
    params = CELL.init(jax.random.key(0))
    xs = sequences(examples)[0]

    def apply(params, xs):
        return rnnjax.unroll(CELL, params, xs)

    found = training.predict(
        apply, params, xs, batch_size=batch_size, mesh=MESHES[name]()
    )
    close(found, apply(params, xs))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(found))


def fit(out, mesh, epochs, resume=False):
    optimizer = optax.adam(0.05)
    state, history = start_of_regression(optimizer), []
    if resume:
        state, history = training.resume(out, state, {}, mesh=mesh)
    return training.fit(
        training.epoch(regression, optimizer, batch_size=8, mesh=mesh),
        state,
        regression_data(32),
        epochs=epochs,
        out=out,
        config={},
        evaluate=lambda params: {"b": params["b"]},
        history=history,
        mesh=mesh,
    )


def losses(history):
    return [record["loss"] for record in history]


def test_a_run_goes_on_on_other_devices(tmp_path):
    whole, history = fit(tmp_path / "whole", mesh_of(1), 5)
    assert losses(history)[-1] < losses(history)[0]
    fit(tmp_path / "moved", mesh_of(8), 2)
    fit(tmp_path / "moved", mesh_of(2), 4, resume=True)
    moved, again = fit(tmp_path / "moved", MESHES["by two axes"](), 5, resume=True)
    close(moved.params, whole.params)
    close(losses(again), losses(history))
    names = sorted(path.name for path in (tmp_path / "moved").iterdir())
    assert names == ["checkpoint.npz", "metrics.jsonl"]
    log = (tmp_path / "moved/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log] == again
    # Without a mesh too, where the batches are others.
    _, longer = fit(tmp_path / "moved", None, 6, resume=True)
    assert longer[:5] == again


def test_a_resumed_run_on_the_same_devices_has_the_same_bits(tmp_path):
    whole, _ = fit(tmp_path / "whole", mesh_of(8), 3)
    fit(tmp_path / "cut", mesh_of(8), 1)
    resumed, _ = fit(tmp_path / "cut", mesh_of(8), 3, resume=True)
    same_bits(resumed, whole)
    assert resumed.params["w"].sharding.is_fully_replicated
    assert len(resumed.params["w"].devices()) == 8


MISUSES = {
    "a batch": (
        lambda: training.epoch(
            regression, optax.sgd(0.1), batch_size=20, mesh=mesh_of(8)
        ),
        "batch_size is 20, which 8 devices along the mesh's axis 'data' cannot share "
        "equally. Write batch_size=16",
    ),
    "a small batch": (
        lambda: training.epoch(
            regression, optax.sgd(0.1), batch_size=3, mesh=mesh_of(8)
        ),
        "Write batch_size=8",
    ),
    "examples": (
        lambda: training.fit(
            training.epoch(regression, optax.sgd(0.1), batch_size=8, mesh=mesh_of(8)),
            start_of_regression(optax.sgd(0.1)),
            regression_data(30),
            epochs=1,
            out="run",
            config={},
            mesh=mesh_of(8),
        ),
        r"data has 30 examples, which 8 devices .* Write data\[:24\]",
    ),
}


@pytest.mark.parametrize(("call", "sentence"), MISUSES.values(), ids=MISUSES)
def test_what_devices_cannot_share_is_refused(call, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_sharded_state_is_restored_on_other_devices(tmp_path):
    orbax = pytest.importorskip("rnnjax.training.orbax")

    def start(mesh, spec):
        """Wide arrays are divided, numbers are whole."""
        state = training.init(
            {"w": jnp.arange(64.0).reshape(16, 4), "b": jnp.zeros(())},
            optax.adam(0.1),
            jax.random.key(7),
        )

        def place(leaf):
            return jax.device_put(
                leaf, NamedSharding(mesh, spec if leaf.ndim else PartitionSpec())
            )

        return jax.tree.map(place, state)

    saved = start(mesh_of(8), PartitionSpec("data"))
    orbax.save(tmp_path / "1", saved, {"epoch": 1})
    for mesh, spec in (
        (mesh_of(2), PartitionSpec("data")),
        (MESHES["by two axes"](), PartitionSpec("data", "model")),
        (mesh_of(1), PartitionSpec()),
    ):
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            start(mesh, spec),
        )
        found, metadata = orbax.restore(tmp_path / "1", template)
        assert metadata == {"epoch": 1}
        same_bits(found, saved)
        assert found.params["w"].sharding == NamedSharding(mesh, spec)
        assert found.key.sharding.device_set == set(mesh.devices.flat)
    plain = jax.eval_shape(lambda: start(mesh_of(1), PartitionSpec()))
    found, _ = orbax.restore(tmp_path / "1", plain, mesh=mesh_of(4))
    same_bits(found, saved)
    assert all(len(leaf.devices()) == 4 for leaf in jax.tree.leaves(found))
    # A template's own sharding is kept.
    mixed = plain._replace(params=start(mesh_of(8), PartitionSpec("data")).params)
    found, _ = orbax.restore(tmp_path / "1", mixed, mesh=mesh_of(8))
    assert found.params["w"].sharding.spec == PartitionSpec("data")
    assert found.key.sharding.spec == PartitionSpec()
