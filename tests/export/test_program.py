"""Programs of `rnnjax.export`, run where this library does not exist."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import export

pytest.importorskip("flatbuffers", reason="jax.export writes files with it")

# What a user's own server would run: no import but JAX and NumPy.
RUNNER = """
    import json, sys
    import jax, jax.export, numpy as np

    folder = sys.argv[1]
    for name in json.load(open(f"{folder}/names.json")):
        with open(f"{folder}/{name}.jax", "rb") as file:
            program = jax.export.deserialize(bytearray(file.read()))
        with np.load(f"{folder}/{name}.npz") as given:
            leaves = [given[f"arr_{i}"] for i in range(len(given.files))]
        args, kwargs = jax.tree.unflatten(program.in_tree, leaves)
        out = jax.tree.leaves(program.call(*args, **kwargs))
        np.savez(f"{folder}/{name}.out.npz", *map(np.asarray, out))
    assert not any(name.split(".")[0] == "rnnjax" for name in sys.modules)
"""

MODEL = rnnjax.stack(
    rnnjax.embedding(9, 3),
    rnnjax.bidirectional(rnnjax.lstm(3, 4), rnnjax.gru(3, 5)),
    rnnjax.dropout(0.5),
    rnnjax.dense(9, 2),
)
CASES = {
    "lstm": (rnnjax.lstm(3, 4), jnp.zeros(3)),
    "gru": (rnnjax.gru(3, 4), jnp.zeros(3)),
    "reset_before": (rnnjax.gru(3, 4, reset_after=False), jnp.zeros(3)),
    "relu": (rnnjax.elman(3, 4, activation=jax.nn.relu), jnp.zeros(3)),
    "model": (MODEL, jnp.zeros((), jnp.int32)),
    "learned": (rnnjax.learned_carry(rnnjax.lstm(3, 4)), jnp.zeros(3)),
}


def random_like(tree, seed, leading=()):
    draw = np.random.default_rng(seed)

    def one(leaf):
        shape = (*leading, *jnp.shape(leaf))
        if jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            return draw.integers(0, 9, shape).astype(np.int32)
        return draw.normal(size=shape).astype(jnp.result_type(leaf))

    return jax.tree.map(one, tree)


def arguments(cell, x, batch=3, time=6):
    params = random_like(cell.init(jax.random.key(0)), 1)
    carry = random_like(cell.initial_carry(params), 2, (batch,))
    lengths = jnp.array([time, 0, min(time, 4)], np.int32)[:batch]
    return params, carry, random_like(x, 3, (batch, time)), lengths


def close(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.float32
def test_files_run_in_a_process_without_this_library(tmp_path):
    expected, called = {}, {}
    for name, (cell, x) in CASES.items():
        params, carry, xs, lengths = arguments(cell, x)
        values, plain_carry = export.plain(params), export.plain(carry)
        expected[name] = rnnjax.unroll(cell, params, xs, carry=carry, lengths=lengths)
        called[name] = (
            export.unroll(cell, params, x),
            (plain_carry, xs, lengths),
        )
        if name in ("lstm", "learned"):
            expected[f"{name}_params"] = expected[name]
            shapes = jax.eval_shape(cell.init, jax.random.key(0))
            called[f"{name}_params"] = (
                export.unroll(cell, shapes, x, bake=False),
                (values, plain_carry, xs, lengths),
            )
        if name != "model":  # which has no step
            now = xs[:, 0]
            each = jax.vmap(cell.step, in_axes=(None, 0, 0))
            expected[f"{name}_step"] = each(params, carry, now)
            called[f"{name}_step"] = (
                export.step(cell, params, x),
                (plain_carry, now),
            )
        expected[f"{name}_start"] = cell.initial_carry(params)
        called[f"{name}_start"] = (export.initial_carry(cell, params), ())
    for name, (program, given) in called.items():
        (tmp_path / f"{name}.jax").write_bytes(program.serialize())
        leaves = jax.tree.leaves(given)
        np.savez(tmp_path / f"{name}.npz", *map(np.asarray, leaves))
    (tmp_path / "names.json").write_text(json.dumps(list(called)))

    # It has JAX and NumPy, and no way to find this library.
    found = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", textwrap.dedent(RUNNER), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=found, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, value in expected.items():
        with np.load(tmp_path / f"{name}.out.npz") as out:
            found = [out[k] for k in out.files]
        # Dictionaries are flattened by name, named tuples in their order.
        close(found, export.plain(value))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (3, 6), (2, 11)])
def test_one_program_for_all_batches_and_times(name, batch, time):
    cell, x = CASES[name]
    params, carry, xs, lengths = arguments(cell, x, batch, time)
    program = export.unroll(cell, params, x)
    found = program.call(export.plain(carry), xs, lengths)
    close(
        found,
        export.plain(rnnjax.unroll(cell, params, xs, carry=carry, lengths=lengths)),
    )


def test_nothing_of_the_native_library_is_called():
    cell, x = CASES["lstm"]
    params, carry, xs, _ = arguments(cell, x)
    with jax.enable_x64(False):
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        carry, xs = jax.tree.map(lambda a: a.astype(np.float32), (carry, xs))
        program = export.unroll(cell, params, x.astype(jnp.float32))
        assert "@rnnjax_" not in program.mlir_module()
        assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
        # The same function, compiled here, goes on with its kernel.
        run = jax.jit(lambda xs: rnnjax.unroll(cell, params, xs))
        native = rnnjax.kernels.status().lstm.name == "native"
        assert ("@rnnjax_" in run.lower(xs).as_text()) == native


@pytest.mark.float32
def test_programs_can_be_differentiated():
    cell, x = CASES["gru"]
    params, carry, xs, lengths = arguments(cell, x)
    program = export.unroll(cell, params, x, bake=False)
    program = jax.export.deserialize(program.serialize(vjp_order=1))

    def exported(values):
        return (program.call(values, carry, xs, lengths)[1] ** 2).sum()

    def direct(params):
        return (
            rnnjax.unroll(cell, params, xs, carry=carry, lengths=lengths)[1] ** 2
        ).sum()

    found = jax.grad(exported)(export.plain(params))
    expected = export.plain(jax.grad(direct)(params))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("name", CASES)
def test_a_training_step_is_exported_by_jax_alone(name):
    """The user's own function around a cell, for three platforms in one file."""
    cell, x = CASES[name]
    params, _, xs, lengths = arguments(cell, x)
    leaves, tree = jax.tree.flatten(params)

    @jax.jit
    def step(leaves, xs, lengths):
        def loss(leaves):
            params = jax.tree.unflatten(tree, leaves)
            return jnp.mean(rnnjax.unroll(cell, params, xs, lengths=lengths)[1] ** 2)

        return jax.value_and_grad(loss)(leaves)

    platforms = ("cpu", "cuda", "tpu")
    program = jax.export.export(step, platforms=platforms)(leaves, xs, lengths)
    program = jax.export.deserialize(program.serialize())
    assert program.platforms == platforms
    assert "@rnnjax_" not in program.mlir_module()
    found, expected = program.call(leaves, xs, lengths), step(leaves, xs, lengths)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_bfloat16():
    cell, x = CASES["lstm"]
    params = jax.tree.map(
        lambda p: p.astype(jnp.bfloat16), cell.init(jax.random.key(0))
    )
    program = export.unroll(cell, params, x)
    carry = {"c": jnp.zeros((2, 4), jnp.bfloat16), "h": jnp.zeros((2, 4), jnp.bfloat16)}
    lengths = np.array([5, 5], np.int32)
    after, ys = program.call(carry, np.ones((2, 5, 3), x.dtype), lengths)
    assert ys.dtype == after["c"].dtype == jnp.bfloat16


REFUSED = {
    "shapes": (
        lambda: export.unroll(
            rnnjax.lstm(3, 4),
            jax.eval_shape(rnnjax.lstm(3, 4).init, jax.random.key(0)),
            jnp.zeros(3),
        ),
        TypeError,
        "bake=False",
    ),
    "no step": (
        lambda: export.step(
            MODEL, MODEL.init(jax.random.key(0)), jnp.zeros((), jnp.int32)
        ),
        rnnjax.NoStepError,
        "whole sequence",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence):
        call()


def test_a_cell_that_counts_the_steps_says_so():
    cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.static)
    with pytest.raises(Exception) as raised:  # noqa: PT011, JAX's own
        export.unroll(cell, cell.init(jax.random.key(0)), jnp.zeros(3))
    assert "leaves batch and time open" in "".join(raised.value.__notes__)
