# pyright: reportArgumentType=false
"""Every refusal of training, as the page of errors shows it, says what to write."""

import jax
import jax.numpy as jnp
import optax
import pytest

import rnnjax
from rnnjax import training

OPTIMIZER = optax.sgd(0.1)
PARAMS = rnnjax.lstm(5, 4).init(jax.random.key(0))


def loss(params, batch, key):
    return jnp.mean((batch - params) ** 2), {}


def new():
    return training.init(jnp.zeros(()), OPTIMIZER, jax.random.key(0))


def fit(config, data=None, **options):
    data = jnp.ones(8) if data is None else data
    return training.fit(
        training.epoch(loss, OPTIMIZER, batch_size=4),
        new(),
        data,
        epochs=1,
        out="r",
        config=config,
        **options,
    )


def text_restored():
    with open("notes.txt", "w") as file:
        file.write("loss 0.5")
    training.restore("notes.txt", PARAMS)


def other_sizes_restored():
    training.save("sizes.npz", PARAMS, {})
    training.restore("sizes.npz", rnnjax.lstm(5, 6).init(jax.random.key(0)))


# name: (call, error, what the sentence must say)
MISUSES = {
    "a folder that holds another run": (
        lambda: [fit({}), fit({})],
        FileExistsError,
        "checkpoint.npz holds 1 epoch of another run, which would be lost.*resume.*"
        "overwrite=True",
    ),
    "a config with NaN": (
        lambda: fit({"rate": jnp.nan}),
        TypeError,
        r"config\['rate'\] is nan; expected JSON: finite numbers.*Write float\(x\)",
    ),
    "a config that is not JSON": (
        lambda: fit({"rate": jnp.float32(0.1)}),
        TypeError,
        r"config\['rate'\] is .*; expected JSON.*Write float\(x\)",
    ),
    "more epochs of a schedule over the whole run": (
        lambda: [fit({"epochs": 1}), training.resume("r", new(), {"epochs": 2})],
        ValueError,
        "epochs=1; this one has epochs=2.*one cycle.*cannot be extended.*epochs=1, or "
        "start a new run",
    ),
    "a mesh that is none": (
        lambda: training.epoch(loss, OPTIMIZER, batch_size=4, mesh=jax.devices()),
        TypeError,
        r"mesh is \[.*; expected a jax\.sharding\.Mesh\. Write jax\.make_mesh\(",
    ),
    "a mesh without an axis for data": (
        lambda: training.epoch(
            loss, OPTIMIZER, batch_size=4, mesh=jax.make_mesh((1,), ("model",))
        ),
        ValueError,
        r"mesh has the axes \('model',\); expected one called 'data'.*jax\.make_mesh\(",
    ),
    "an iterator without a number of steps": (
        lambda: fit({}, iter([jnp.ones(8)])),
        ValueError,
        "steps is None, and data is an iterator.*Write steps=100",
    ),
    "an iterator that ends within an epoch": (
        lambda: fit({}, iter([jnp.ones(8)]), steps=3),
        ValueError,
        "data ended before the epoch did.*Write itertools.cycle",
    ),
    "saving no array": (
        lambda: training.save("a.npz", (), {"cell": "dropout"}),
        ValueError,
        r"state is \(\), which has no array.*Write .*save\(path, params, metadata\)",
    ),
    "saving text as an array": (
        lambda: training.save("a.npz", {"name": "lstm", "params": PARAMS}, {}),
        TypeError,
        r"state has 'lstm' as its leaf \['name'\].*metadata",
    ),
    "saving two entries of one name": (
        lambda: training.save("a.npz", PARAMS, {1: 0.5, "1": 0.7}),
        ValueError,
        "metadata has the name '1' twice.*Write strings",
    ),
    "saving to a folder": (
        lambda: training.save(".", PARAMS, {}),
        ValueError,
        r"\. is a folder; expected the path of a file.*\./checkpoint\.npz",
    ),
    "restoring a file that is not there": (
        lambda: training.restore("gone.npz", PARAMS),
        FileNotFoundError,
        "gone.npz does not exist; expected a checkpoint.*Start without resuming",
    ),
    "restoring a file of another kind": (
        text_restored,
        ValueError,
        "notes.txt cannot be read as a checkpoint.*left as it is",
    ),
    "restoring into params of other sizes": (
        other_sizes_restored,
        ValueError,
        r"sizes.npz holds \w+ as float\d+\[\d+,?\d*\]; expected float.*left as it is",
    ),
}


@pytest.mark.float32
@pytest.mark.parametrize(("call", "error", "sentence"), MISUSES.values(), ids=MISUSES)
def test_a_refusal_says_what_to_write(call, error, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"(?s){sentence}"):
        call()
