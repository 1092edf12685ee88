r"""What one recurrent cell is to the kernels, and the words that they all use.

A step has a bilinear part, which all cells share,

.. math:: a_t = x_t W_{ih} + b, \qquad u_t = h_{t-1} W_{hh},

and an elementwise part, which makes the cell: how ``a`` and ``u`` change the carry, and
the same differentiated, written in the values that the forward pass has saved.

The words mean the same in every module here and in C++, where a cell's traits state
them once (``src/cells.h``). Of each unit,

- *columns*: how many columns ``w_ih`` and ``w_hh`` have: ``(i, columns h)`` and
  ``(h, columns h)``, in blocks of ``h``, one for each gate;
- *saved*: how many values of a step the forward pass saves for the backward one;
- *carries*: how many arrays the carry has; the last one, ``h``, is the output;
- *reads*: how many arrays of the previous carry, from the first, `differentiate` reads;
- *joined*: whether only the sum ``a + u`` enters. If not, the last column has a bias of
  its own in ``u``, ``b_hn: (h,)``;
- *gated*: how many columns, the last ones, multiply ``r * h`` in place of ``h``, in a
  second product, where ``r`` is the sigmoid of the first column and the first value
  that is saved. Such a cell is joined and reads all of its carry.

The *residuals* are what the backward pass needs of the forward one: the saved values of
all steps and the carry before each, which the value primitive gives if its parameter of
this name asks for them. The tangent and the cotangent primitive take them, as many
arrays of the carry as the cell reads, together with ``w_hh``, mask and reset.

Two functions are the elementwise part. They take and give tuples with one array for
each column, saved value or carry, and treat every element alike, so that the reference
scan and the Pallas kernels call them on arrays of any shape:

- ``activate(a, u, carry) -> (saved, carry)`` ends a step;
- ``differentiate(saved, previous, d_carry) -> (d_a, d_u, d_previous)`` is the transpose
  of its derivative, linear in ``d_carry``, but for the way of ``d_u`` through ``w_hh``.
  What reaches ``r`` comes that way, and is added by who multiplies.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Arrays = tuple[Array, ...]


class Program(NamedTuple):
    """A program for one platform that runs there in place of every other.

    Attributes:
      platform: as JAX calls it.
      value: takes and gives what `rnnjax.kernels.reference.value` does.
      cotangent: takes and gives what `rnnjax.kernels.reference.cotangent` does.
    """

    platform: str
    value: Callable[..., Sequence[Array]]
    cotangent: Callable[..., Sequence[Array]]


class Equations(NamedTuple):
    """A recurrent cell for the primitives of `rnnjax.kernels.primitives`.

    Attributes:
      name: in a jaxpr, and of the native kernel.
      cell: how to make the cell, for messages.
      columns: see above, as are the next seven.
      saved: values of a unit and a step.
      carries: arrays.
      reads: arrays of the previous carry.
      joined: whether ``a + u`` alone enters.
      activate: ends a step.
      differentiate: goes back through it.
      gated: columns of the second product.
      program: what is to run on a platform in place of its default.
      reverse: whether time is walked from the last step to the first.
    """

    name: str
    cell: str
    columns: int
    saved: int
    carries: int
    reads: int
    joined: bool
    activate: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
    differentiate: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays, Arrays]]
    gated: int = 0
    program: Program | None = None
    reverse: bool = False

    def __repr__(self) -> str:
        return self.name


class Known(NamedTuple):
    """A cell's step, and the equations that it is known to compute.

    A kernel does not call the step, so it refuses every step that is not known to it.
    """

    equations: Equations
    step: Callable[[Any, Any, Any], tuple[Any, Any]]

    @property
    def __wrapped__(self) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
        """The step itself, for who asks what it is called."""
        return self.step

    def __call__(self, params: Any, carry: Any, z: Any) -> tuple[Any, Any]:
        return self.step(params, carry, z)


def _lstm_activate(a: Arrays, u: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    i, f, g, o = map(jnp.add, a, u)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * carry[0] + i * g
    return (i, f, g, o), (c, o * jnp.tanh(c))


def _lstm_differentiate(
    saved: Arrays, previous: Arrays, d_carry: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    (i, f, g, o), (c,), (dc, dh) = saved, previous, d_carry
    squashed = jnp.tanh(f * c + i * g)
    dc = dc + dh * o * (1 - squashed * squashed)
    di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
    dg, do = dc * i * (1 - g * g), dh * squashed * o * (1 - o)
    d = (di, df, dg, do)
    return d, d, (dc * f, jnp.zeros_like(dh))


LSTM = Equations(
    name="lstm",
    cell="rnnjax.lstm with activation=jnp.tanh",
    columns=4,
    saved=4,
    carries=2,
    reads=1,
    joined=True,
    activate=_lstm_activate,
    differentiate=_lstm_differentiate,
)


def _gru_activate(a: Arrays, u: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    (a_r, a_z, a_n), (u_r, u_z, q), (h,) = a, u, carry
    r, z = jax.nn.sigmoid(a_r + u_r), jax.nn.sigmoid(a_z + u_z)
    n = jnp.tanh(a_n + r * q)
    return (n, r, z, q), ((1 - z) * n + z * h,)


def _gru_differentiate(
    saved: Arrays, previous: Arrays, d_carry: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    (n, r, z, q), (h,), (dh,) = saved, previous, d_carry
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * q * r * (1 - r)
    return (dr, dz, dn), (dr, dz, dn * r), (dh * z,)


GRU = Equations(
    name="gru",
    cell="rnnjax.gru with reset_after=True",
    columns=3,
    saved=4,
    carries=1,
    reads=1,
    joined=False,
    activate=_gru_activate,
    differentiate=_gru_differentiate,
)


def _gru_before_activate(a: Arrays, u: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    (r, z, n), (h,) = map(jnp.add, a, u), carry
    r, z, n = jax.nn.sigmoid(r), jax.nn.sigmoid(z), jnp.tanh(n)
    return (r, z, n), ((1 - z) * n + z * h,)


def _gru_before_differentiate(
    saved: Arrays, previous: Arrays, d_carry: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    (_, z, n), (h,), (dh,) = saved, previous, d_carry
    dn = dh * (1 - z) * (1 - n * n)
    d = (jnp.zeros_like(dh), dh * (h - n) * z * (1 - z), dn)
    return d, d, (dh * z,)


GRU_BEFORE = Equations(
    name="gru_before",
    cell="rnnjax.gru with reset_after=False",
    columns=3,
    saved=3,
    carries=1,
    reads=1,
    joined=True,
    gated=1,
    activate=_gru_before_activate,
    differentiate=_gru_before_differentiate,
)


def _tanh_activate(a: Arrays, u: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    h = jnp.tanh(a[0] + u[0])
    return (h,), (h,)


def _tanh_differentiate(
    saved: Arrays, previous: Arrays, d_carry: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    (h,), (dh,) = saved, d_carry
    d = (dh * (1 - h * h),)
    return d, d, (jnp.zeros_like(dh),)


ELMAN_TANH = Equations(
    name="elman_tanh",
    cell="rnnjax.elman with activation=jnp.tanh",
    columns=1,
    saved=1,
    carries=1,
    reads=0,
    joined=True,
    activate=_tanh_activate,
    differentiate=_tanh_differentiate,
)


def _relu_activate(a: Arrays, u: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    h = jax.nn.relu(a[0] + u[0])
    return (h,), (h,)


def _relu_differentiate(
    saved: Arrays, previous: Arrays, d_carry: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    (h,), (dh,) = saved, d_carry
    d = (jnp.where(h > 0, dh, jnp.zeros_like(dh)),)
    return d, d, (jnp.zeros_like(dh),)


ELMAN_RELU = ELMAN_TANH._replace(
    name="elman_relu",
    cell="rnnjax.elman with activation=jax.nn.relu",
    activate=_relu_activate,
    differentiate=_relu_differentiate,
)

CELLS = (LSTM, GRU, GRU_BEFORE, ELMAN_TANH, ELMAN_RELU)
