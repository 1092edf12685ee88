"""How cuDNN lays the weights of a network out: one flat buffer of matrices and biases.

`rnnjax.kernels.cudnn` writes a cell's weights so for each call, and `rnnjax.interop`
reads and writes buffers of several layers and directions.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class Weights(NamedTuple):
    """One direction of one layer, or the shapes of its arrays.

    ``w_ih: (columns h, i)``, ``w_hh: (columns h, h)`` and two biases ``(columns h,)``,
    with the gates in the order of this package's cells, which is torch's too.
    """

    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any


def shapes(
    columns: int, input_size: int, hidden_size: int, layers: int, directions: int
) -> list[Weights]:
    """The shapes of all arrays in a buffer, one entry for each direction of each layer.

    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> layout.shapes(1, 3, 5, 1, 1)
    [Weights(w_ih=(5, 3), w_hh=(5, 5), b_ih=(5,), b_hh=(5,))]
    """
    rows = columns * hidden_size
    sizes = [input_size] + [directions * hidden_size] * (layers - 1)
    return [
        Weights((rows, size), (rows, hidden_size), (rows,), (rows,))
        for size in sizes
        for _ in range(directions)
    ]


def length(
    columns: int, input_size: int, hidden_size: int, layers: int, directions: int
) -> int:
    """How many numbers a buffer of these sizes holds.

    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> layout.length(1, 3, 5, 1, 1)
    50
    """
    inputs = input_size + (layers - 1) * directions * hidden_size
    others = layers * (hidden_size + 2)  # the recurrent matrix and two biases
    return directions * columns * hidden_size * (inputs + others)


def pieces(weights: Sequence[Weights]) -> list[Any]:
    """All arrays in the order of cuDNN's buffer: first all matrices, then all biases.

    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> layout.pieces([layout.Weights("a", "b", "c", "d"), layout.Weights(*"efgh")])
    ['a', 'b', 'e', 'f', 'c', 'd', 'g', 'h']
    """
    matrices = [a for one in weights for a in (one.w_ih, one.w_hh)]
    return matrices + [a for one in weights for a in (one.b_ih, one.b_hh)]


def separate(buffer: Any, of: Sequence[Weights]) -> list[Weights]:
    """The arrays of these shapes from a buffer, which may be of NumPy or of JAX.

    >>> import numpy as np
    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> (weights,) = layout.separate(np.arange(50.0), layout.shapes(1, 3, 5, 1, 1))
    >>> weights.b_hh
    array([45., 46., 47., 48., 49.])
    """
    found, start = [], 0
    for shape in pieces(of):
        end = start + math.prod(shape)
        found.append(buffer[start:end].reshape(shape))
        start = end
    matrices, biases = found[: 2 * len(of)], found[2 * len(of) :]
    return [
        Weights(*matrices[2 * k : 2 * k + 2], *biases[2 * k : 2 * k + 2])
        for k in range(len(of))
    ]


def flatten_weights(w_ih: Array, w_hh: Array, b: Array) -> Array:
    """The weights of `rnnjax.lstm` as cuDNN has them: one vector.

    It adds two biases, of which the second is zero here.

    >>> import jax, rnnjax
    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> params = rnnjax.lstm(3, 5).init(jax.random.key(0))
    >>> layout.flatten_weights(*params).shape
    (200,)
    """
    weights = Weights(w_ih.T, w_hh.T, b, jnp.zeros_like(b))
    return jnp.concatenate([a.ravel() for a in pieces([weights])])


def unflatten_weights(
    weights: Array, input_size: int, hidden_size: int
) -> tuple[Array, Array, Array]:
    """``(w_ih, w_hh, b)`` of `rnnjax.lstm` from cuDNN's vector for one layer.

    >>> import jax, rnnjax
    >>> from rnnjax.kernels import cudnn_layout as layout
    >>> params = rnnjax.lstm(3, 5).init(jax.random.key(0))
    >>> back = layout.unflatten_weights(layout.flatten_weights(*params), 3, 5)
    >>> all((a == b).all() for a, b in zip(params, back))
    True
    """
    (one,) = separate(weights, shapes(4, input_size, hidden_size, 1, 1))
    return one.w_ih.T, one.w_hh.T, one.b_ih + one.b_hh
