"""What diagonal state spaces share: complex pairs, and time made discrete."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks
from rnnjax.traversals import sums


class ComplexCarry(NamedTuple):
    """The real and the imaginary parts of complex units, ``re`` and ``im``.

    They are two real arrays, so that the carry has the dtype of the params, bfloat16
    included.
    """

    re: Array
    im: Array


def zero(dtype: Any, *shape: int) -> ComplexCarry:
    """Complex units at rest."""
    return ComplexCarry(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def times(a: tuple[Array, Array], b: tuple[Array, Array]) -> ComplexCarry:
    """The complex product, elementwise.

    >>> from rnnjax.cells import diagonal
    >>> diagonal.times((1, 2), (3, 4))
    ComplexCarry(re=-5, im=10)
    """
    return ComplexCarry(a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0])


def held(log_decay: Array, frequency: Array, dt: Array) -> tuple[Any, Any]:
    r"""Zero-order hold: ``(keep, scale)`` of a step in which the input stands still.

    .. math:: keep = e^{\Lambda dt}, \quad scale = (e^{\Lambda dt} - 1) / \Lambda, \quad
              \Lambda = -e^{log\_decay} + i \, frequency

    Narrow params are computed with in float32: what reaches the decay is a small
    difference of the gradients by the two parts of keep.

    >>> import jax.numpy as jnp
    >>> from rnnjax.cells import diagonal
    >>> keep, scale = diagonal.held(jnp.zeros(1), jnp.zeros(1), jnp.log(2.0))
    >>> keep[0].tolist(), scale[0].tolist()
    ([0.5], [0.5])
    """
    dtype = log_decay.dtype
    log_decay, frequency, dt = sums.wide((log_decay, frequency, dt))
    decay = jnp.exp(log_decay)
    angle = frequency * dt
    radius = jnp.exp(-decay * dt)
    keep = (radius * jnp.cos(angle), radius * jnp.sin(angle))
    # keep - 1 without the difference of two numbers close to each other.
    half = jnp.sin(angle / 2)
    less = jnp.expm1(-decay * dt) * jnp.cos(angle) - 2 * half * half
    size = decay * decay + frequency * frequency
    scale = times((less, keep[1]), (-decay / size, -frequency / size))
    return jax.tree.map(lambda a: a.astype(dtype), (keep, scale))


def log_steps(key: Array, shape: tuple[int, ...], dt_min: float, dt_max: float):
    """Logarithms of step sizes, uniform between those of the bounds."""
    low, high = math.log(dt_min), math.log(dt_max)
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def softplus_steps(key: Array, shape: tuple[int, ...], dt_min: float, dt_max: float):
    """What softplus takes to such step sizes."""
    dt = jnp.exp(log_steps(key, shape, dt_min, dt_max))
    return dt + jnp.log(-jnp.expm1(-dt))


def check_steps(dt_min: float, dt_max: float) -> None:
    """Refuse bounds of step sizes that are not positive or not in order."""
    checks.positive("dt_min", dt_min, example=0.001)
    if checks.positive("dt_max", dt_max, example=0.1) < dt_min:
        raise ValueError(
            f"dt_max is {dt_max!r}; expected at least dt_min={dt_min!r}, as steps "
            "start between the two. Write dt_min=0.001, dt_max=0.1."
        )
