"""Names for the values inside a step."""

from jax import Array
from jax.ad_checkpoint import checkpoint_name


def observe(**values: Array) -> None:
    """Give values inside a ``step`` the names under which `rnnjax.trace` shows them.

    It costs nothing: outside of `rnnjax.trace` the names are compiled away. A trace
    shows what is named in the step itself and in a `jax.lax.scan` inside it. It leaves
    out what is named in a `jax.lax.while_loop` or a branch of a `jax.lax.cond`, which
    may not be computed at all: return the value from there and name it in the step.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def step(params, h, z):
    ...     h = jnp.tanh(z + h)
    ...     rnnjax.observe(h=h)
    ...     return h, h
    """
    for name, value in values.items():
        checkpoint_name(value, name)
