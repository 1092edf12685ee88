"""Names for the values inside a step."""

from jax import Array
from jax.ad_checkpoint import checkpoint_name


def observe(**values: Array) -> None:
    """Give values inside a ``step`` the names under which `rnnjax.trace` shows them.

    It costs nothing: outside of `rnnjax.trace` the names are compiled away.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def step(params, h, z):
    ...     h = jnp.tanh(z + h)
    ...     rnnjax.observe(h=h)
    ...     return h, h
    """
    for name, value in values.items():
        checkpoint_name(value, name)
