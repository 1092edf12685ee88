r"""What one recurrent cell is to the kernels: its gates, and their derivative.

A step is a bilinear part that all cells share,

.. math:: a_t = x_t W_{ih} + b_{ih}, \qquad u_t = h_{t-1} W_{hh} + b_{hh},

and an elementwise part that is the cell's own. What is here is the second: how the
pre-activations change the carry, and the same differentiated, written in the gates'
*activated* values, because those are what a forward pass keeps for the backward one.
All functions work on the last axis, with any axes before it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Arrays = tuple[Array, ...]


class Program(NamedTuple):
    """A program for one platform that runs there in place of every other.

    Attributes:
      platform: as JAX calls it.
      value: takes and gives what `rnnjax.kernels.reference.value` does.
      cotangent: likewise.
    """

    platform: str
    value: Callable[..., Sequence[Array]]
    cotangent: Callable[..., Sequence[Array]]


class Equations(NamedTuple):
    """A recurrent cell for the primitives of `rnnjax.kernels.primitives`.

    The carry is a tuple of arrays ``(h,)`` whose last one is the output.

    Attributes:
      name: how it is called in a jaxpr.
      target: the native kernels are ``rnnjax_{target}_forward`` and so on.
      carries: how many arrays the carry has.
      gates: how many activated values a unit has.
      reads: how many arrays of the previous carry, from the first, `linearize` reads.
      joined: whether only the sum ``a + u`` enters, and not each on its own.
      activate: ``(preactivations, carry) -> (gates, carry)``.
      linearize: ``(gates, previous, d_preactivations, d_carry) -> d_carry``, linear in
        the last two.
      attributes: passed on to the native kernels.
      program: what is to run on a platform in place of its default.
    """

    name: str
    target: str
    carries: int
    gates: int
    reads: int
    joined: bool
    activate: Callable[[Arrays, Arrays], tuple[Array, Arrays]]
    linearize: Callable[[Array, Arrays, Arrays, Arrays], Arrays]
    attributes: tuple[tuple[str, bool], ...] = ()
    program: Program | None = None

    def __repr__(self) -> str:
        return self.name


def _lstm_activate(preactivations: Arrays, carry: Arrays) -> tuple[Array, Arrays]:
    (z,), (c, _) = preactivations, carry
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return jnp.concatenate([i, f, g, o], axis=-1), (c, o * jnp.tanh(c))


def _lstm_linearize(
    gates: Array, previous: Arrays, d_preactivations: Arrays, d_carry: Arrays
) -> Arrays:
    (c,), (dz,), (dc, _) = previous, d_preactivations, d_carry
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    di, df, dg, do = jnp.split(dz, 4, axis=-1)
    squashed = jnp.tanh(f * c + i * g)
    dc = f * dc + c * f * (1 - f) * df + g * i * (1 - i) * di + i * (1 - g * g) * dg
    return dc, squashed * o * (1 - o) * do + o * (1 - squashed * squashed) * dc


LSTM = Equations(
    name="lstm",
    target="lstm",
    carries=2,
    gates=4,
    reads=1,
    joined=True,
    activate=_lstm_activate,
    linearize=_lstm_linearize,
)


def _gru_activate(preactivations: Arrays, carry: Arrays) -> tuple[Array, Arrays]:
    (a, u), (h,) = preactivations, carry
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    u_r, u_z, q = jnp.split(u, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + u_r), jax.nn.sigmoid(a_z + u_z)
    n = jnp.tanh(a_n + r * q)
    return jnp.concatenate([n, r, z, q], axis=-1), ((1 - z) * n + z * h,)


def _gru_linearize(
    gates: Array, previous: Arrays, d_preactivations: Arrays, d_carry: Arrays
) -> Arrays:
    (h,), (da, du), (dh,) = previous, d_preactivations, d_carry
    n, r, z, q = jnp.split(gates, 4, axis=-1)
    da_r, da_z, da_n = jnp.split(da, 3, axis=-1)
    du_r, du_z, dq = jnp.split(du, 3, axis=-1)
    dr, dz = r * (1 - r) * (da_r + du_r), z * (1 - z) * (da_z + du_z)
    dn = (1 - n * n) * (da_n + r * dq + q * dr)
    return ((1 - z) * dn + z * dh + (h - n) * dz,)


GRU = Equations(
    name="gru",
    target="gru",
    carries=1,
    gates=4,
    reads=1,
    joined=False,
    activate=_gru_activate,
    linearize=_gru_linearize,
)


def _tanh_activate(preactivations: Arrays, carry: Arrays) -> tuple[Array, Arrays]:
    h = jnp.tanh(preactivations[0])
    return h, (h,)


def _tanh_linearize(
    gates: Array, previous: Arrays, d_preactivations: Arrays, d_carry: Arrays
) -> Arrays:
    return ((1 - gates * gates) * d_preactivations[0],)


def _relu_activate(preactivations: Arrays, carry: Arrays) -> tuple[Array, Arrays]:
    h = jax.nn.relu(preactivations[0])
    return h, (h,)


def _relu_linearize(
    gates: Array, previous: Arrays, d_preactivations: Arrays, d_carry: Arrays
) -> Arrays:
    return (jnp.where(gates > 0, d_preactivations[0], 0),)


ELMAN_TANH = Equations(
    name="elman_tanh",
    target="elman",
    carries=1,
    gates=1,
    reads=0,
    joined=True,
    activate=_tanh_activate,
    linearize=_tanh_linearize,
    attributes=(("relu", False),),
)

ELMAN_RELU = ELMAN_TANH._replace(
    name="elman_relu",
    activate=_relu_activate,
    linearize=_relu_linearize,
    attributes=(("relu", True),),
)
