"""What runs on a GPU: the default, Pallas interpreted, cuDNN against JAX's own LSTM."""

import functools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

import rnnjax
from rnnjax import kernels, scan
from rnnjax.kernels import (
    cudnn,
    cudnn_layout,
    equations,
    pallas,
    primitives,
    shared_memory,
)

from .test_primitives import (
    BATCH,
    SIGNALS,
    TIME,
    TRANSFORMATIONS,
    assert_close,
    draw,
    ensemble,
    forward_over_reverse,
    grad_of_vmap,
    jvp,
    nested_vmap,
    problem,
    reverse_over_reverse,
    scalar,
    value,
    vmap_of_grad,
    weights,
)

pytestmark = pytest.mark.float32

BUILD = {"lstm": rnnjax.lstm, "gru": rnnjax.gru}
EQUATIONS = {"lstm": equations.LSTM, "gru": equations.GRU}
DEFAULT = {"lstm": kernels.lstm, "gru": kernels.gru}
PALLAS = {"lstm": kernels.lstm_pallas, "gru": kernels.gru_pallas}


def interpreted(name):
    """The traversal whose kernels are interpreted on a CPU."""
    cell = EQUATIONS[name]._replace(program=pallas.INTERPRETED)

    def traversal(project, step, params, carry, xs, *, mask=None, reset=None):
        return kernels._traverse(cell, project, step, params, carry, xs, mask, reset)

    return traversal


INTERPRETED = {name: interpreted(name) for name in BUILD}


def agree(transformation, name, traversal, signals):
    args, mask, where = problem(name, signals)
    got, want = (
        jax.jit(functools.partial(transformation, make(name, walk)))(args, mask, where)
        for walk in (traversal, scan.fused)
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert_close(got, want)


def make(name, traversal, input_size=3, hidden_size=5):
    return BUILD[name](input_size, hidden_size, traversal=traversal)


def on_a(kind):
    """Lower for this NVIDIA GPU, which need not be there."""
    device = jax.sharding.AbstractDevice(f"NVIDIA {kind}", None, "gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lowered(fun, *args, kind="H100"):
    """The program for an NVIDIA GPU, in text, which needs no GPU."""
    with on_a(kind):
        traced = jax.jit(fun).trace(*args)
        return str(traced.lower(lowering_platforms=("cuda",)).as_text())


def gradient(cell, batch=BATCH, dtype=jnp.float32):
    """The gradient of a vmapped unroll, and its arguments."""
    params = weights(cell, dtype)
    xs = draw(1, (batch, TIME, params.w_ih.shape[0]), dtype)

    def of(params, xs):
        run = functools.partial(cell.unroll, params, cell.initial_carry(params))
        return scalar(jax.vmap(run)(xs))

    return jax.grad(of, (0, 1)), (params, xs)


@pytest.mark.parametrize("name", BUILD)
def test_by_default_a_gpu_gets_plain_products_outside_its_loops(name):
    """Inputs are projected, and weights' gradients taken, for all steps at once."""
    i, h, rows = 3, 5, BATCH * TIME
    fun, args = gradient(make(name, DEFAULT[name]))
    k = args[0].w_hh.shape[1]
    text = lowered(fun, *args)
    assert "custom_call" not in text
    assert text.count("stablehlo.while") == 2
    products = re.findall(r"dot_general.*-> tensor<(\w+)xf32>", text)
    recurrent = [f"{BATCH}x{k}", f"{BATCH}x{h}"]
    whole = [f"{BATCH}x{TIME}x{k}", *(f"{n}x{k}" for n in (h, i)), f"{rows}x{i}"]
    turned = {f"{k}x{n}": f"{n}x{k}" for n in (h, i)}
    assert sorted(turned.get(p) or p for p in products) == sorted(recurrent + whole)


@pytest.mark.parametrize("signals", ["none", "both"])
@pytest.mark.parametrize("name", BUILD)
def test_an_ensemble_on_a_gpu_is_one_loop(monkeypatch, name, signals):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    agree(ensemble, name, DEFAULT[name], signals)
    args, mask, where = problem(name, signals)
    run = functools.partial(ensemble, make(name, DEFAULT[name]))
    assert lowered(run, args, mask, where).count("stablehlo.while") == 2


@pytest.mark.parametrize(
    "transformation",
    [
        *(value, grad_of_vmap, vmap_of_grad, jvp, nested_vmap, ensemble),
        *(forward_over_reverse, reverse_over_reverse),
    ],
)
@pytest.mark.parametrize("name", BUILD)
def test_pallas_equals_the_plain_scan(name, transformation):
    agree(transformation, name, INTERPRETED[name], "both")


@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("name", BUILD)
def test_pallas_with_any_signals(name, signals):
    agree(grad_of_vmap, name, INTERPRETED[name], signals)


@pytest.mark.parametrize(
    ("batch", "time", "input_size", "hidden_size"),
    [(1, 1, 1, 1), (17, 2, 3, 16), (2, 8, 5, 17), (33, 3, 2, 7), (1, 2, 40, 64)],
)
@pytest.mark.parametrize("name", BUILD)
def test_pallas_at_sizes_that_fill_no_block(name, batch, time, input_size, hidden_size):
    def run(traversal):
        cell = make(name, traversal, input_size, hidden_size)
        fun, (params, _) = gradient(cell, batch)
        return jax.jit(fun)(params, draw(1, (batch, time, input_size)))

    assert_close(run(INTERPRETED[name]), run(scan.fused))


def test_pallas_at_the_most_units_that_fit_in_float32():
    assert shared_memory.fits(equations.GRU, 128, jnp.float32, within=227)
    test_pallas_at_sizes_that_fill_no_block("gru", 2, 2, 3, 128)


@pytest.mark.parametrize("name", BUILD)
def test_pallas_without_examples(name):
    fun, args = gradient(make(name, INTERPRETED[name]), batch=0)
    d_params, d_xs = jax.jit(fun)(*args)
    assert d_xs.shape == args[1].shape
    assert all((d == 0).all() for d in jax.tree.leaves(d_params))


@pytest.mark.parametrize("transformation", [value, grad_of_vmap])
@pytest.mark.parametrize("name", BUILD)
def test_pallas_in_bfloat16_is_close_to_float32(name, transformation):
    args, mask, where = problem(name, "both", jnp.bfloat16)
    run = jax.jit(functools.partial(transformation, make(name, INTERPRETED[name])))
    got = run(args, mask, where)
    want = run(jax.tree.map(lambda a: a.astype(jnp.float32), args), mask, where)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(got))
    got = jax.tree.map(lambda a: a.astype(jnp.float32), got)
    assert_close(got, want, rtol=0.1, atol=0.05)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "hidden_size", "dtype", "kind", "calls"),
    [
        ("lstm", 5, "float32", "L4", 2),
        ("lstm", 64, "float32", "L4", 2),
        ("lstm", 65, "float32", "H100", 0),
        ("lstm", 65, "bfloat16", "L4", 0),
        ("lstm", 128, "bfloat16", "A100-SXM4-80GB", 2),
        ("lstm", 129, "bfloat16", "H100", 0),
        ("gru", 5, "float32", "L4", 2),
        ("gru", 65, "float32", "A100-SXM4-80GB", 0),
        ("gru", 128, "float32", "GH200 480GB", 2),
        ("gru", 128, "bfloat16", "L4", 0),
        ("gru", 129, "bfloat16", "H100", 0),
    ],
)
def test_pallas_lowers_for_a_gpu_while_the_weights_fit(
    name, hidden_size, dtype, kind, calls
):
    """One kernel forward and one backward, or the plain loops."""
    cell = make(name, PALLAS[name], 3, hidden_size)
    fun, args = gradient(cell, dtype=jnp.dtype(dtype))
    text = lowered(fun, *args, kind=kind)
    assert len(re.findall(r"custom_call @\S*triton", text)) == calls
    assert ("stablehlo.while" in text) == (calls == 0)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(
    ("dtype", "setting", "calls"),
    [
        ("float32", "tensorfloat32", 2),
        ("float32", "float32", 0),
        ("float32", "highest", 0),
        ("bfloat16", "float32", 2),
    ],
)
def test_pallas_rounds_factors_or_leaves_them_to_the_default(dtype, setting, calls):
    fun, args = gradient(make("lstm", kernels.lstm_pallas), dtype=jnp.dtype(dtype))
    with jax.default_matmul_precision(setting):
        text = lowered(fun, *args)
    assert len(re.findall(r"custom_call @\S*triton", text)) == calls


@pytest.mark.parametrize("name", BUILD)
def test_on_a_cpu_the_options_are_the_default(name):
    args, mask, where = problem(name, "both")
    traversals = [DEFAULT[name], PALLAS[name]]
    traversals += [kernels.lstm_cudnn] if name == "lstm" else []
    want, *others = (
        jax.jit(functools.partial(grad_of_vmap, make(name, walk)))(args, mask, where)
        for walk in traversals
    )
    for got in others:
        assert_close(got, want, 0, 0)


# cuDNN. JAX has an LSTM of its own that means the same, `lstm_ref`.


def lstm_of_jax(x, h, c, flat, lengths, i, n, layers, dropout, both, precision=None):
    parts = rnn.unpack_lstm_weights(flat, i, n, layers, both)
    return rnn.lstm_ref(x, h, c, *parts, lengths, i, n, layers, dropout, both)


@pytest.fixture
def jax_in_place_of_cudnn(monkeypatch):
    monkeypatch.setattr(rnn, "lstm", lstm_of_jax)


def operands(mask):
    """Those of the value, for the LSTM and 4 examples of 7 steps."""
    i, h = 3, 5
    shapes = [(BATCH, TIME, i), (i, 4 * h), (h, 4 * h), (4 * h,), *[(BATCH, h)] * 2]
    floats = [draw(n, shape) / 2 for n, shape in enumerate(shapes)]
    absent = jnp.zeros(0, bool)
    none = [jnp.zeros(0)] * 2
    return [*floats, absent if mask is None else jnp.asarray(mask), absent, *none]


MASKS = {
    "none": None,
    "prefix": np.arange(TIME) < np.array([[7], [4], [0], [1]]),
    "suffix": np.arange(TIME) >= np.array([[7], [4], [0], [1]]),
    "holes": np.random.default_rng(0).random((BATCH, TIME)) > 0.5,
}


@pytest.mark.usefixtures("jax_in_place_of_cudnn")
@pytest.mark.parametrize("mask", MASKS)
def test_cudnn_is_called_with_the_weights_and_masks_of_the_cell(mask):
    at = operands(MASKS[mask])

    def run(value):
        return jax.jit(functools.partial(value, cell=equations.LSTM))(*at)

    assert_close(list(run(cudnn.library_value)), list(run(cudnn._value)))


@pytest.mark.usefixtures("jax_in_place_of_cudnn")
@pytest.mark.parametrize("mask", MASKS)
def test_cudnn_has_the_gradients_of_the_cell(mask):
    at = [*operands(MASKS[mask]), *(draw(n, s) for n, s in enumerate(OUTPUTS))]

    def run(value):
        cotangent = functools.partial(cudnn._cotangent, cell=equations.LSTM)
        return jax.jit(functools.partial(cotangent, value=value))(*at)

    assert_close(run(cudnn.library_value), run(cudnn._value))


OUTPUTS = [(BATCH, TIME, 5), (BATCH, 5), (BATCH, 5)]


def test_weights_come_back_from_cudnn():
    params = weights(rnnjax.lstm(3, 5))
    flat = cudnn_layout.flatten_weights(*params)
    assert flat.shape == (rnn.get_num_params_in_lstm(3, 5, 1, False),)
    assert_close(cudnn_layout.unflatten_weights(flat, 3, 5), tuple(params), 0, 0)


def test_both_of_cudnns_biases_are_added():
    flat = rnn.init_lstm_weight(jax.random.key(0), 3, 5, 1, False)
    w_ih, w_hh, b = cudnn_layout.unflatten_weights(flat, 3, 5)
    at = operands(None)
    at[1:4] = w_ih, w_hh, b
    xs, (c, h) = at[0], at[4:6]
    lengths = jnp.full(BATCH, TIME, jnp.int32)
    last = (3, 5, 1, 0.0, False)
    ys, h_last, c_last = lstm_of_jax(xs, h[None], c[None], flat, lengths, *last)
    got = cudnn._value(*at, cell=equations.LSTM)
    assert_close(list(got), [ys, c_last[0], h_last[0]])


@pytest.fixture
def as_if_cudnn_were_here(monkeypatch):
    """Trace cuDNN's primitives; what they lower to on a CPU is the default."""
    monkeypatch.setattr(cudnn, "reason", lambda: "")


@pytest.mark.usefixtures("as_if_cudnn_were_here")
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_cudnns_primitives_equal_the_plain_scan(transformation):
    agree(transformation, "lstm", kernels.lstm_cudnn, "mask")


@pytest.mark.usefixtures("as_if_cudnn_were_here")
@pytest.mark.parametrize(
    ("signals", "dtype", "used"),
    [
        ("none", "float32", True),
        ("mask", "float32", True),
        ("reset", "float32", False),
        ("none", "bfloat16", False),
    ],
)
def test_cudnn_is_used_where_it_has_the_function(signals, dtype, used):
    args, mask, where = problem("lstm", signals, jnp.dtype(dtype))
    cell = make("lstm", kernels.lstm_cudnn)
    jaxpr = jax.make_jaxpr(functools.partial(value, cell))(args, mask, where)
    names = {eqn.primitive for eqn in jaxpr.eqns}
    assert (cudnn.value_p in names, primitives.value_p in names) == (used, not used)


@pytest.mark.parametrize(
    ("setting", "precision"),
    [(None, "HIGH"), ("tensorfloat32", "HIGH"), ("float32", "HIGHEST")],
)
def test_cudnn_rounds_factors_as_jax_does(monkeypatch, setting, precision):
    seen = []

    def record(*args, precision):
        seen.append(precision.name)
        return lstm_of_jax(*args)

    monkeypatch.setattr(rnn, "lstm", record)
    with jax.default_matmul_precision(setting):
        cudnn.library_value(*operands(None), cell=equations.LSTM)
    assert seen == [precision]


# The part of JAX's CUDA plugin that asks cuDNN for sizes, which takes a GPU.
PLUGIN = {
    "__init__.py": "",
    "version.py": "from jaxlib.version import __version__\n",
    "_rnn.py": """
        def registrations():
            return {}

        def compute_rnn_workspace_reserve_space_sizes(*sizes):
            return 11, 13

        def build_rnn_descriptor(*sizes):
            return b"descriptor"
    """,
}
PROGRAM = """
    import jax, jax.numpy as jnp, rnnjax
    from rnnjax.kernels import cudnn

    cudnn.reason = lambda: ""
    cell = rnnjax.lstm(3, 5, traversal=rnnjax.kernels.lstm_cudnn)
    params = cell.init(jax.random.key(0))

    def loss(params, xs):
        run = lambda xs: cell.unroll(params, cell.initial_carry(params), xs)[1]
        return jax.vmap(run)(xs).sum()

    for fun in (loss, jax.grad(loss)):
        traced = jax.jit(fun).trace(params, jnp.ones((4, 7, 3)))
        print(traced.lower(lowering_platforms=("cuda",)).as_text())
        print("=====")
"""


def test_cudnn_lowers_for_a_gpu(tmp_path):
    """The whole batch is one call, and no loop is left."""
    plugin = tmp_path / "jax_cuda13_plugin"
    plugin.mkdir()
    for name, text in PLUGIN.items():
        (plugin / name).write_text(textwrap.dedent(text))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, root)))},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    forward, both, _ = done.stdout.split("=====")
    calls = r"custom_call @(cudnn_rnn\w*)\(.*?-> \(?tensor<(\w+)>"
    assert re.findall(calls, forward) == [("cudnn_rnn_ffi", "4x7x5xf32")]
    assert sorted(set(re.findall(calls, both))) == [
        ("cudnn_rnn_bwd_ffi", "4x7x3xf32"),
        ("cudnn_rnn_ffi", "4x7x5xf32"),
    ]
    assert "stablehlo.while" not in forward + both


@pytest.mark.parametrize("why", ["", "the plugin is missing"])
def test_status_names_the_options_on_a_gpu(monkeypatch, why):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "reason", lambda: why)
    with on_a("H100"):
        status = kernels.status()
    assert {lowering.name for lowering in status[1:]} == {"reference"}
    assert "lstm_cudnn" in status.lstm.reason
    assert why in status.lstm.reason
    most = "lstm_pallas up to 64 in float32 and 128 in bfloat16 units"
    assert most in status.lstm.reason
    most = "gru_pallas up to 128 in float32 and 128 in bfloat16 units, if reset_after"
    assert most in status.gru.reason
    assert status.elman.reason == "there is no kernel for gpu"
