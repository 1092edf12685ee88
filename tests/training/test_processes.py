"""What training says and saves where several processes have a part each.

Run as a program this file is one of the processes.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from regression import regression, regression_data, same_bits, start_of_regression

from rnnjax import training

OPTIMIZER = optax.adam(0.1)


class Counted:
    """Batches of a process of its own, as a loader that shards its files has them."""

    def __init__(self, process):
        self.place = [process, 0]

    def __iter__(self):
        return self

    def __next__(self):
        process, number = self.place
        self.place = [process, number + 1]
        xs, ys = regression_data(8 * (process + 1))
        return np.asarray(xs[-8:]), np.asarray(ys[-8:])

    def get_state(self):
        return self.place

    def set_state(self, state):
        self.place = state


def wide(mesh, spec):
    w = jnp.arange(64.0, dtype=jnp.float32).reshape(16, 4)
    state = {"w": w, "key": jax.random.key(7)}
    specs = {"w": spec, "key": PartitionSpec()}
    return jax.tree.map(
        lambda leaf, spec: jax.jit(
            lambda: leaf, out_shardings=NamedSharding(mesh, spec)
        )(),
        state,
        specs,
    )


def refused(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def work(out, address, processes, process):
    """One process with two devices: what it found out, as JSON."""
    from rnnjax.training import orbax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, process)
    mesh = jax.make_mesh((2 * processes,), ("data",))
    train = training.epoch(regression, OPTIMIZER, batch_size=16, mesh=mesh)
    found: dict[str, Any] = {}

    def fit(data, **options):
        state = start_of_regression(OPTIMIZER)
        return training.fit(
            train, state, data, epochs=1, config={}, mesh=mesh, **options
        )

    xs = np.arange(8.0, dtype=np.float32)
    mine = xs[:5] if process == 0 else xs[5:]
    doubled = training.predict(lambda p, x: p * x, 2.0, mine, mesh=mesh)
    found["predicted"] = np.asarray(doubled).tolist()
    data = jax.tree.map(np.asarray, regression_data(8 + 2 * process))
    found["unequal"] = refused(lambda: fit(data, out=out / "unequal"))
    divided = wide(mesh, PartitionSpec("data"))
    found["npz"] = refused(lambda: training.save(out / "a.npz", divided, {}))

    found["reported"] = []
    hook = found["reported"].append
    _, history = fit(Counted(process), steps=3, out=out / "counted", on_epoch=hook)
    batches = Counted(9)
    state = start_of_regression(OPTIMIZER)
    training.resume(out / "counted", state, {}, data=batches, mesh=mesh)
    found["place"] = batches.place
    found["history"] = history

    orbax.save(out / "wide", divided, {"processes": processes})
    other = wide(mesh, PartitionSpec(None, "data"))
    again, _ = orbax.restore(out / "wide", other)
    found["columns"] = again["w"].sharding.spec == PartitionSpec(None, "data")
    found["values"] = [
        np.asarray(s.data).tolist() for s in again["w"].addressable_shards
    ]
    print(json.dumps(found))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes trained, and what each found out."""
    pytest.importorskip("orbax.checkpoint")
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(out), address, "2", str(process)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return out, [json.loads(output.splitlines()[-1]) for output, _ in said]


pytestmark = pytest.mark.float32


def test_every_process_gets_the_predictions_of_all(two):
    assert [found["predicted"] for found in two[1]] == [[2.0 * i for i in range(8)]] * 2


def test_refusals_are_the_same_everywhere(two):
    for process, found in enumerate(two[1]):
        count = [8, 10][process]
        expected = f"data has {count} examples in process {process}, and the processes"
        assert found["unequal"].startswith(f"{expected} have [8, 10]; expected as many")
        assert "rnnjax.training.orbax.save(path" in found["npz"]


def test_each_process_goes_on_where_its_own_batches_were(two):
    out, found = two
    assert [f["place"] for f in found] == [[0, 3], [1, 3]]
    assert found[0]["history"] == found[1]["history"]  # to the second
    assert [f["reported"] for f in found] == [found[0]["history"], []]
    with pytest.raises(ValueError, match="state in each of 2 processes, and this run"):
        training.resume(
            out / "counted", start_of_regression(OPTIMIZER), {}, data=Counted(0)
        )
    # One process writes.
    names = ["checkpoint.npz", "metrics.jsonl"]
    assert sorted(os.listdir(out / "counted")) == names


def test_a_divided_state_is_restored_by_other_processes(two):
    from rnnjax.training import orbax

    out, found = two
    expected = np.arange(64.0).reshape(16, 4)
    assert all(f["columns"] for f in found)
    columns = [column for f in found for column in f["values"]]
    np.testing.assert_array_equal(np.concatenate(columns, axis=1), expected)
    template = {"w": jnp.zeros((16, 4)), "key": jax.random.key(0)}
    state, metadata = orbax.restore(out / "wide", template)
    assert metadata == {"processes": 2}
    same_bits(state, {"w": jnp.asarray(expected), "key": jax.random.key(7)})


if __name__ == "__main__":
    work(pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
