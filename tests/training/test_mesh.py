"""Training on a mesh, which takes more devices than this process has."""

import os
import pathlib
import subprocess
import sys

import jax
import optax
import pytest
from regression import regression, regression_data, start_of_regression

from rnnjax import training

EIGHT = "--xla_force_host_platform_device_count=8"


def test_laws_on_eight_devices():
    laws = pathlib.Path(__file__).with_name("on_eight_devices.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", laws],
        env={**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {EIGHT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_mesh_the_program_knows_of_none():
    optimizer = optax.adam(0.1)
    state, data = start_of_regression(optimizer), regression_data(8)

    def text(mesh):
        train = training.epoch(regression, optimizer, batch_size=4, mesh=mesh)
        return train.lower(state, data).as_text()

    named = '"data"'
    assert named not in text(None)
    assert named in text(jax.make_mesh((1,), ("data",)))


@pytest.mark.float32
def test_a_mesh_of_one_device_takes_every_example_once():
    mesh = jax.make_mesh((1,), ("data",))
    optimizer = optax.sgd(0.0)

    def loss(params, batch, key):
        return params * 0.0, {"sum": batch.sum()}

    train = training.epoch(loss, optimizer, batch_size=3, mesh=mesh)
    state = training.init(jax.numpy.zeros(()), optimizer, jax.random.key(0))
    _, metrics = train(state, jax.numpy.arange(12.0))
    assert float(metrics["sum"]) * 4 == 66
