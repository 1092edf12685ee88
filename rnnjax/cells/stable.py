"""Networks whose recurrent matrix is built so that gradients last or states stay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.cell import Cell, constructor
from rnnjax.cells.prepared import prepared
from rnnjax.initializers import per_gate
from rnnjax.observation import observe


class AntisymmetricParams(NamedTuple):
    """``w_ih: (i, kh)``, ``w_hh: (h, h)``, ``b: (kh,)``, blocks z n, or n without gate.

    Only the antisymmetric part of ``w_hh`` is read.
    """

    w_ih: Array
    w_hh: Array
    b: Array


@constructor
def antisymmetric_rnn(
    input_size: int,
    hidden_size: int,
    *,
    gated: bool = False,
    dt: float = 0.01,
    diffusion: float = 0.01,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""AntisymmetricRNN: an Euler step of a system that neither grows nor decays.

    .. math::

        A &= W_{hh} - W_{hh}^T - \gamma I \\
        z &= \sigma(x_t W_{iz} + h_{t-1} A + b_z) \\
        n &= \tanh(x_t W_{in} + h_{t-1} A + b_n) \\
        h_t &= h_{t-1} + dt \, z \odot n

    The eigenvalues of A are imaginary but for the diffusion :math:`\gamma`, which pays
    for the error of the Euler step. Without ``gated`` z is 1. The carry is ``h: (h,)``,
    zero at first, and the output is ``h`` too. Both W start normal, with a variance of
    one over their rows, which the paper tunes.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      gated: scale each unit's step by z.
      dt: the time step, the paper's :math:`\epsilon`, above zero.
      diffusion: :math:`\gamma`, zero or more.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a ``dt`` that is not positive and a negative ``diffusion``.

    Reference: Chang, Chen, Haber, Chi 2019, AntisymmetricRNN: a dynamical system view
    on recurrent neural networks, arXiv:1902.09689.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.antisymmetric_rnn(3, 5, gated=True)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("gated", gated)
    checks.positive("dt", dt, example=0.01)
    checks.not_negative("diffusion", diffusion, example=0.01)
    gates = 2 if gated else 1

    def init(key):
        key_ih, key_hh = jax.random.split(checks.key(key))
        draw = jax.nn.initializers.lecun_normal()
        w_ih = per_gate(draw, gates)(key_ih, (input_size, gates * hidden_size))
        w_hh = draw(key_hh, (hidden_size, hidden_size))
        return AntisymmetricParams(w_ih, w_hh, jnp.zeros(gates * hidden_size))

    def prepare(params):
        a = params.w_hh - params.w_hh.T
        a = a - diffusion * jnp.eye(hidden_size, dtype=a.dtype)
        return params._replace(w_hh=a)

    def project(params, x):
        return (x @ params.w_ih + params.b).reshape(gates, hidden_size)

    def step(params, h, inputs):
        *z, n = inputs + h @ params.w_hh
        z, n = jax.nn.sigmoid(z[0]) if gated else jnp.ones_like(n), jnp.tanh(n)
        h = h + dt * z * n
        observe(A=params.w_hh, z=z, n=n, h=h)
        return h, h

    def at_rest(dtype):
        return jnp.zeros(hidden_size, dtype)

    shape = (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )


class LipschitzParams(NamedTuple):
    """``w_ih: (i, h)``, ``m_a``, ``m_w: (h, h)``, ``b: (h,)``."""

    w_ih: Array
    m_a: Array
    m_w: Array
    b: Array


@constructor
def lipschitz_rnn(
    input_size: int,
    hidden_size: int,
    *,
    dt: float = 0.03,
    symmetry_a: float = 0.25,
    symmetry_w: float = 0.35,
    diffusion_a: float = 0.001,
    diffusion_w: float = 0.001,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Lipschitz network: a linear part and a bounded one, whose symmetry is chosen.

    .. math::

        A &= s_a (M_a + M_a^T) + (1 - s_a) (M_a - M_a^T) - \gamma_a I \\
        W &= s_w (M_w + M_w^T) + (1 - s_w) (M_w - M_w^T) - \gamma_w I \\
        h_t &= h_{t-1} + dt (h_{t-1} A + \tanh(h_{t-1} W + x_t W_{ih} + b))

    The share s of the symmetric part, one minus the paper's :math:`\beta`, decides
    between decay and oscillation. The step is the paper's Euler step. The carry is
    ``h: (h,)``, zero at first, and the output is ``h`` too. Both M start normal with a
    deviation of :math:`0.1 / \sqrt h`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      dt: the time step, the paper's :math:`\epsilon`, above zero.
      symmetry_a: :math:`s_a`, in [0, 1].
      symmetry_w: :math:`s_w`, in [0, 1].
      diffusion_a: :math:`\gamma_a`, zero or more.
      diffusion_w: :math:`\gamma_w`, zero or more.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for a share outside of [0, 1], a negative diffusion and a ``dt`` that
        is not positive.

    Reference: Erichson, Azencot, Queiruga, Hodgkinson, Mahoney 2021, Lipschitz
    recurrent neural networks, arXiv:2006.12070.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lipschitz_rnn(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((5,), (10, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.positive("dt", dt, example=0.03)
    checks.not_negative("diffusion_a", diffusion_a, example=0.001)
    checks.not_negative("diffusion_w", diffusion_w, example=0.001)
    for name, value in {"symmetry_a": symmetry_a, "symmetry_w": symmetry_w}.items():
        if checks.not_negative(name, value, example=0.25) > 1:
            raise ValueError(
                f"{name} is {value!r}; expected the share of the symmetric part, "
                f"between 0 and 1. Write {name}=0.25."
            )

    def init(key):
        key_ih, *keys = jax.random.split(checks.key(key), 3)
        w_ih = glorot_uniform()(key_ih, (input_size, hidden_size))
        shape, deviation = (hidden_size, hidden_size), 0.1 * hidden_size**-0.5
        m_a, m_w = (deviation * jax.random.normal(k, shape) for k in keys)
        return LipschitzParams(w_ih, m_a, m_w, jnp.zeros(hidden_size))

    def blend(m, symmetry, diffusion):
        a = symmetry * (m + m.T) + (1 - symmetry) * (m - m.T)
        return a - diffusion * jnp.eye(hidden_size, dtype=m.dtype)

    def prepare(params):
        return params._replace(
            m_a=blend(params.m_a, symmetry_a, diffusion_a),
            m_w=blend(params.m_w, symmetry_w, diffusion_w),
        )

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, h, z):
        a, w = params.m_a, params.m_w
        h = h + dt * (h @ a + jnp.tanh(h @ w + z))
        observe(A=a, W=w, h=h)
        return h, h

    def at_rest(dtype):
        return jnp.zeros(hidden_size, dtype)

    shape = (input_size,)
    return prepared(
        init, prepare, at_rest, project, step, shape, traversal, carry_dtype
    )
