"""Initialisers that hold for each gate, where the gates share one matrix."""

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Draw each of ``gates`` column blocks on its own.

    Drawn as one matrix, no block of an orthogonal ``(h, 4h)`` weight is orthogonal and
    Glorot's variance counts outputs four times too many.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> draw = rnnjax.initializers.per_gate(jax.nn.initializers.orthogonal(), 4)
    >>> forget = draw(jax.random.key(0), (8, 32), jnp.float32)[:, 8:16]
    >>> bool(jnp.allclose(forget.T @ forget, jnp.eye(8), atol=1e-5))
    True
    """

    def init(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        dtype = jnp.result_type(float) if dtype is None else dtype
        rows, columns = shape
        keys = jax.random.split(key, gates)
        blocks = [initializer(k, (rows, columns // gates), dtype) for k in keys]
        return jnp.concatenate(blocks, axis=-1)

    return init


def recurrent_weights(key, input_size: int, hidden_size: int, gates: int):
    """``w_ih`` (Glorot uniform) and ``w_hh`` (orthogonal), each gate block by itself.

    References: Glorot, Bengio 2010, Understanding the difficulty of training deep
    feedforward neural networks; Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    >>> import jax, rnnjax
    >>> w_ih, w_hh = rnnjax.initializers.recurrent_weights(jax.random.key(0), 3, 5, 4)
    >>> w_ih.shape, w_hh.shape
    ((3, 20), (5, 20))
    """
    key_ih, key_hh = jax.random.split(key)
    columns = gates * hidden_size
    glorot = per_gate(jax.nn.initializers.glorot_uniform(), gates)
    orthogonal = per_gate(jax.nn.initializers.orthogonal(), gates)
    return (
        glorot(key_ih, (input_size, columns)),
        orthogonal(key_hh, (hidden_size, columns)),
    )
