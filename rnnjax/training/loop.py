"""Training as compiled functions: the state, an epoch, predictions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from rnnjax import checks
from rnnjax.cell import Params
from rnnjax.training import devices


class TrainState(NamedTuple):
    """Everything that training changes, and so what a checkpoint holds.

    ``step: ()`` int32 counts updates; ``key`` is a typed key that each epoch splits.
    """

    params: Params
    opt_state: Any
    step: Array
    key: Array


class LossFn(Protocol):
    """``(params, batch, key) -> (loss, metrics)``, a scalar and a dict of scalars.

    ``batch`` has the structure of the data, examples on axis 0; ``key`` is for dropout.

    >>> import jax.numpy as jnp, rnnjax
    >>> def loss(params, batch, key):
    ...     xs, ys = batch
    ...     error = xs @ params - ys
    ...     return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}
    >>> checked: rnnjax.training.LossFn = loss
    """

    def __call__(
        self, params: Params, batch: Any, key: Array
    ) -> tuple[Array, dict[str, Array]]: ...


def init(
    params: Params, optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """The state before the first update.

    Every array is copied, because `epoch` donates its state: ``params`` stay usable.

    >>> import jax, optax, rnnjax
    >>> params = rnnjax.lstm(3, 4).init(jax.random.key(0))
    >>> state = rnnjax.training.init(params, optax.adam(1e-3), jax.random.key(1))
    >>> int(state.step), state.params is params
    (0, False)
    """
    step = jnp.zeros((), jnp.int32)
    state = TrainState(params, optimizer.init(params), step, checks.key(key))
    # Two leaves may be one buffer, which cannot be donated twice, and a weakly typed
    # one would change its type in the first update.
    return jax.tree.map(lambda a: jnp.array(a, dtype=jnp.asarray(a).dtype), state)


def epoch(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> jax.stages.Wrapped:
    """A function that trains for one epoch: ``(state, data) -> (state, metrics)``.

    It is one compiled `jax.lax.scan` over shuffled batches, each gathered inside the
    loop. Examples that do not fill the last batch are left out; they are different ones
    in each epoch. The state is donated: the new one uses its buffers.

    With a mesh the examples are divided over its axis ``"data"`` and stay where they
    are: each batch takes one from every stretch of ``examples / batch_size``, drawn at
    random. So which examples meet does not depend on the number of devices, and neither
    do the losses, but for rounding. The state is whole on each device.

    Args:
      loss: see `LossFn`; the scalar that it returns is differentiated.
      optimizer: any from optax; line searches get ``value``, ``grad``, ``value_fn``.
      batch_size: the number of examples in each update, on all devices together.
      mesh: a `jax.sharding.Mesh` with an axis ``"data"``, whose size divides
        ``batch_size`` and the number of examples.

    Returns:
      A jitted function. Its data is a pytree of arrays, examples on axis 0; its metrics
      are the means over all updates of ``"loss"`` and of what ``loss`` returns.

    Raises:
      TypeError: if ``mesh`` is something else.
      ValueError: if the data has fewer examples than one batch, or if its leaves have
        different numbers of them; for a mesh without an axis ``"data"``, and for a
        ``batch_size`` that its devices cannot share equally.

    >>> import jax, jax.numpy as jnp, optax, rnnjax
    >>> def loss(params, batch, key):
    ...     return jnp.mean((batch - params) ** 2), {}
    >>> optimizer = optax.sgd(0.3)
    >>> train = rnnjax.training.epoch(loss, optimizer, batch_size=8)
    >>> state = rnnjax.training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    >>> state, metrics = train(state, jnp.full(80, 3.0))
    >>> int(state.step), round(float(state.params), 3)
    (10, 3.0)
    """
    checks.size("batch_size", batch_size)
    optimizer = optax.with_extra_args_support(optimizer)
    order_of, take, placed = _shuffled, _take, {}
    if mesh is not None:
        mesh = devices.checked(mesh)
        devices.check_divides(batch_size, mesh)
        order_of = _drawn_from_stretches
        take = functools.partial(_take_in_place, mesh)
        whole, divided = devices.whole(mesh), devices.divided(mesh)
        placed = {"in_shardings": (whole, divided), "out_shardings": whole}

    @functools.partial(jax.jit, donate_argnums=0, **placed)
    def train(state, data):
        examples = count_examples(data)
        steps = examples // batch_size
        if not steps:
            raise ValueError(
                f"data has {examples} examples, fewer than batch_size={batch_size}. "
                f"Write batch_size={examples} at most."
            )
        key, key_order, key_loss = jax.random.split(state.key, 3)
        order = order_of(key_order, examples, steps, batch_size)

        def update(carry, inputs):
            params, opt_state = carry
            rows, key = inputs
            batch = take(data, rows)

            def value_and_metrics(params):
                return loss(params, batch, key)

            (value, metrics), grads = jax.value_and_grad(
                value_and_metrics, has_aux=True
            )(params)
            updates, opt_state = optimizer.update(
                grads,
                opt_state,
                params,
                value=value,
                grad=grads,
                value_fn=lambda params: value_and_metrics(params)[0],
            )
            params = optax.apply_updates(params, updates)
            return (params, opt_state), {"loss": value, **metrics}

        (params, opt_state), metrics = lax.scan(
            update,
            (state.params, state.opt_state),
            (order, jax.random.split(key_loss, steps)),
        )
        state = TrainState(params, opt_state, state.step + steps, key)
        return state, jax.tree.map(functools.partial(jnp.mean, axis=0), metrics)

    return train


def predict(
    apply: Callable[[Params, Any], Any],
    params: Params,
    xs: Any,
    *,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> Any:
    """``apply(params, xs)`` for many examples, ``batch_size`` at a time, in order.

    With a mesh the devices along its axis ``"data"`` share the work, and ``batch_size``
    is for all of them together. Each process hands in its own examples and gets the
    predictions for those of all processes, in the order of the processes.

    Args:
      apply: a function of params and a batch, each of whose rows is for one example.
      params: the same in every process.
      xs: any number of examples on axis 0.
      batch_size: how many are computed at once.
      mesh: a `jax.sharding.Mesh` with an axis ``"data"``.

    Raises:
      TypeError: if ``mesh`` is something else.
      ValueError: for no examples, and for a mesh without an axis ``"data"``.

    >>> import jax.numpy as jnp, rnnjax
    >>> def double(params, xs):
    ...     return params * xs
    >>> rnnjax.training.predict(double, 2, jnp.arange(5), batch_size=2)
    Array([0, 2, 4, 6, 8], dtype=int32)
    """
    if mesh is None:
        return _predict(apply, params, xs, batch_size=batch_size)
    mesh, examples = devices.checked(mesh), count_examples(xs)
    batch_size = -(-checks.size("batch_size", batch_size) // mesh.shape[devices.AXIS])
    counts = devices.everywhere(examples)
    parts = devices.local_devices(mesh)
    size = -(-max(counts) // parts) * parts  # of every process, with padding

    def padded(a):
        return np.concatenate([a, np.repeat(a[-1:], size - examples, axis=0)])

    return _predict_divided(
        apply,
        mesh,
        devices.replicate(params, mesh),
        devices.divide(xs if size == examples else jax.tree.map(padded, xs), mesh),
        counts=tuple(counts),
        batch_size=batch_size,
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="batch_size")
def _predict(apply, params, xs, *, batch_size):
    steps, rest = divmod(count_examples(xs), checks.size("batch_size", batch_size))
    whole = steps * batch_size
    parts = []
    if steps:
        batches = jax.tree.map(
            lambda a: a[:whole].reshape(steps, batch_size, *a.shape[1:]), xs
        )
        ys = lax.map(functools.partial(apply, params), batches)
        parts.append(jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys))
    if rest:
        parts.append(apply(params, jax.tree.map(lambda a: a[whole:], xs)))
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


@functools.partial(
    jax.jit, static_argnums=(0, 1), static_argnames=("counts", "batch_size")
)
def _predict_divided(apply, mesh, params, xs, *, counts, batch_size):
    """Each device predicts its part, then all get everything without the padding."""
    rows = PartitionSpec(devices.AXIS)
    ys = jax.shard_map(
        functools.partial(_predict, apply, batch_size=batch_size),
        mesh=mesh,
        in_specs=(PartitionSpec(), rows),
        out_specs=rows,
        check_vma=False,  # no sum is taken over devices, and apply is the user's
    )(params, xs)
    ys = lax.with_sharding_constraint(ys, devices.whole(mesh))

    def cut(a):
        by_process = jnp.split(a, len(counts))
        counted = zip(by_process, counts, strict=True)
        return jnp.concatenate([part[:count] for part, count in counted])

    return jax.tree.map(cut, ys)


# Batches.


def _shuffled(key: Array, examples: int, steps: int, batch_size: int) -> Array:
    """The rows of each batch, ``(steps, batch_size)``."""
    order = jax.random.permutation(key, examples)[: steps * batch_size]
    return order.reshape(steps, batch_size)


def _drawn_from_stretches(
    key: Array, examples: int, steps: int, batch_size: int
) -> Array:
    """The same, where column i takes rows of the i-th part of the examples alone.

    A number of devices that divides both numbers ends each of its parts of the data
    where a stretch ends, so the rows of a device's columns are on that device.
    """
    edges = np.arange(batch_size + 1) * examples // batch_size
    sizes = np.diff(edges)[:, None]  # steps or one more
    places = jax.random.uniform(key, (batch_size, steps + 1))
    places = jnp.where(np.arange(steps + 1) < sizes, places, jnp.inf)
    order = jnp.argsort(places, axis=1)[:, :steps].astype(jnp.int32)
    return (order + edges[:-1, None].astype(np.int32)).T


def _take(data: Any, rows: Array) -> Any:
    return jax.tree.map(lambda a: a[rows], data)


def _take_in_place(mesh: Mesh, data: Any, rows: Array) -> Any:
    """Of data that are divided over a mesh, each device takes its own rows."""
    axis = devices.AXIS

    def take(data, rows):
        first = lax.axis_index(axis) * count_examples(data)
        return _take(data, rows - first)

    divided = PartitionSpec(axis)
    return jax.shard_map(take, mesh=mesh, in_specs=divided, out_specs=divided)(
        data, rows
    )


def count_examples(data: Any) -> int:
    """How many there are, in every leaf of the data."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"data has leaves of shapes {shapes}; expected arrays with the same number "
            "of examples, one or more, on axis 0. Write (images, labels)."
        )
    return counts.pop()
