"""The two cells of the xLSTM: exponential gates, and a memory that is a matrix."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells import heads as by_head
from rnnjax.initializers import per_gate
from rnnjax.observation import observe

# The logarithm of nothing: as good as minus infinity, whose difference is no number.
_NOTHING = -1e4


class SLSTMParams(NamedTuple):
    """``w_ih: (i, 4h)``, ``w_hh: (4, m, h / m, h / m)``, ``b: (4h,)``, gates i f z o.

    With m ``heads``, of which each gate has a matrix.
    """

    w_ih: Array
    w_hh: Array
    b: Array


class SLSTMCarry(NamedTuple):
    """The memory ``c``, its weight ``n``, their scale ``m`` and ``h``, all ``(h,)``."""

    c: Array
    n: Array
    m: Array
    h: Array


@constructor
def slstm(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""The sLSTM: exponential gates, a normalised memory, and heads that mix inside.

    .. math::

        (\tilde i, \tilde f, \tilde z, \tilde o) &= x_t W_{ih} + h_{t-1} W_{hh} + b \\
        z &= \tanh(\tilde z), \quad o = \sigma(\tilde o) \\
        m_t &= \max(\log \sigma(\tilde f) + m_{t-1}, \tilde i) \\
        i &= e^{\tilde i - m_t}, \quad
            f = e^{\log \sigma(\tilde f) + m_{t-1} - m_t} \\
        c_t &= f \odot c_{t-1} + i \odot z \\
        n_t &= f \odot n_{t-1} + i \\
        h_t &= o \odot c_t / n_t

    The input gate is an exponential, and c over n an average of the z so far with these
    weights; m keeps both in range and changes nothing else. The carry is
    ``SLSTMCarry(c, n, m, h)``, all ``(h,)``; it starts at zero, and m at -10,000, the
    logarithm of a weight that nothing has yet. The output is ``h``. The forget gate's
    biases start evenly between 3 and 6.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      heads: groups of units that do not see each other; they divide ``hidden_size``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``heads`` that do not divide ``hidden_size``.

    Reference: Beck et al. 2024, xLSTM: extended long short-term memory,
    arXiv:2405.04517.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.slstm(3, 6, heads=2)
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> ys.shape, bool((ys[-1] == carry.h).all()), bool((jnp.abs(ys) < 1).all())
    ((10, 6), True, True)
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    by_head.check(heads, hidden_size=hidden_size)

    def init(key):
        key_ih, key_hh = jax.random.split(checks.key(key))
        w_ih = per_gate(glorot_uniform(), 4)(key_ih, (input_size, 4 * hidden_size))
        wide = hidden_size // heads
        w_hh = jax.nn.initializers.orthogonal()(key_hh, (4, heads, wide, wide))
        forget = jnp.linspace(3.0, 6.0, hidden_size)
        b = jnp.zeros((4, hidden_size)).at[1].set(forget).ravel()
        return SLSTMParams(w_ih, w_hh, b)

    def initial_carry(params):
        zero = jnp.zeros(hidden_size, params.b.dtype)
        return SLSTMCarry(zero, zero, jnp.full_like(zero, _NOTHING), zero)

    def project(params, x):
        return x @ params.w_ih + params.b

    def step(params, carry, z):
        h = by_head.split(carry.h, heads)
        mixed = jnp.einsum("mi,gmij->gmj", h, params.w_hh).reshape(4, hidden_size)
        i, f, z, o = z.reshape(4, hidden_size) + mixed
        z, o = jnp.tanh(z), jax.nn.sigmoid(o)
        kept = jax.nn.log_sigmoid(f) + carry.m
        m = jnp.maximum(kept, i)
        i, f = jnp.exp(i - m), jnp.exp(kept - m)
        c = f * carry.c + i * z
        n = f * carry.n + i
        h = o * c / n
        observe(z=z, o=o, m=m, i=i, f=f, c=c, n=n, h=h)
        return SLSTMCarry(c, n, m, h), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )


class MLSTMParams(NamedTuple):
    """``w: (i, 4h)``, ``b: (4h,)``, blocks q k v o, for m ``heads``.

    ``w_gates: (i, 2m)``, ``b_gates: (2m,)``, gates i f of each head.
    """

    w: Array
    b: Array
    w_gates: Array
    b_gates: Array


class MLSTMCarry(NamedTuple):
    """For each of m heads of d features, the memory and its scale.

    ``c: (m, d, d)``, values by keys; ``n: (m, d)``, ``m: (m,)``.
    """

    c: Array
    n: Array
    m: Array


@constructor
def mlstm(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""The mLSTM: exponential gates and a matrix that holds values by their keys.

    .. math::

        q &= x_t W_q + b_q, \quad k = (x_t W_k + b_k) / \sqrt d, \quad
            v = x_t W_v + b_v \\
        o &= \sigma(x_t W_o + b_o), \quad
            \tilde i = x_t W_i + b_i, \quad \tilde f = x_t W_f + b_f \\
        m_t &= \max(\log \sigma(\tilde f) + m_{t-1}, \tilde i) \\
        i &= e^{\tilde i - m_t}, \quad
            f = e^{\log \sigma(\tilde f) + m_{t-1} - m_t} \\
        C_t &= f C_{t-1} + i \, v k^T \\
        n_t &= f n_{t-1} + i \, k \\
        h_t &= o \odot C_t q / \max(\lvert n_t^T q \rvert, e^{-m_t})

    for each head of :math:`d = h / heads` features. Gates see the input alone. m keeps
    C and n in range and changes nothing else. It is the maximum of a sum and an input,
    and with m known C and n are linear in the carry, so that prefix scans can walk
    them, m first. The carry is
    ``MLSTMCarry(c, n, m)``, zero at first; the output is ``h: (h,)``. The forget gate's
    biases start evenly between 3 and 6. Normalisation, convolution and gate of the
    paper's block are around the cell, see `residual_block`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: features of one output, ``h: (h,)``.
      heads: groups of features, each with a memory; they divide ``hidden_size``.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for ``heads`` that do not divide ``hidden_size``.

    Reference: Beck et al. 2024, xLSTM: extended long short-term memory,
    arXiv:2405.04517.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.mlstm(3, 8, heads=2)
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> carry.c.shape, ys.shape
    ((2, 4, 4), (10, 8))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    by_head.check(heads, hidden_size=hidden_size)
    wide = hidden_size // heads

    def init(key):
        key_w, key_gates = jax.random.split(checks.key(key))
        draw = glorot_uniform()
        b_gates = jnp.zeros((2, heads)).at[1].set(jnp.linspace(3.0, 6.0, heads))
        return MLSTMParams(
            per_gate(draw, 4)(key_w, (input_size, 4 * hidden_size)),
            jnp.zeros(4 * hidden_size),
            per_gate(draw, 2)(key_gates, (input_size, 2 * heads)),
            b_gates.ravel(),
        )

    def initial_carry(params):
        dtype = params.w.dtype
        return MLSTMCarry(
            jnp.zeros((heads, wide, wide), dtype),
            jnp.zeros((heads, wide), dtype),
            jnp.zeros(heads, dtype),
        )

    def project(params, x):
        q, k, v, o = (x @ params.w + params.b).reshape(4, heads, wide)
        i, f = jnp.split(x @ params.w_gates + params.b_gates, 2)
        k, o, f = k / math.sqrt(wide), jax.nn.sigmoid(o), jax.nn.log_sigmoid(f)
        observe(q=q, k=k, v=v, o=o)
        return q, k, v, o, i, f

    def step(params, carry, z):
        q, k, v, o, i, f = z
        m = jnp.maximum(f + carry.m, i)
        i, f = jnp.exp(i - m)[:, None], jnp.exp(f + carry.m - m)[:, None]
        c = f[..., None] * carry.c + (i * v)[..., None] * k[:, None]
        n = f * carry.n + i * k
        found = jnp.einsum("mvk,mk->mv", c, q)
        weight = jnp.maximum(jnp.abs((n * q).sum(1)), jnp.exp(-m))
        h = (o * found / weight[:, None]).ravel()
        observe(m=m, i=i[:, 0], f=f[:, 0], C=c, n=n, h=h)
        return MLSTMCarry(c, n, m), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
