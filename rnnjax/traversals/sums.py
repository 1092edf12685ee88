"""Gradients of params that are narrower than float32, summed over time in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Params
from rnnjax.signals import Project, Step


def wide(params: Params) -> Params:
    """Floating params of 16 bits or fewer in float32, all others as they are.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import sums
    >>> sums.wide(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return jax.tree.map(lambda a: a.astype(jnp.float32) if _narrow(a) else a, params)


def in_dtypes_of(params: Params, step: Step) -> Step:
    """A step that takes `wide` params and computes with them as they were.

    A loop that is transposed adds up the gradient of what it is given, at every step.
    Given bfloat16 params it would round the sum each time and, after some thousands of
    steps, lose one digit of the two that bfloat16 has. The values stay the same to the
    last bit, as every bfloat16 is a float32.
    """

    def narrowed(given, carry, x):
        return step(jax.tree.map(_like, params, given), carry, x)

    return narrowed


def joined(project: Project, step: Step, params: Params) -> tuple[Step, Params]:
    """A step that projects by itself, and the `wide` params that it takes."""

    def both(params, carry, x):
        return step(params, carry, project(params, x))

    return in_dtypes_of(params, both), wide(params)


def at_all_times(
    function: Callable[..., Any], params: Params, time: int, *inputs: Any
) -> Any:
    """``function(params, *inputs)`` mapped over the steps of the inputs.

    Vectors among narrow params, such as a bias, are repeated for each step. Mapped as
    they are, the transpose would sum what all steps contribute to them as narrow
    numbers; this way it sums wide ones. A matrix needs none of it: its gradient is a
    product, which is summed as the machine sums products.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import sums
    >>> b = jnp.ones(2, jnp.bfloat16)
    >>> sums.at_all_times(jnp.add, b, 3, jnp.ones((3, 2), jnp.bfloat16)).shape
    (3, 2)
    """

    def repeated(a):
        return _narrow(a) and jnp.ndim(a) < 2

    def at_each_time(a):
        if not repeated(a):
            return a
        return jnp.broadcast_to(wide(a), (time, *jnp.shape(a))).astype(a.dtype)

    axes = jax.tree.map(lambda a: 0 if repeated(a) else None, params)
    mapped = jax.vmap(function, (axes, *[0] * len(inputs)))
    return mapped(jax.tree.map(at_each_time, params), *inputs)


def add_bias(z: Array, b: Array) -> Array:
    """``z + b``, whose transpose sums the gradient of ``b`` over a batch in float32.

    >>> import jax.numpy as jnp
    >>> from rnnjax.traversals import sums
    >>> sums.add_bias(jnp.ones((3, 2), jnp.bfloat16), jnp.ones(2, jnp.bfloat16)).dtype
    dtype(bfloat16)
    """
    return (wide(z) + wide(b)).astype(z.dtype)


def _like(param: Any, given: Any) -> Any:
    return given.astype(param.dtype) if _narrow(param) else given


def _narrow(leaf: Any) -> bool:
    dtype = jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
