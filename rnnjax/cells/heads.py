"""Heads: groups of features that are treated alike and apart."""

from jax import Array

from rnnjax import checks


def check(heads: int, **sizes: int) -> None:
    """Refuse a number of heads that does not divide each of the sizes."""
    checks.size("heads", heads)
    for name, size in sizes.items():
        if size % heads:
            raise ValueError(
                f"heads is {heads}; expected a divisor of {name}={size}. Write "
                f"heads=1, or {name}={heads * (size // heads + 1)}."
            )


def split(a: Array, heads: int) -> Array:
    """``(heads, size / heads)`` of ``(size,)``."""
    return a.reshape(heads, -1)
