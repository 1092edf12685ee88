"""The real libraries, each as a function of its weights; none is imported before use.

``forward(arrays, xs, lengths) -> ys`` runs a network of a library with weights under
the library's own names; ``weights()`` are random ones. xs are ``(b, t, i)``.
"""

import contextlib
import functools
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BATCH, TIME, INPUTS, HIDDEN = 3, 5, 2, 3


class Network(NamedTuple):
    """``shapes`` of the arrays, and what runs them; ``None`` for lengths is none."""

    shapes: Any
    forward: Callable[[Any, Any, Any], Any]
    ragged: bool = True


def random(shapes: Any, seed: int = 0) -> Any:
    """Random arrays, in the order of the dictionary, which jax.tree.map would sort."""
    rng = np.random.default_rng(seed)

    def draw(tree):
        if isinstance(tree, dict):
            return {name: draw(value) for name, value in tree.items()}
        return rng.normal(size=tree) * 0.7

    return draw(shapes)


def shapes_of(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: shapes_of(value) for name, value in tree.items()}
    return tuple(np.shape(tree))


def compiled(network: Network, lengths: Any, weight: Any) -> Callable[..., Any]:
    """``(arrays, xs) -> ys, grads``: of <ys, weight>, by the arrays and by xs."""
    names = [*network.shapes]

    def loss(values, xs):
        # JAX sorts dictionaries; Keras's weights have an order.
        ys = network.forward(dict(zip(names, values, strict=True)), xs, lengths)
        return (ys * weight).sum(), ys

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    def run(arrays, xs):
        known = arrays.keys() == network.shapes.keys()
        values = [arrays[n] for n in names] if known else [*arrays.values()]
        # None of them was written for strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            (of_values, of_xs), ys = gradient(values, xs)
        return ys, dict(zip(names, of_values, strict=True)), of_xs

    return run


# torch ------------------------------------------------------------------------------


def torch_network(kind: str, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    # Its threads and JAX's would starve each other.
    torch.set_num_threads(1)
    options = {"dtype": torch.float64, "batch_first": True} | options
    return getattr(torch.nn, kind)(INPUTS, HIDDEN, **options)


def torch_run(module: Any, lengths: Any, weight: Any, arrays: Any, xs: Any) -> Any:
    """What `compiled` returns does this for the others."""
    import torch  # pyright: ignore[reportMissingImports]

    module.load_state_dict({k: torch.tensor(np.asarray(a)) for k, a in arrays.items()})
    inputs = torch.tensor(np.asarray(xs), requires_grad=True)
    if lengths is None:
        ys = module(inputs)[0]
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            inputs,
            torch.tensor(np.asarray(lengths)),
            batch_first=True,
            enforce_sorted=False,
        )
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(
            module(packed)[0], batch_first=True, total_length=TIME
        )
    wanted = [inputs, *module.parameters()]
    grads = torch.autograd.grad(ys, wanted, torch.tensor(np.asarray(weight)))
    names = [name for name, _ in module.named_parameters()]
    named = dict(zip(names, (g.numpy() for g in grads[1:]), strict=True))
    return ys.detach().numpy(), named, grads[0].numpy()


# Keras ------------------------------------------------------------------------------


def keras_network(*makes: tuple[str, dict[str, Any]], both: bool = False) -> Network:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")

    layers, size, shapes = [], INPUTS, {}
    for name, options in makes:
        layer = getattr(keras.layers, name)(
            HIDDEN,
            return_sequences=True,
            zero_output_for_mask=True,
            dtype="float64",
            **options,
        )
        if both:
            layer = keras.layers.Bidirectional(layer, dtype="float64")
        layer.build((BATCH, TIME, size))
        shapes |= {v.path: v.shape for v in layer.weights}
        layers.append(layer)
        size = HIDDEN * (2 if both else 1)
    state = [[v.value for v in layer.non_trainable_variables] for layer in layers]

    def forward(arrays, xs, lengths):
        values = iter(arrays.values())
        rest = {}
        if lengths is not None:
            rest["mask"] = jnp.arange(TIME) < jnp.asarray(lengths)[:, None]
        for layer, other in zip(layers, state, strict=True):
            own = [next(values) for _ in layer.weights]
            xs, _ = layer.stateless_call(own, other, xs, **rest)
        return xs

    return Network(shapes, forward)


# Flax -------------------------------------------------------------------------------


def linen_network(*kinds: str, both: bool = False, **options: Any) -> Network:
    pytest.importorskip("flax")
    import flax.linen as nn

    def make(kind):
        cell = getattr(nn, kind)(HIDDEN, param_dtype=jnp.float64, **options)
        return nn.RNN(cell)

    def layer(kind):
        return nn.Bidirectional(make(kind), make(kind)) if both else make(kind)

    class Layers(nn.Module):
        def setup(self):
            self.layers = [layer(kind) for kind in kinds]

        def __call__(self, xs, lengths):
            rnn: Any
            for rnn in self.layers:
                xs = rnn(xs, seq_lengths=lengths)
            return xs

    one = layer(kinds[0])
    xs = jnp.zeros((BATCH, TIME, INPUTS))
    with jax.numpy_dtype_promotion("standard"):
        if len(kinds) == 1:
            shapes = jax.eval_shape(one.init, jax.random.key(0), xs)["params"]
        else:
            shapes = jax.eval_shape(Layers().init, jax.random.key(0), xs, None)
            shapes = shapes["params"]

    def forward(arrays, xs, lengths):
        if len(kinds) == 1:
            ys = one.apply({"params": arrays}, xs, seq_lengths=lengths)
        else:
            ys = Layers().apply({"params": arrays}, xs, lengths)
        return _masked(ys, lengths)

    return Network(jax.tree.map(lambda s: s.shape, shapes), forward)


def nnx_network(*kinds: str, both: bool = False) -> Network:
    pytest.importorskip("flax")
    from flax import nnx

    def make(kind, size):
        cell = getattr(nnx, kind)(
            size,
            HIDDEN,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
            rngs=nnx.Rngs(0),
        )
        return nnx.RNN(cell)

    with jax.numpy_dtype_promotion("standard"):
        networks, size = [], INPUTS
        for kind in kinds:
            rnn: Any = make(kind, size)
            if both:
                rnn = nnx.Bidirectional(rnn, make(kind, size))
            networks.append(rnn)
            size = HIDDEN * (2 if both else 1)
    whole = networks[0] if len(kinds) == 1 else nnx.Sequential(*networks)
    graph, state, rest = nnx.split(whole, nnx.Param, ...)

    def forward(arrays, xs, lengths):
        given = jax.tree.map(lambda a: a, state)
        nnx.replace_by_pure_dict(given, arrays)
        module = nnx.merge(graph, given, jax.tree.map(jnp.array, rest))
        for rnn in [module] if len(kinds) == 1 else module.layers:
            xs = rnn(xs, seq_lengths=lengths)
        return _masked(xs, lengths)

    return Network(shapes_of(nnx.to_pure_dict(state)), forward)


def _masked(ys: Any, lengths: Any) -> Any:
    """Flax's outputs go on after a sequence's end; everybody else's are zero there."""
    if lengths is None:
        return ys
    valid = jnp.arange(TIME) < jnp.asarray(lengths)[:, None]
    return jnp.where(valid[..., None], ys, 0)


# Haiku ------------------------------------------------------------------------------


def haiku_network(*kinds: str, **options: Any) -> Network:
    pytest.importorskip("haiku")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import haiku as hk

    def run(xs):
        cores = [getattr(hk, kind)(HIDDEN, **options) for kind in kinds]
        core = hk.DeepRNN(cores)
        return hk.dynamic_unroll(core, xs, core.initial_state(BATCH), time_major=False)

    network = hk.without_apply_rng(hk.transform(run))
    xs = jnp.zeros((BATCH, TIME, INPUTS))
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(network.init, jax.random.key(0), xs)

    def forward(arrays, xs, lengths):
        assert lengths is None
        return network.apply(arrays, xs)[0]

    return Network(jax.tree.map(lambda s: s.shape, shapes), forward, ragged=False)


def haiku_with_resets(kind: str, arrays: Any, xs: Any, reset: Any) -> Any:
    import haiku as hk

    def run(xs, reset):
        core = hk.ResetCore(getattr(hk, kind)(HIDDEN))
        start = core.initial_state(BATCH)
        return hk.dynamic_unroll(core, (xs, reset), start, time_major=False)[0]

    network = hk.without_apply_rng(hk.transform(run))
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(network.apply)(arrays, xs, reset)


# Equinox ----------------------------------------------------------------------------


def equinox_network(kind: str, layers: int = 1, **options: Any) -> Network:
    pytest.importorskip("equinox")
    import equinox as eqx

    sizes = [INPUTS, *[HIDDEN] * layers]
    cells = [
        getattr(eqx.nn, kind)(i, h, dtype=jnp.float64, key=jax.random.key(0), **options)
        for i, h in itertools.pairwise(sizes)
    ]

    def fields(cell):
        return {k: v.shape for k, v in vars(cell).items() if eqx.is_array(v)}

    shapes = [fields(cell) for cell in cells]

    def forward(arrays, xs, lengths):
        assert lengths is None
        for k, cell in enumerate(cells):
            own = arrays if layers == 1 else arrays[str(k)]
            leaf = functools.partial(_fields, list(own))
            cell = eqx.tree_at(leaf, cell, [*own.values()])
            xs = jax.vmap(functools.partial(one, cell))(xs)
        return xs

    def one(cell, xs):
        def step(carry, x):
            carry = cell(x, carry)
            return carry, carry[0] if kind == "LSTMCell" else carry

        zero = jnp.zeros(HIDDEN, xs.dtype)
        return jax.lax.scan(step, (zero, zero) if kind == "LSTMCell" else zero, xs)[1]

    nested = {str(k): s for k, s in enumerate(shapes)}
    return Network(shapes[0] if layers == 1 else nested, forward, ragged=False)


def _fields(names: list[str], cell: Any) -> list[Any]:
    return [getattr(cell, name) for name in names]


# jax.experimental.rnn: cuDNN's layout, in its reference that runs anywhere ----------


def cudnn_network(layers: int = 1, both: bool = False) -> Network:
    from jax.experimental import rnn

    size = rnn.get_num_params_in_lstm(INPUTS, HIDDEN, layers, both)

    def forward(arrays, xs, lengths):
        parts = rnn.unpack_lstm_weights(arrays["weights"], INPUTS, HIDDEN, layers, both)
        zero = jnp.zeros((layers * (2 if both else 1), BATCH, HIDDEN), xs.dtype)
        if lengths is None:
            lengths = jnp.full(BATCH, TIME)
        lengths = jnp.asarray(lengths, jnp.int32)
        ys, _, _ = rnn.lstm_ref(
            xs, zero, zero, *parts, lengths, INPUTS, HIDDEN, layers, 0.0, both
        )
        return _masked(ys, lengths)

    return Network({"weights": (size,)}, forward)


@contextlib.contextmanager
def quietly():
    """Deprecation warnings of other libraries are not ours to fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
