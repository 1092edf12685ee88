"""What every JAX peer has in common: the modes, and compiling apart from running."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers import (
    DEVICE,
    TRAINING_STEPS,
    LeftOut,
    Prepared,
    named_gradients,
)
from benchmarks.workloads import Case, Data, Layer, data

try:
    _found = jax.default_backend()
except RuntimeError as error:
    raise ImportError(f"JAX found no {DEVICE}: {error}") from None
if _found != DEVICE:
    raise ImportError(f"JAX found no {DEVICE}; it runs on a {_found}")


def _cross_entropy(logits: Any, labels: Any) -> Any:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


class Model(NamedTuple):
    """A library's own way to run a case.

    ``params`` hold the weights in the library's form and ``layers(params)`` gives them,
    or their gradients, back in the common one. ``unroll(params, xs, lengths) -> ys``
    takes a batch, time first if ``time_major``. A stream has ``carry`` to begin with,
    ``step(params, carry, x)`` and ``chunk(params, carry, xs)``, both ``-> (carry, y)``
    for a batch of one, whose axis the library may leave out. ``dense(w, b, rows)`` is
    the library's affine map, and ``loss(logits, labels)`` its mean cross-entropy, or
    that of optax where it has none.
    """

    params: Any
    layers: Callable[[Any], list[Layer]]
    unroll: Callable[[Any, Any, Any], Any]
    time_major: bool = False
    carry: Any = None
    step: Callable[[Any, Any, Any], Any] | None = None
    chunk: Callable[[Any, Any, Any], Any] | None = None
    batch_of_one: bool = True
    dense: Callable[[Any, Any, Any], Any] = lambda w, b, rows: rows @ w + b
    loss: Callable[[Any, Any], Any] = _cross_entropy


Build = Callable[[Case, list[Layer]], Model]


def prepare(build: Build, case: Case) -> Prepared:
    """Make a case ready with a library's model, whatever the mode."""
    if case.mode == "product":
        return _product(case)
    arrays = data(case)
    model = build(case, arrays.layers)
    model = model._replace(
        params=_cast(case, model.params), carry=_cast(case, model.carry)
    )
    make = {
        "forward": _forward,
        "backward": _backward,
        "train": _train,
        "step": _stream,
        "chunk": _stream,
        "compile": _compile,
    }[case.mode]
    return make(case, model, arrays)


def _compiled(function: Callable, *args: Any) -> tuple[float, float, int | None]:
    """Trace and compile; jit finds the result again when it is called."""
    start = time.perf_counter()
    lowered = function.lower(*args)  # pyright: ignore[reportFunctionMemberAccess]
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    size = None if memory is None else memory.temp_size_in_bytes
    return traced - start, done - traced, size


def _ready(function: Callable, args: tuple, outputs: Callable) -> Prepared:
    seconds = _compiled(function, *args)
    return Prepared(lambda: jax.block_until_ready(function(*args)), outputs, *seconds)


def _cast(case: Case, tree: Any) -> Any:
    """The tree as JAX arrays, floating ones in the dtype of the case."""

    def one(a):
        a = jnp.asarray(a)
        return a.astype(case.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(one, tree)


def exchanged(array: Any) -> Any:
    """Gates i f g o become i g f o, as some libraries have them, and back."""
    i, f, g, o = jnp.split(jnp.asarray(array), 4, axis=-1)
    return jnp.concatenate([i, g, f, o], axis=-1)


def forget_bias(case: Case) -> Any:
    """What some libraries add to the bias at each step, in our order of the gates."""
    return jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0], jnp.float32), case.hidden)


def _layout(model: Model, array: Any) -> Any:
    return jnp.swapaxes(array, 0, 1) if model.time_major else jnp.asarray(array)


def _forward(case: Case, model: Model, arrays: Data) -> Prepared:
    args = (model.params, _layout(model, arrays.xs), arrays.lengths)
    return _ready(
        jax.jit(model.unroll),
        _cast(case, args),
        lambda ys: {"ys": np.asarray(_layout(model, ys))},
    )


def _pullback(case: Case, model: Model, arrays: Data) -> tuple[Callable, tuple]:
    def function(params, xs, lengths, cotangent):
        if case.input_gradients:
            ys, pull = jax.vjp(lambda p, x: model.unroll(p, x, lengths), params, xs)
        else:
            ys, pull = jax.vjp(lambda p: model.unroll(p, xs, lengths), params)
        return ys, pull(cotangent)

    args = (
        model.params,
        _layout(model, arrays.xs),
        arrays.lengths,
        _layout(model, arrays.cotangent),
    )
    return function, _cast(case, args)


def _backward(case: Case, model: Model, arrays: Data) -> Prepared:
    def outputs(result):
        ys, gradients = result
        named = {"ys": np.asarray(_layout(model, ys))}
        if case.input_gradients:
            named["gradient of xs"] = np.asarray(_layout(model, gradients[1]))
        return named | named_gradients(model.layers(gradients[0]))

    function, args = _pullback(case, model, arrays)
    return _ready(jax.jit(function), args, outputs)


def _compile(case: Case, model: Model, arrays: Data) -> Prepared:
    """Each call traces and compiles again; there is nothing to run or to compare."""
    function, args = _pullback(case, model, arrays)

    def call():
        jax.clear_caches()
        # A new function, for jit remembers the ones that it has seen.
        return _compiled(jax.jit(functools.partial(function)), *args)

    return Prepared(call, lambda result: {})


def _train(case: Case, model: Model, arrays: Data) -> Prepared:
    optimizer = optax.adam(1e-3)
    dense = (arrays.w_out, arrays.b_out)
    params: Any = _cast(case, (model.params, arrays.table, *dense))
    xs = _cast(case, _layout(model, arrays.xs))
    labels = _layout(model, arrays.labels) if case.tokens else arrays.labels

    def loss(params, xs, labels):
        cell, table, w_out, b_out = params
        ys = model.unroll(cell, xs if table is None else table[xs], None)
        if table is None:
            ys = ys[-1] if model.time_major else ys[:, -1]
        logits = model.dense(w_out, b_out, ys)
        return model.loss(logits, labels)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, xs, labels):
        params, optimizer_state = state
        value, gradients = jax.value_and_grad(loss)(params, xs, labels)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    # Copies, for the first step gives the buffers of its state away.
    state = jax.tree.map(jnp.array, (params, optimizer.init(params)))
    labels = jnp.asarray(labels)
    seconds = _compiled(step, state, xs, labels)

    def call():
        nonlocal state
        state, value = jax.block_until_ready(step(state, xs, labels))
        return value

    def outputs(first):
        losses = [first] + [call() for _ in range(TRAINING_STEPS - 1)]
        return {"losses": np.array(losses, np.float32)}

    return Prepared(call, outputs, *seconds)


def _stream(case: Case, model: Model, arrays: Data) -> Prepared:
    walk = model.step if case.mode == "step" else model.chunk
    if walk is None:
        raise LeftOut("it has no public way to hand a carry on")
    xs = arrays.xs[:, 0] if case.mode == "step" else _layout(model, arrays.xs)
    if not model.batch_of_one:
        xs = arrays.xs[0, 0] if case.mode == "step" else arrays.xs[0]
    xs, carry = _cast(case, xs), model.carry
    function = jax.jit(walk)
    seconds = _compiled(function, model.params, carry, xs)

    def call():
        nonlocal carry
        carry, ys = jax.block_until_ready(function(model.params, carry, xs))
        return ys

    def outputs(first):
        # The second call shows that the carry went on.
        parts = [np.asarray(ys).reshape(-1, case.hidden) for ys in (first, call())]
        return {"ys": np.concatenate(parts)}

    return Prepared(call, outputs, *seconds)


def _product(case: Case) -> Prepared:
    a, b = np.random.default_rng(0).standard_normal((2, case.hidden, case.hidden))
    args = (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    return _ready(jax.jit(jnp.matmul), args, lambda c: {"product": np.asarray(c)})
