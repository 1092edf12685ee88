"""Data for the laws: drawn, perturbed, cast, cut and polluted trees of arrays.

All by NumPy where arrays are concrete: JAX would compile a program for each shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def is_float(a: Any) -> bool:
    """Whether an array's dtype is a floating one."""
    return jnp.issubdtype(jnp.result_type(a), jnp.floating)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating leaves cast, where there is a dtype to cast to."""

    def one(a):
        a = np.asarray(a)
        return jnp.asarray(a.astype(dtype) if is_float(a) and dtype is not None else a)

    return jax.tree.map(one, tree)


def forms(tree: Any, dtype: Any) -> Any:
    """Shapes and dtypes of what `cast` returns."""

    def one(a):
        return jax.ShapeDtypeStruct(a.shape, dtype if is_float(a) else a.dtype)

    return jax.tree.map(one, tree)


def draw(key: Array, tree: Any, leading: tuple[int, ...] = ()) -> Any:
    """Random arrays of the shapes in a tree, integers from 0 to those in it."""
    rng = _generator(key)

    def one(a):
        shape = (*leading, *a.shape)
        if is_float(a):
            return jnp.asarray(rng.standard_normal(shape).astype(a.dtype))
        if not isinstance(a, jax.Array | np.ndarray):
            return jnp.zeros(shape, a.dtype)  # the weight of an integer output
        return jnp.asarray(rng.integers(0, np.max(a) + 1, shape).astype(a.dtype))

    return jax.tree.map(one, tree)


def perturbed(key: Array, tree: Any) -> Any:
    """Away from zeros and ones, where terms vanish and mistakes hide."""
    rng = _generator(key)

    def one(a):
        if not is_float(a):
            return a
        moved = np.asarray(a, np.float64) + 0.3 * rng.standard_normal(a.shape)
        return jnp.asarray(moved.astype(a.dtype))

    return jax.tree.map(one, tree)


def _generator(key: Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def take(tree: Any, index: Any) -> Any:
    """The same index of every leaf."""
    return jax.tree.map(lambda a: np.asarray(a)[index], tree)


def join(*trees: Any) -> Any:
    """Sequences one after the other."""
    return jax.tree.map(lambda *each: np.concatenate(each), *trees)


def stack(*trees: Any) -> Any:
    """One example after the other, along a new leading axis."""
    return jax.tree.map(lambda *each: np.stack(each), *trees)


def add(one: Any, other: Any) -> Any:
    """The sum of two trees."""
    return jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), one, other)


def zeros_like(tree: Any) -> Any:
    """Zeros in the form of a tree."""
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tree)


def spread(tree: Any, valid: np.ndarray) -> Any:
    """Values of the valid steps at their places in the sequence, zero elsewhere."""

    def one(a):
        out = np.zeros((len(valid), *a.shape[1:]), a.dtype)
        out[valid] = a
        return out

    return jax.tree.map(one, tree)


def polluted(tree: Any, valid: np.ndarray, filler: float) -> Any:
    """Values at the valid steps as they were, and ``filler`` elsewhere."""

    def one(a):
        a = np.array(a)
        a[~valid] = filler if is_float(a) else np.iinfo(a.dtype).max
        return a

    return jax.tree.map(one, tree)


def select(flags: Any, one: Any, other: Any) -> Any:
    """Leaves of one tree or the other, by flags for their leading axes."""

    def choose(a, b):
        shape = np.shape(flags) + (1,) * (a.ndim - np.ndim(flags))
        return jnp.where(jnp.reshape(flags, shape), a, b)

    return jax.tree.map(choose, one, other)
