"""The exponential of a skew-Hermitian matrix, which is unitary, by products alone.

A Padé approximant has a system of equations, which LAPACK solves on a CPU: its threads
stay busy for a while on the cores that the walk needs.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

# Coefficients of the Taylor polynomial of degree eight as three products of matrices.
_ROOT = math.sqrt(177)
_X1 = (1 + _ROOT) / 132
_X2 = (1 + _ROOT) / 528
_X3 = 2 / 3
_X4 = (29 * _ROOT - 271) / 210
_X5 = 11 * (_ROOT - 1) / 840
_X6 = 11 * (_ROOT - 9) / 3360
_X7 = (89 - _ROOT) / 2240
_Y2 = (857 - 58 * _ROOT) / 630

# Powers of two: up to which norm the polynomial is as exact as numbers of so many bits,
# and above which angles have few digits left in float32.
_EXACT = {32: -1, 64: -5}
_MOST = 15


def unitary(re: Array, im: Array) -> Array:
    r"""The real matrix ``(2h, 2h)`` by which rows ``[a, b]`` are multiplied with U.

    .. math:: U = \exp(re + i\,im), \qquad (a + i b) U = a' + i b'

    Args:
      re: antisymmetric, ``(h, h)``, of float32 or float64.
      im: symmetric, ``(h, h)``, of the same dtype.

    The matrix is halved until a polynomial of degree eight is exact, and the result is
    squared as often. Rounding grows with each square; one step of Newton's iteration
    takes what is not unitary out again. Above a norm of 32,768 the result is NaN.

    Reference: Bader, Blanes, Casas 2019, Computing the matrix exponential with an
    optimized Taylor polynomial approximation, Mathematics 7(12), 1174.

    >>> import jax.numpy as jnp
    >>> from rnnjax.cells import exponential
    >>> turn = exponential.unitary(jnp.zeros((1, 1)), jnp.full((1, 1), jnp.pi / 3))
    >>> bool(jnp.allclose(turn, jnp.array([[1, 3**0.5], [-(3**0.5), 1]]) / 2))
    True
    """
    h, x = len(re), jnp.concatenate([re, im], 1)
    one = jnp.eye(h, 2 * h, dtype=x.dtype)
    exact = _EXACT[jnp.finfo(x.dtype).bits]
    most = _MOST - exact
    norm = jax.lax.stop_gradient(jnp.hypot(re, im).sum(0).max())
    halvings = jnp.clip(jnp.ceil(jnp.log2(norm)) - exact, 0, most)
    x = x * jnp.exp2(-halvings)
    x2 = _square(x)
    x4 = _product(x2, _X1 * x + _X2 * x2)
    x8 = _product(_X3 * x2 + x4, _X4 * one + _X5 * x + _X6 * x2 + _X7 * x4)
    u = one + x + _Y2 * x2 + x8

    def square(u, i):
        return jax.lax.cond(i < halvings, _square, lambda u: u, u), None

    u, _ = jax.lax.scan(square, u, jnp.arange(most, dtype=x.dtype))
    adjoint = jnp.concatenate([u[:, :h].T, -u[:, h:].T], 1)
    u = u + _product(u, one - _product(adjoint, u)) / 2
    return _whole(jnp.where(norm <= 2.0**_MOST, u, jnp.nan))


def _product(x: Array, y: Array) -> Array:
    """Of complex matrices ``(h, 2h)``, both parts side by side."""
    return jnp.matmul(x, _whole(y), precision=jax.lax.Precision.HIGHEST)


def _square(x: Array) -> Array:
    return _product(x, x)


def _whole(x: Array) -> Array:
    re, im = jnp.split(x, 2, 1)
    return jnp.concatenate([x, jnp.concatenate([-im, re], 1)])
