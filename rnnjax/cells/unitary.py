"""A network of complex units that a unitary matrix turns."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.cell import Cell, constructor
from rnnjax.cells import diagonal, exponential
from rnnjax.cells.diagonal import ComplexCarry
from rnnjax.cells.prepared import prepared
from rnnjax.initializers import per_gate
from rnnjax.observation import observe
from rnnjax.traversals import sums


class UnitaryParams(NamedTuple):
    """``w_ih: (i, 2h)``, blocks re im; ``generator: (2, h, h)``, ``b: (h,)``.

    Of the generator's two parts the antisymmetric part of the first and the symmetric
    part of the second are read.
    """

    w_ih: Array
    generator: Array
    b: Array


@constructor
def unitary(
    input_size: int,
    hidden_size: int,
    *,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Unitary network: its matrix is the exponential of a skew-Hermitian one.

    .. math::

        U &= \exp((G_1 - G_1^T) / 2 + i (G_2 + G_2^T) / 2) \\
        a_t &= h_{t-1} U + x_t W_{ih} \\
        h_t &= relu(\lvert a_t \rvert + b) \odot a_t / \lvert a_t \rvert

    h, U and W are complex. Every generator G gives a unitary U, and every unitary
    matrix has one, so that training needs no projection; the exponential is taken once
    for a sequence. Without input and bias the length of h never changes. The carry is
    ``ComplexCarry(re, im)``, both ``(h,)`` and zero at first; the output is both side
    by side, ``(2h,)``. In a trace a and h are ``(2, h)`` and U is real, ``(2h, 2h)``. U
    starts diagonal, with phases uniform in :math:`[-\pi, \pi]`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: complex units, ``h: (h,)``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Lezcano-Casado, Martínez-Rubio 2019, Cheap orthogonal constraints in
    neural networks: a simple parametrization of the orthogonal and unitary group,
    arXiv:1901.08428; the nonlinearity: Arjovsky, Shah, Bengio 2016, arXiv:1511.06464.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.unitary(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.re.shape, ys.shape
    ((5,), (10, 10))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)

    def init(key):
        key_ih, key_phase = jax.random.split(checks.key(key))
        w_ih = per_gate(glorot_uniform(), 2)(key_ih, (input_size, 2 * hidden_size))
        phases = jax.random.uniform(
            key_phase, (hidden_size,), minval=-math.pi, maxval=math.pi
        )
        generator = jnp.stack([jnp.zeros((hidden_size, hidden_size)), jnp.diag(phases)])
        return UnitaryParams(w_ih, generator, jnp.zeros(hidden_size))

    def prepare(params):
        return params.w_ih, _exponential(params.generator), params.b

    def project(read, x):
        return x @ read[0]

    def step(read, h, z):
        _, u, b = read
        a = (jnp.concatenate(h) @ u + z).reshape(2, hidden_size)
        squares = (a * a).sum(0)
        # The direction of zero is none; its root has no slope.
        there = squares > 0
        length = jnp.sqrt(jnp.where(there, squares, 1))
        scale = jnp.where(there, jax.nn.relu(length + b) / length, 0)
        h = scale * a
        observe(U=u, a=a, h=h)
        return ComplexCarry(*h), h.ravel()

    def at_rest(dtype):
        return diagonal.zero(dtype, hidden_size)

    shape = (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )


def _exponential(generator: Array) -> Array:
    """The real matrix ``(2h, 2h)`` by which rows of both parts are multiplied."""
    # In half precision squares would lose what digits there are.
    re, im = sums.wide(generator)
    u = exponential.unitary((re - re.T) / 2, (im + im.T) / 2)
    return u.astype(generator.dtype)
