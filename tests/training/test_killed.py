"""Training that is killed, again and again, and the checkpoints that it leaves.

Run as a program this file is a server that forks: its children have everything imported
and train; none of XLA's threads exists before the fork, so it is safe.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training

KILLS, SEED = 20, 0
CONFIG = {"inputs": 5}


def run():
    """What is trained, quick to compile for every start: ``(train, state, data)``."""
    optimizer = optax.adam(1e-2)
    xs = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)

    def loss(params, batch, key):
        xs, targets = batch
        noisy = xs + 0.1 * jax.random.normal(key, xs.shape)
        return jnp.mean((noisy @ params["w"] + params["b"] - targets) ** 2), {}

    params = {"w": np.ones(5, np.float32), "b": np.zeros((), np.float32)}
    state = training.init(params, optimizer, jax.random.key(5))
    train = training.epoch(loss, optimizer, batch_size=8)
    return train, state, (xs, xs[:, 0] - xs[:, 1])


def fit(out, epochs):
    """Start or go on, as a user's program with ``--resume`` would."""
    train, state, data = run()
    history = []
    if (out / "checkpoint.npz").exists():
        state, history = training.resume(out, state, CONFIG)
    return training.fit(
        train, state, data, epochs=epochs, out=out, config=CONFIG, history=history
    )


def serve(out: pathlib.Path) -> None:
    """For each line ``[when, delay]`` a training that is killed then."""
    for line in sys.stdin:
        when, delay = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.dup2(writing, 1)
            try:
                fit(out, 10**6)
            finally:
                os._exit(1)
        os.close(writing)
        if when == "training":
            os.read(reading, 1)  # "compiled in ..."
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(reading)
        print(json.dumps([os.WIFSIGNALED(status), os.WTERMSIG(status)]), flush=True)


@pytest.mark.float32
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_twenty_kills_lose_no_full_epoch(tmp_path):
    out = tmp_path / "killed"
    draw, template = np.random.default_rng(SEED), run()[1]
    command = [sys.executable, __file__, str(out)]
    seen, log, moments = 0, [], []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for kill in range(KILLS):
            # One in four may fall into the start, where it resumes and compiles.
            when = "start" if kill % 4 == 3 else "training"
            moments.append(
                (when, float(draw.uniform(0, 0.2 + 0.4 * (when == "start"))))
            )
            print(json.dumps(moments[-1]), file=server.stdin, flush=True)
            assert json.loads(server.stdout.readline()) == [True, signal.SIGKILL]
            if not (out / "checkpoint.npz").exists():
                assert seen == 0, moments
                continue
            found, metadata = training.restore(out / "checkpoint.npz", template)
            history = metadata["history"]
            assert int(found.step) == 4 * len(history), moments
            numbers = [record["epoch"] for record in history]
            assert numbers == list(range(1, len(history) + 1)), moments
            # What was there is kept, to the last digit of its loss.
            assert history[:seen] == log[:seen], moments
            assert len(history) >= seen, moments
            seen, log = len(history), history
        server.stdin.close()
    assert seen > KILLS, moments  # it did go on

    state, history = fit(out, seen + 2)
    whole, uninterrupted = fit(tmp_path / "whole", seen + 2)
    assert losses(history) == losses(uninterrupted)
    for one, other in zip(arrays(state), arrays(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    # Nothing is left of the files that a killed process was writing.
    assert sorted(os.listdir(out)) == ["checkpoint.npz", "metrics.jsonl"]


@pytest.mark.float32
def test_a_run_clears_up_after_the_dead_alone(tmp_path):
    # No process has the first number; the second one's runs; the others are not ours.
    dead, alive = 2**30, os.getppid()
    kept = [
        f"checkpoint.npz.{alive}.tmp",
        "checkpoint.npz.mine.tmp",
        f"other.npz.{dead}.tmp",
    ]
    for name in (f"checkpoint.npz.{dead}.tmp", f"metrics.jsonl.{dead}.tmp", *kept):
        (tmp_path / name).write_bytes(b"half")
    fit(tmp_path, 1)
    expected = ["checkpoint.npz", "metrics.jsonl", *kept]
    assert sorted(os.listdir(tmp_path)) == sorted(expected)


def losses(history):
    return [record["loss"] for record in history]


def arrays(state):
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


if __name__ == "__main__":
    serve(pathlib.Path(sys.argv[1]))
