"""Training as compiled functions: the state, an epoch, predictions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from rnnjax import checks
from rnnjax.cell import Params


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
    loss: LossFn, optimizer: optax.GradientTransformation, *, batch_size: int
) -> jax.stages.Wrapped:
    """A function that trains for one epoch: ``(state, data) -> (state, metrics)``.

    It is one compiled `jax.lax.scan` over shuffled batches, each gathered inside the
    loop. Examples that do not fill the last batch are left out; they are different ones
    in each epoch. The state is donated: the new one uses its buffers.

    Args:
      loss: see `LossFn`; the scalar that it returns is differentiated.
      optimizer: any from optax; line searches get ``value``, ``grad``, ``value_fn``.
      batch_size: the number of examples in each update.

    Returns:
      A jitted function. Its data is a pytree of arrays, examples on axis 0; its metrics
      are the means over all updates of ``"loss"`` and of what ``loss`` returns.

    Raises:
      ValueError: if the data has fewer examples than one batch, or if its leaves have
        different numbers of them.

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

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state, data):
        examples = _examples(data)
        steps = examples // batch_size
        if not steps:
            raise ValueError(
                f"data has {examples} examples, fewer than batch_size={batch_size}. "
                f"Write batch_size={examples} at most."
            )
        key, key_order, key_loss = jax.random.split(state.key, 3)
        order = jax.random.permutation(key_order, examples)[: steps * batch_size]

        def update(carry, inputs):
            params, opt_state = carry
            rows, key = inputs
            batch = jax.tree.map(lambda a: a[rows], data)

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
            (order.reshape(steps, batch_size), jax.random.split(key_loss, steps)),
        )
        state = TrainState(params, opt_state, state.step + steps, key)
        return state, jax.tree.map(functools.partial(jnp.mean, axis=0), metrics)

    return train


@functools.partial(jax.jit, static_argnums=0, static_argnames="batch_size")
def predict(
    apply: Callable[[Params, Any], Any],
    params: Params,
    xs: Any,
    *,
    batch_size: int = 1000,
) -> Any:
    """``apply(params, xs)`` for many examples, ``batch_size`` at a time, in order.

    >>> import jax.numpy as jnp, rnnjax
    >>> def double(params, xs):
    ...     return params * xs
    >>> rnnjax.training.predict(double, 2, jnp.arange(5), batch_size=2)
    Array([0, 2, 4, 6, 8], dtype=int32)
    """
    steps, rest = divmod(_examples(xs), checks.size("batch_size", batch_size))
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


def _examples(data: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"data has leaves of shapes {shapes}; expected arrays with the same number "
            "of examples, one or more, on axis 0. Write (images, labels)."
        )
    return counts.pop()
