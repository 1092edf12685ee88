"""Initialisers applied gate by gate, where the gates share one matrix.

A cell draws its own parameters; to draw some of them differently, replace them:
``params._replace(w_hh=identity()(key, params.w_hh.shape))``.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer

from rnnjax import checks

_Complexes = np.ndarray[Any, np.dtype[np.complexfloating]]


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Draw each of ``gates`` blocks of the last axis separately.

    Drawn as one matrix, no block of an orthogonal ``(h, 4h)`` weight is orthogonal, and
    Glorot's variance counts four times too many outputs.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> draw = rnnjax.initializers.per_gate(jax.nn.initializers.orthogonal(), 4)
    >>> forget = draw(jax.random.key(0), (8, 32), jnp.float32)[:, 8:16]
    >>> bool(jnp.allclose(forget.T @ forget, jnp.eye(8), atol=1e-5))
    True
    """

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        *leading, columns = shape
        keys = jax.random.split(key, gates)
        blocks = [initializer(k, (*leading, columns // gates), dtype) for k in keys]
        return jnp.concatenate(blocks, axis=-1)

    return init


def recurrent_weights(
    key,
    input_size: int,
    hidden_size: int,
    gates: int,
    *,
    recurrent_size: int | None = None,
):
    """``w_ih`` (Glorot uniform) and ``w_hh`` (orthogonal), each gate block by itself.

    ``recurrent_size`` is the number of rows of ``w_hh`` where the recurrence reads
    something other than the hidden units, for example their projection.

    References: Glorot, Bengio 2010, Understanding the difficulty of training deep
    feedforward neural networks; Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    >>> import jax, rnnjax
    >>> w_ih, w_hh = rnnjax.initializers.recurrent_weights(jax.random.key(0), 3, 5, 4)
    >>> w_ih.shape, w_hh.shape
    ((3, 20), (5, 20))
    """
    key_ih, key_hh = jax.random.split(key)
    columns = gates * hidden_size
    rows = hidden_size if recurrent_size is None else recurrent_size
    glorot = per_gate(jax.nn.initializers.glorot_uniform(), gates)
    orthogonal = per_gate(jax.nn.initializers.orthogonal(), gates)
    return glorot(key_ih, (input_size, columns)), orthogonal(key_hh, (rows, columns))


def chrono(longest: int, *, gates: int = 4) -> Initializer:
    r"""Biases for memories that last from one to ``longest`` time steps.

    .. math:: b_f \sim \log U(1, T - 1), \quad b_i = -b_f

    For ``b: (4h,)`` of an LSTM, gates i f g o; with ``gates=3`` for that of a GRU,
    gates r z n, where :math:`b_z` is drawn like :math:`b_f`: our z keeps the state,
    whereas the paper's u = 1 - z replaces it. The other gates' biases are zero.

    Raises:
      ValueError: for ``longest`` below 3, and for ``gates`` other than 3 and 4.

    Reference: Tallec, Ollivier 2018, Can recurrent neural networks warp time?,
    arXiv:1804.11188.

    >>> import jax, rnnjax
    >>> params = rnnjax.lstm(3, 5).init(jax.random.key(0))
    >>> b = rnnjax.initializers.chrono(100)(jax.random.key(1), params.b.shape)
    >>> params = params._replace(b=b)
    >>> bool((b[:5] == -b[5:10]).all())
    True
    """
    if checks.size("longest", longest) < 3:
        raise ValueError(
            f"longest is {longest}; expected 3 or more time steps, as the memories are "
            "drawn between 1 and longest - 1. Write longest=len(xs)."
        )
    if gates not in (3, 4):
        raise ValueError(
            f"gates is {gates!r}; expected 4 for the biases of an LSTM or 3 for those "
            "of a GRU. Write gates=4."
        )

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        (size,) = shape
        uniform = jax.random.uniform(key, (size // gates,), dtype, 1, longest - 1)
        keep, zero = jnp.log(uniform), jnp.zeros(size // gates, dtype)
        if gates == 4:
            return jnp.concatenate([-keep, keep, zero, zero])
        return jnp.concatenate([zero, keep, zero])

    return init


def identity(scale: float = 1.0) -> Initializer:
    """The identity times ``scale``: a memory from the start; with ReLU, the IRNN.

    Reference: Le, Jaitly, Hinton 2015, A simple way to initialize recurrent networks
    of rectified linear units, arXiv:1504.00941.

    >>> import jax, rnnjax
    >>> cell = rnnjax.elman(3, 2, activation=jax.nn.relu)
    >>> params = cell.init(jax.random.key(0))
    >>> w_hh = rnnjax.initializers.identity()(jax.random.key(1), params.w_hh.shape)
    >>> params._replace(w_hh=w_hh).w_hh.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def init(key, shape, dtype=None, out_sharding=None):
        del key, out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        return scale * jnp.eye(*shape, dtype=dtype)

    return init


def unitary() -> Initializer:
    r"""A random unitary matrix, for a real cell with an even number of units.

    .. math:: W = \begin{pmatrix} A & B \\ -B & A \end{pmatrix}, \quad
              A + iB \text{ unitary}

    The first half of the units holds the real parts of complex ones and the second
    half their imaginary parts; ``h @ W`` multiplies them by ``A + iB``, and W is
    orthogonal.

    Raises:
      ValueError: from the initialiser, for a shape that is not ``(2n, 2n)``.

    Reference: Arjovsky, Shah, Bengio 2016, Unitary evolution recurrent neural networks,
    arXiv:1511.06464 (a product of simple unitary maps; ours is uniform over all).

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> w = rnnjax.initializers.unitary()(jax.random.key(0), (6, 6))
    >>> bool(jnp.allclose(w @ w.T, jnp.eye(6), atol=1e-5))
    True
    """

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] % 2:
            raise ValueError(
                f"shape is {shape}; expected (2n, 2n), the real and the imaginary "
                "parts of n units. Write an even hidden_size, and per_gate(unitary(), "
                "gates) for a matrix of several gates."
            )
        half = shape[0] // 2
        # No random bits or QR exist in half precision.
        real, imaginary = jax.random.normal(
            key, (2, half, half), jnp.result_type(float)
        )
        q, r = jnp.linalg.qr(jax.lax.complex(real, imaginary))
        # Without these phases QR is not uniform over the group.
        q = q * jnp.sign(jnp.diagonal(r))
        top = jnp.concatenate([q.real, q.imag], axis=1)
        bottom = jnp.concatenate([-q.imag, q.real], axis=1)
        return jnp.concatenate([top, bottom]).astype(dtype)

    return init


def ring(
    min_radius: float = 0.0, max_radius: float = 1.0, max_phase: float = 2 * math.pi
) -> Initializer:
    r"""Complex eigenvalues, uniform in a ring of the complex plane.

    .. math:: \lambda = \exp(-\exp(\nu) + i \exp(\theta))

    For ``eigenvalues: (2, h)`` of `lru`, rows :math:`\nu` and :math:`\theta`: whatever
    training makes of them, :math:`\lvert\lambda\rvert < 1`.

    Args:
      min_radius: of the ring, 0 or more.
      max_radius: of the ring, above ``min_radius`` and at most 1.
      max_phase: the largest angle, in radians.

    Raises:
      ValueError: for radii that are not in order, a phase that is not positive, and,
        from the initialiser, a shape that is not ``(2, h)``.

    Reference: Orvieto et al. 2023, Resurrecting recurrent neural networks for long
    sequences, arXiv:2303.06349, lemma 3.2.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> draw = rnnjax.initializers.ring(0.9, 0.99)
    >>> nu, theta = draw(jax.random.key(0), (2, 100))
    >>> radius = jnp.exp(-jnp.exp(nu))
    >>> bool((radius > 0.899).all() and (radius < 0.991).all())
    True
    """
    checks.not_negative("min_radius", min_radius, example=0.9)
    checks.positive("max_phase", max_phase, example=6.28)
    if not min_radius < checks.number("max_radius", max_radius, example=0.999) <= 1:
        raise ValueError(
            f"max_radius is {max_radius!r}; expected more than min_radius="
            f"{min_radius!r} and at most 1, beyond which states explode. Write "
            "min_radius=0.9, max_radius=0.999."
        )

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"shape is {shape}; expected (2, h), the logarithms of the decay and "
                "of the phase of h eigenvalues. Write params.eigenvalues.shape."
            )
        # No zeros, whose logarithm is infinite, and no half precision, in which the
        # largest of them would be 1.
        wide = jnp.result_type(float)
        uniform = jax.random.uniform(key, shape, wide, minval=jnp.finfo(wide).tiny)
        squares = min_radius**2 + uniform[0] * (max_radius**2 - min_radius**2)
        nu = jnp.log(-0.5 * jnp.log(squares))
        return jnp.stack([nu, jnp.log(max_phase * uniform[1])]).astype(dtype)

    return init


def hippo(size: int) -> tuple[_Complexes, _Complexes]:
    r"""The normal part of the HiPPO-LegS matrix: its eigenvalues and eigenvectors.

    .. math::

        A_{nk} = -\sqrt{(n + \tfrac12)(k + \tfrac12)} \; (n > k), \quad
        -\tfrac12 \; (n = k), \quad \sqrt{(n + \tfrac12)(k + \tfrac12)} \; (n < k)

    They come in conjugate pairs, of which ``size`` have a positive imaginary part:
    ``eigenvalues: (size,)``, from slow to fast, and ``eigenvectors: (2 size, size)``,
    one in each column, complex NumPy arrays both. `s4d` and `s5` start from them.

    Reference: Gu, Goel, Ré 2022, Efficiently modeling long sequences with structured
    state spaces, arXiv:2111.00396, theorem 1.

    >>> import rnnjax
    >>> eigenvalues, eigenvectors = rnnjax.initializers.hippo(4)
    >>> eigenvalues.real.round(6).tolist(), eigenvectors.shape
    ([-0.5, -0.5, -0.5, -0.5], (8, 4))
    """
    checks.size("size", size)
    root = np.sqrt(np.arange(2 * size) + 0.5)
    skew = np.triu(np.outer(root, root), 1)
    # The matrix is -1/2 plus this skew-symmetric one, which i makes Hermitian.
    frequencies, vectors = np.linalg.eigh(-1j * (skew - skew.T))
    return -0.5 + 1j * frequencies[size:], vectors[:, size:]
