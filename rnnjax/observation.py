"""Names for the values inside a step."""

import contextlib
import contextvars
from collections.abc import Iterator

from jax import Array
from jax.ad_checkpoint import checkpoint_name

__all__ = ["observe"]

_watched = contextvars.ContextVar("watched", default=False)


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


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """What is traced meanwhile walks by loops of JAX, whose steps keep their names.

    >>> from rnnjax import observation
    >>> with observation.watching():
    ...     observation.watched()
    True
    """
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


def watched() -> bool:
    """Whether somebody will look at the named values of what is traced now.

    >>> from rnnjax import observation
    >>> observation.watched()
    False
    """
    return _watched.get()
