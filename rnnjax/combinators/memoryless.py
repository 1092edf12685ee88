"""Cells without a memory: all steps at once, an empty carry."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, guards, signals
from rnnjax.cell import Cell, InitFn, Params, constructor
from rnnjax.kernels.products import affine
from rnnjax.traversals import sums


@constructor
def time_distributed(
    init: InitFn,
    apply: Callable[[Params, Any], Any],
    *,
    input_shape: tuple[int, ...] | None = None,
) -> Cell:
    """Apply a function with params to every step, all steps at once by `jax.vmap`.

    This makes a cell of any network, for example of a convolutional one that reads the
    frames of a video. The carry is empty.

    Args:
      init: ``(key) -> params``.
      apply: ``(params, x) -> y``, of one input.
      input_shape: the shape of one input. Inputs are then checked, and cast to the
        dtype of the params; ``None`` takes any pytree.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def init(key):
    ...     return jax.random.normal(key, (3, 2))
    >>> def apply(w, x):
    ...     return jax.nn.relu(x @ w)
    >>> cell = rnnjax.time_distributed(init, apply)
    >>> _, ys = cell.unroll(cell.init(jax.random.key(0)), (), jnp.ones((7, 3)))
    >>> ys.shape
    (7, 2)
    """
    checks.function("init", init, "lambda key: ()")
    checks.function("apply", apply, "lambda params, x: x @ params")
    checks.shape("input_shape", input_shape)
    return _at_all_times(init, apply, jax.vmap(apply, (None, 0)), input_shape)


def _at_all_times(
    init: InitFn,
    apply: Callable[[Params, Any], Any],
    apply_to_all: Callable[[Params, Any], Any],
    input_shape: tuple[int, ...] | None = None,
) -> Cell:
    """The cell of a function, and of what does the same to all steps of a sequence."""

    def initial_carry(params):
        return ()

    def step(params, carry, x):
        x = checks.step_input(x, input_shape, checks.float_dtype(params))
        return checks.carry(carry, ()), apply(params, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, _ = checks.sequence(xs, input_shape, checks.float_dtype(params))
        carry, mask, _ = signals.read((), carry, xs, mask, reset, key)
        xs = xs if mask is None else signals.zero_padding(xs, mask)
        ys = apply_to_all(params, xs)
        return carry, ys if mask is None else signals.zero_padding(ys, mask)

    functions = (init, initial_carry, step, unroll)
    return Cell(*guards.guarded(None, functions, one_dtype=True))


@constructor
def pointwise(function: Callable[[Any], Any]) -> Cell:
    """Apply a function of one input at each step; no params, an empty carry.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.gru(3, 4), rnnjax.pointwise(jax.nn.relu))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> bool((ys >= 0).all())
    True
    """
    checks.function("function", function, "jax.nn.relu")
    return time_distributed(lambda key: (), lambda params, x: function(x))


class DenseParams(NamedTuple):
    """``w: (inputs, outputs)``, ``b: (outputs,)``."""

    w: Array
    b: Array


@constructor
def dense(input_size: int, output_size: int) -> Cell:
    """An affine map of each input: ``y = x @ w + b``. The carry is empty.

    All steps of a sequence, and of a batch, are one product, and so is the gradient of
    the weights; on a CPU both are kernels (`rnnjax.kernels`).

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.dense(3, 2)
    >>> params = cell.init(jax.random.key(0))
    >>> cell.step(params, cell.initial_carry(params), jnp.zeros(3))
    ((), Array([0., 0.], dtype=float32))
    """
    checks.size("input_size", input_size)
    checks.size("output_size", output_size)

    def init(key):
        draw = jax.nn.initializers.glorot_uniform()
        w = draw(checks.key(key), (input_size, output_size))
        return DenseParams(w, jnp.zeros(output_size, w.dtype))

    def apply(params, x):
        return sums.add_bias(x @ params.w, params.b)

    def apply_to_all(params, xs):
        if not jax.sharding.get_abstract_mesh().empty:
            return apply(params, xs)  # types say which axes of the weights are divided
        return affine(xs, params.w, params.b)

    return _at_all_times(init, apply, apply_to_all, (input_size,))


@constructor
def embedding(vocabulary_size: int, embedding_size: int) -> Cell:
    """Look up a row of a table for each token: ``y = table[x]``, ``x`` an integer.

    The params are the table, ``(vocabulary_size, embedding_size)``. An id outside of it
    gives NaN, which you will notice; a clamped id would give a wrong row, unnoticed.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.stack(rnnjax.embedding(50, 8), rnnjax.lstm(8, 16))
    >>> params = cell.init(jax.random.key(0))
    >>> tokens = jnp.array([3, 14, 15])
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), tokens)
    >>> ys.shape
    (3, 16)
    """
    checks.size("vocabulary_size", vocabulary_size)
    checks.size("embedding_size", embedding_size)

    def init(key):
        shape = (vocabulary_size, embedding_size)
        return jax.random.normal(checks.key(key), shape)

    def look_up(table, x):
        x = checks.array("x", x)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(
                f"x of an embedding has dtype {x.dtype}; expected integers, the ids of "
                "tokens. Write x.astype(jnp.int32), or rnnjax.dense for features."
            )
        return jnp.take(table, jnp.where(x < 0, vocabulary_size, x), 0, mode="fill")

    return time_distributed(init, look_up)
