"""The real libraries on random weights, both ways: values, gradients, lengths."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_libraries as libraries
from real_libraries import BATCH, HIDDEN, INPUTS, TIME

import rnnjax
from rnnjax import interop

XS = np.random.default_rng(1).normal(size=(BATCH, TIME, INPUTS))
LENGTHS: Any = np.array([5, 2, 4])
EXACT, MERGED = "exact", "exact after merging biases"


class Case(NamedTuple):
    """``make()`` is the other library's network, ``cell`` what it must become."""

    library: str
    make: Callable[[], Any]
    cell: rnnjax.Cell
    verdict: str
    options: dict[str, Any] = {}  # noqa: RUF012
    sent: dict[str, Any] = {}  # noqa: RUF012


def lstm(size=INPUTS, **options):
    return rnnjax.lstm(size, HIDDEN, **options)


def gru(size=INPUTS, **options):
    return rnnjax.gru(size, HIDDEN, **options)


def elman(size=INPUTS, **options):
    return rnnjax.elman(size, HIDDEN, **options)


def mgu(size=INPUTS):
    return rnnjax.mgu(size, HIDDEN, reset_after=True)


def two(cell, **options):
    return rnnjax.stack(cell(**options), cell(HIDDEN, **options))


def both(cell, layers=1, width=HIDDEN, **options):
    first = rnnjax.bidirectional(cell(**options))
    if layers == 1:
        return first
    second = rnnjax.bidirectional(cell(2 * width, **options))
    return rnnjax.stack(first, second)


def projected(size=INPUTS):
    return rnnjax.full_lstm(size, HIDDEN, projection_size=2)


RELU: dict[str, Any] = {"activation": jax.nn.relu}
BEFORE: dict[str, Any] = {"reset_after": False}


def torch(cell, verdict, kind, options=None, **settings):
    def make():
        return libraries.torch_network(kind, **settings)

    return Case("torch", make, cell, verdict, options or {})


def keras(cell, verdict, *makes, both=False, options=None):
    def make():
        return libraries.keras_network(*makes, both=both)

    return Case("keras", make, cell, verdict, options or {})


def linen(cell, *kinds, both=False, options=None, **settings):
    def make():
        return libraries.linen_network(*kinds, both=both, **settings)

    return Case("linen", make, cell, EXACT, options or {})


def nnx(cell, *kinds, both=False, **sent):
    def make():
        return libraries.nnx_network(*kinds, both=both)

    return Case("nnx", make, cell, EXACT, {}, sent)


def haiku(cell, verdict, *kinds, **settings):
    return Case(
        "haiku", lambda: libraries.haiku_network(*kinds, **settings), cell, verdict
    )


def equinox(cell, kind, layers=1, **settings):
    def make():
        return libraries.equinox_network(kind, layers, **settings)

    return Case("equinox", make, cell, EXACT)


def cudnn(cell, layers=1, bidirectional=False):
    options = {
        "kind": "lstm",
        "input_size": INPUTS,
        "hidden_size": HIDDEN,
        "layers": layers,
        "bidirectional": bidirectional,
    }
    return Case(
        "cudnn",
        lambda: libraries.cudnn_network(layers, bidirectional),
        cell,
        MERGED,
        options,
    )


CASES = {
    "torch LSTM": torch(lstm(), MERGED, "LSTM"),
    "torch LSTM without bias": torch(lstm(), EXACT, "LSTM", bias=False),
    "torch LSTM, two layers of two directions": torch(
        both(lstm, 2), MERGED, "LSTM", num_layers=2, bidirectional=True
    ),
    "torch LSTM with projection": torch(
        both(projected, 2, 2),
        MERGED,
        "LSTM",
        num_layers=2,
        bidirectional=True,
        proj_size=2,
    ),
    "torch GRU, two layers": torch(two(gru), MERGED, "GRU", num_layers=2),
    "torch GRU, both directions": torch(both(gru), MERGED, "GRU", bidirectional=True),
    "torch RNN": torch(two(elman), MERGED, "RNN", num_layers=2),
    "torch RNN with relu": torch(
        elman(**RELU), MERGED, "RNN", RELU, nonlinearity="relu"
    ),
    "keras LSTM": keras(lstm(), EXACT, ("LSTM", {})),
    "keras LSTM, both directions": keras(
        both(lstm, 2), EXACT, ("LSTM", {}), ("LSTM", {}), both=True
    ),
    "keras GRU": keras(gru(), MERGED, ("GRU", {})),
    "keras GRU, reset before": keras(
        both(gru, **BEFORE), EXACT, ("GRU", BEFORE), both=True
    ),
    "keras GRU without bias": keras(
        gru(), EXACT, ("GRU", {"use_bias": False}), options={"reset_after": True}
    ),
    "keras SimpleRNN": keras(elman(), EXACT, ("SimpleRNN", {})),
    "keras SimpleRNN with relu": keras(
        elman(**RELU), EXACT, ("SimpleRNN", {"activation": "relu"}), options=RELU
    ),
    "keras GRU and LSTM": keras(
        rnnjax.stack(gru(), lstm(HIDDEN)), MERGED, ("GRU", {}), ("LSTM", {})
    ),
    "linen LSTMCell": linen(lstm(), "LSTMCell"),
    "linen OptimizedLSTMCell, two layers of two directions": linen(
        both(lstm, 2), "OptimizedLSTMCell", "OptimizedLSTMCell", both=True
    ),
    "linen GRUCell": linen(two(gru), "GRUCell", "GRUCell"),
    "linen SimpleCell": linen(both(elman), "SimpleCell", both=True),
    "linen SimpleCell with relu": linen(
        elman(**RELU), "SimpleCell", options=RELU, activation_fn=jax.nn.relu
    ),
    "linen MGUCell": linen(two(mgu), "MGUCell", "MGUCell"),
    "linen GRUCell and LSTMCell": linen(
        rnnjax.stack(gru(), lstm(HIDDEN)), "GRUCell", "LSTMCell"
    ),
    "nnx LSTMCell": nnx(both(lstm), "LSTMCell", both=True, fused=False),
    "nnx OptimizedLSTMCell": nnx(
        two(lstm), "OptimizedLSTMCell", "OptimizedLSTMCell", fused=True
    ),
    "nnx GRUCell": nnx(gru(), "GRUCell"),
    "nnx SimpleCell": nnx(elman(), "SimpleCell"),
    "haiku LSTM": haiku(two(lstm), EXACT, "LSTM", "LSTM"),
    "haiku GRU": haiku(two(gru, **BEFORE), EXACT, "GRU", "GRU"),
    "haiku VanillaRNN": haiku(elman(**RELU), EXACT, "VanillaRNN", double_bias=False),
    "haiku VanillaRNN with two biases": haiku(elman(**RELU), MERGED, "VanillaRNN"),
    "haiku GRU and LSTM": haiku(
        rnnjax.stack(gru(**BEFORE), lstm(HIDDEN)), EXACT, "GRU", "LSTM"
    ),
    "equinox LSTMCell": equinox(two(lstm), "LSTMCell", 2),
    "equinox LSTMCell without bias": equinox(lstm(), "LSTMCell", use_bias=False),
    "equinox GRUCell": equinox(gru(), "GRUCell"),
    "cudnn LSTM": cudnn(lstm()),
    "cudnn LSTM, two layers of two directions": cudnn(both(lstm, 2), 2, True),
}
ONE_BIAS_LESS = {"torch LSTM without bias", "keras GRU without bias",
                 "equinox LSTMCell without bias", "nnx GRUCell",
                 "haiku VanillaRNN"}  # fmt: skip


class Prepared(NamedTuple):
    """``theirs(arrays, xs)`` and ``ours(params, xs)`` give outputs and gradients."""

    shapes: Any
    theirs: Callable[..., Any]
    ours: Callable[..., Any]


@functools.cache
def prepared(name):
    """Compiled once for both ways."""
    case = CASES[name]
    with libraries.quietly():
        network = case.make()
    lengths = LENGTHS if getattr(network, "ragged", True) else None
    weight = weight_for(case.cell)
    if case.library == "torch":
        shapes = {name: tuple(a.shape) for name, a in network.state_dict().items()}
        theirs = functools.partial(libraries.torch_run, network, lengths, weight)
    else:
        shapes = network.shapes
        theirs = libraries.compiled(network, lengths, weight)
    return Prepared(shapes, theirs, our_run(case.cell, lengths is not None))


def weight_for(cell):
    width = rnnjax.output_spec(cell, XS[0, 0]).shape[-1]
    return np.random.default_rng(2).normal(size=(BATCH, TIME, width))


@functools.cache
def our_run(cell, ragged):
    """Many libraries have the same cell; compiling it is most of the time here."""
    weight, lengths = weight_for(cell), LENGTHS if ragged else None

    def loss(params, xs):
        ys = rnnjax.unroll(cell, params, xs, lengths=lengths)[1]
        return (ys * weight).sum(), ys

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    def run(params, xs):
        grads, ys = gradient(params, xs)
        return ys, *grads

    return run


def close(found, expected, what):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("name", CASES)
def test_import_computes_the_same(name):
    case = CASES[name]
    read = getattr(interop, f"from_{case.library}")
    shapes, theirs, ours = prepared(name)
    arrays = libraries.random(shapes)
    found = read(arrays, **case.options)
    assert found.cell == case.cell
    assert found.report.verdict == case.verdict

    with libraries.quietly():
        ys, of_arrays, of_xs = theirs(arrays, XS)
    our_ys, of_params, of_our_xs = ours(found.params, XS)
    close(our_ys, ys, "outputs")
    close(of_our_xs, of_xs, "gradient of xs")

    # The gradient along a random direction of each of their arrays, and along what
    # the conversion makes of it in our params.
    leaves, structure = jax.tree.flatten(arrays)
    of_params = jax.tree.map(np.asarray, of_params)
    rng = np.random.default_rng(3)
    for k, (leaf, of_leaf) in enumerate(
        zip(leaves, jax.tree.leaves(of_arrays), strict=True)
    ):
        direction = rng.normal(size=leaf.shape)
        moved = [a + direction if j == k else a for j, a in enumerate(leaves)]
        there = read(jax.tree.unflatten(structure, moved), **case.options).params
        products = jax.tree.map(
            lambda g, a, b: (g * (np.asarray(a) - np.asarray(b))).sum(),
            of_params,
            there,
            found.params,
        )
        along = sum(jax.tree.leaves(products))
        close(along, (of_leaf * direction).sum(), f"gradient of array {k}")


@pytest.mark.parametrize("name", [n for n in CASES if n not in ONE_BIAS_LESS])
def test_export_computes_the_same_and_comes_back(name):
    case = CASES[name]
    params = random_params(case.cell)
    exported = getattr(interop, f"to_{case.library}")(case.cell, params, **case.sent)
    assert exported.report.verdict == EXACT
    shapes, theirs, ours = prepared(name)
    found = libraries.shapes_of(exported.arrays)
    if case.library == "keras":
        # It numbers the names of all layers that a program makes.
        shapes, found = [*shapes.values()], [*found.values()]
    assert found == shapes

    with libraries.quietly():
        ys, _, _ = theirs(exported.arrays, XS)
    close(ours(params, XS)[0], ys, "outputs")

    back = getattr(interop, f"from_{case.library}")(exported.arrays, **case.options)
    assert back.cell == case.cell
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), back.params, params
    )


def random_params(cell, seed=0):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.7), shapes)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_resets_are_those_of_haiku(kind):
    case = CASES[f"haiku {kind}"]
    with libraries.quietly():
        network = libraries.haiku_network(kind)
        arrays = libraries.random(network.shapes)
        cell, params, _ = interop.from_haiku(arrays)
        reset = np.random.default_rng(4).random((BATCH, TIME)) < 0.4
        expected = libraries.haiku_with_resets(kind, arrays, XS, reset)
    ys = rnnjax.unroll(cell, params, XS, reset=jnp.asarray(reset))[1]
    assert case.cell.spec is not None
    assert cell == case.cell.spec.cells[0]
    close(ys, expected, "outputs")


@pytest.mark.parametrize("options", [{}, {"double_bias": False}])
def test_every_vanilla_rnn_of_haiku_takes_what_is_exported(options):
    cell = elman(**RELU)
    params = random_params(cell)
    exported = interop.to_haiku(cell, params)
    with libraries.quietly(), jax.numpy_dtype_promotion("standard"):
        network = libraries.haiku_network("VanillaRNN", **options)
        ys = network.forward(exported.arrays, XS, None)
    close(rnnjax.unroll(cell, params, XS)[1], ys, "outputs")


def test_the_bias_that_nnx_does_not_have_is_reported():
    cell = gru()
    params = random_params(cell)
    exported = interop.to_nnx(cell, params)
    assert exported.report.verdict == "lossy"
    (note,) = exported.report.notes
    assert f"{np.abs(params.b_hn).max():.3g}" in note
    zero = params._replace(b_hn=jnp.zeros(HIDDEN))
    exported = interop.to_nnx(cell, zero)
    assert exported.report.verdict == EXACT
    back = interop.from_nnx(exported.arrays)
    jax.tree.map(np.testing.assert_array_equal, back.params, zero)
