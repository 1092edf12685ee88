import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import training


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax multiplies its integer counters with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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


def regression(params, batch, key):
    xs, ys = batch
    error = xs @ params["w"] + params["b"] - ys
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def start_of_regression(optimizer):
    params = {"w": jnp.array([0.5, -0.5, 0.25]), "b": jnp.zeros(())}
    return training.init(params, optimizer, jax.random.key(0))


def regression_data(examples):
    draw = np.random.default_rng(0)
    xs = draw.normal(size=(examples, 3))
    return jnp.array(xs), jnp.array(xs @ [1.0, 2.0, 3.0] + 0.5)


def same_bits(one, other):
    def bits(leaf):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes(), jnp.shape(leaf), jnp.result_type(leaf)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert bits(a) == bits(b)


# An epoch.


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


# Checkpoints.

DTYPES = [
    *("bool", "int8", "uint16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "complex64", "float8_e4m3fn", "float8_e5m2", "int4"),
]


def every_kind_of_leaf():
    values = jnp.arange(6.0).reshape(2, 3) - 2
    return {
        "arrays": {dtype: values.astype(dtype) for dtype in DTYPES},
        "odd/name [0]": (jnp.zeros(()), jnp.zeros((0, 3)), None, [np.float32(3.5), 2]),
        "nan": jnp.array([np.nan, np.inf, -0.0]),
        "params": rnnjax.gru(2, 3, reset_after=False).init(jax.random.key(0)),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2, impl="rbg"), (2, 3)),
    }


def test_checkpoint_round_trip(tmp_path):
    tree, path = every_kind_of_leaf(), tmp_path / "checkpoint.npz"
    training.save(path, tree, {"name": "é", "list": [1, None]})
    expected = jax.tree.map(jnp.asarray, tree)
    shapes = jax.eval_shape(lambda: expected)
    for template in (tree, shapes):
        restored, metadata = training.restore(path, template)
        same_bits(restored, expected)
        assert metadata == {"name": "é", "list": [1, None]}
    assert os.listdir(tmp_path) == ["checkpoint.npz"]
    with np.load(path) as arrays:  # readable without this library, nothing pickled
        np.testing.assert_array_equal(arrays["['params'].w_hh"], tree["params"].w_hh)


def small_state():
    return start_of_regression(optax.adam(0.1))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.npz"
    training.save(path, small_state(), {"config": {}, "history": []})
    return path


def refused(path, template, *words):
    """Restoring raises one sentence with these words, and leaves the file alone."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.npz") as caught:
        training.restore(path, template)
    for word in (*words, "left as it is"):
        assert word in str(caught.value).replace("was left", "left")
    assert path.read_bytes() == before


def test_flipped_bytes_are_refused_or_harmless(checkpoint):
    content, state = checkpoint.read_bytes(), small_state()
    outcomes = set()
    for at in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        checkpoint.write_bytes(damaged)
        try:
            restored, _ = training.restore(checkpoint, state)
        except ValueError as error:
            outcomes.add("checkpoint.npz" in str(error))
        else:
            same_bits(restored, state)
            outcomes.add("harmless")  # a date, say
    assert outcomes == {True, "harmless"}


def test_truncated_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    for length in [0, 1, 21, 22, *range(100, len(content), 97), len(content) - 1]:
        checkpoint.write_bytes(content[:length])
        refused(checkpoint, small_state(), "damaged or something else")


def foreign_files():
    def npz(**arrays):
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def with_header(header):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rnnjax.json", header)
        return file.getvalue()

    leaf = {"format": "rnnjax checkpoint 1", "metadata": 0, "leaves": {"w": {}}}
    return {
        "text": b"epoch,loss\n1,0.5\n",
        "npz": npz(w=np.ones(3)),
        "pickled": npz(w=np.array([{}], dtype=object)),
        "no json": with_header("{"),
        "other format": with_header('{"format": "somebody else 7"}'),
        "no format": with_header("[]"),
        "lost array": with_header(json.dumps(leaf)),
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_foreign_is_refused(kind, tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(foreign_files()[kind])
    refused(path, small_state(), "damaged or something else")


TEMPLATES = {
    "another optimizer": (lambda s: s._replace(opt_state=()), "opt_state", "too many"),
    "another name": (lambda s: s._replace(params={"w": s.params["w"]}), "params['b']"),
    "one more": (
        lambda s: s._replace(params={**s.params, "c": s.params["b"]}),
        "lacks [\"params['c']\"]",
    ),
    "shape": (
        lambda s: s._replace(params={**s.params, "w": jnp.zeros(4)}),
        "params['w'] as float64[3]; expected float64[4]",
    ),
    "dtype": (
        lambda s: s._replace(params={**s.params, "w": jnp.zeros(3, jnp.bfloat16)}),
        "expected bfloat16[3]",
    ),
    "kind of key": (
        lambda s: s._replace(key=jax.random.key(0, impl="rbg")),
        "key as key<fry>[]; expected key<rbg>[]",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_does_not_fit_is_refused(name, checkpoint):
    change, *words = TEMPLATES[name]
    refused(checkpoint, change(small_state()), *words)


def test_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz does not exist"):
        training.restore(tmp_path / "gone.npz", small_state())


def test_failed_save_leaves_the_old_file(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.save(checkpoint, small_state(), {})
    with pytest.raises(TypeError):
        training.save(checkpoint, small_state(), {"config": object()})
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["checkpoint.npz"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_saves_leave_a_whole_file(tmp_path):
    script = """
        import sys, numpy as np
        from rnnjax import training
        for i in range(10**6):
            training.save(sys.argv[1], np.full(200_000, i, np.float32), i)
            print(i, flush=True)
    """
    path = tmp_path / "checkpoint.npz"
    for saves in (1, 4, 9):
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(saves):
                assert process.stdout.readline()
            process.kill()
        template = jax.ShapeDtypeStruct((200_000,), jnp.float32)
        values, i = training.restore(path, template)
        assert i >= saves - 1
        assert (np.asarray(values) == i).all()


# A run.


class Run:
    """A small LSTM with dropout and a schedule, in a folder."""

    def __init__(self, out: pathlib.Path, epochs: int = 4, config: Any = None):
        cell = rnnjax.stack(rnnjax.lstm(2, 5), rnnjax.dropout(0.3), rnnjax.dense(5, 1))
        schedule = optax.cosine_onecycle_schedule(6 * epochs, 0.05)
        optimizer = optax.chain(optax.clip(1.0), optax.adamw(schedule))
        xs = np.random.default_rng(0).normal(size=(50, 6, 2)).astype(np.float32)
        self.data, self.epochs, self.out = (xs, xs.sum((1, 2))), epochs, out
        self.config = config or {"sizes": (2, 5, 1), "epochs": epochs}

        def loss(params, batch, key):
            xs, targets = batch
            _, ys = rnnjax.unroll(cell, params, xs, key=key)
            return jnp.mean((ys[:, -1, 0] - targets) ** 2), {}

        key = jax.random.key(5)
        self.state = training.init(cell.init(key), optimizer, key)
        self.train = training.epoch(loss, optimizer, batch_size=8)

    def fit(self, resume=False, evaluate=lambda params: {}):
        state, history = self.state, []
        if resume:
            state, history = training.resume(self.out, state, self.config)
        return training.fit(
            self.train,
            state,
            self.data,
            epochs=self.epochs,
            out=self.out,
            config=self.config,
            evaluate=evaluate,
            history=history,
        )


def log(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.mark.float32
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole, history = Run(tmp_path / "whole").fit()
    losses = [record["loss"] for record in history]
    assert losses[-1] < losses[0]

    def interrupt_after(epochs):
        def evaluate(params):
            if len(log(tmp_path / "cut")) == epochs:
                raise KeyboardInterrupt
            return {}

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "cut").fit(evaluate=interrupt_after(1))
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99}\n')  # logged, and killed before the checkpoint
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "cut").fit(resume=True, evaluate=interrupt_after(3))
    resumed, again = Run(tmp_path / "cut").fit(resume=True)
    same_bits(resumed, whole)
    assert [r["loss"] for r in again] == losses
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


@pytest.mark.float32
def test_finished_run_resumes_to_itself(tmp_path, capsys):
    whole, history = Run(tmp_path, epochs=2).fit(evaluate=lambda params: {"a": 1})
    assert [record["a"] for record in history] == [1.0, 1.0]
    again, same_history = Run(tmp_path, epochs=2).fit(resume=True)
    same_bits(again, whole)
    assert same_history == history
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["compiled", "epoch", "epoch"]
    assert printed[1].startswith("epoch 1/2  loss ")


@pytest.mark.float32
def test_resume_refuses_another_run(tmp_path):
    Run(tmp_path, epochs=1).fit()
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(ValueError, match="epochs=1; this one has epochs=3"):
        Run(tmp_path, epochs=3).fit(resume=True)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    training.save(tmp_path / "checkpoint.npz", Run(tmp_path).state, ["mine"])
    with pytest.raises(ValueError, match="no config and history"):
        Run(tmp_path).fit(resume=True)


def test_run_stops_where_the_loss_is_not_finite(tmp_path):
    def loss(params, batch, key):
        return params * jnp.where(params < -2, jnp.nan, 1.0), {}

    optimizer = optax.sgd(1.0)
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 2"):
        training.fit(
            training.epoch(loss, optimizer, batch_size=1),
            state,
            jnp.zeros(3),
            epochs=5,
            out=tmp_path,
            config={},
        )
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    _, history = training.resume(tmp_path, state, {})
    assert [record["epoch"] for record in history] == [1]


@pytest.mark.parametrize("enough", [0, 1, 3, 9])
def test_a_run_stops_when_it_is_told_to(enough, tmp_path):
    asked = []

    def stop(history):
        asked.append([record["epoch"] for record in history])
        return len(history) >= enough

    def fit(history=()):
        return training.fit(
            training.epoch(regression, OPTIMIZERS["sgd"], batch_size=4),
            start_of_regression(OPTIMIZERS["sgd"]),
            regression_data(8),
            epochs=5,
            out=tmp_path,
            config={},
            history=history,
            stop=stop,
        )[1]

    history = fit()
    ran = min(enough, 5)
    assert [record["epoch"] for record in history] == list(range(1, ran + 1))
    assert asked == [list(range(1, n + 1)) for n in range(ran + 1)]
    assert fit(history) == history  # a run that is over does not go on


def test_environment_names_what_results_depend_on():
    line = training.environment()
    for part in ("cpu", jax.__version__, np.__version__, rnnjax.__version__):
        assert part in line
