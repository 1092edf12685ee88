"""The form of a pytree, its structure, shapes and dtypes: in words, and compared.

Words never hold the values of an array, which may be millions of numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

_LONGEST = 400  # letters of an outline


def outline(tree: Any) -> str:
    """A pytree with the dtype and shape of each array in the array's place.

    >>> import jax.numpy as jnp
    >>> from rnnjax import forms
    >>> forms.outline({"h": jnp.zeros((2, 3)), "name": "x"})
    "{'h': float32[2,3], 'name': 'x'}"
    """
    try:
        text = repr(jax.tree.map(lambda leaf: _Text(_leaf(leaf)), tree))
    except (TypeError, ValueError):  # keys that cannot be sorted, broken reprs
        text = kind(tree)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def call(tree: Any) -> str:
    """How a NamedTuple is written by name, anything else as an outline."""
    fields = getattr(tree, "_fields", None)
    if fields is None:
        return outline(tree)
    return f"{type(tree).__name__}({', '.join(f'{f}=...' for f in fields)})"


def kind(value: Any) -> str:
    """The type of an object, with the package that it comes from."""
    made = type(value)
    package = made.__module__.split(".")[0]
    known = package in ("builtins", "__main__")
    return f"<{made.__qualname__}>" if known else f"<{package}.{made.__qualname__}>"


def is_array(value: Any) -> bool:
    """Whether JAX takes it as one array of numbers, bools or keys."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "OSUMmV" or value.dtype == jnp.bfloat16
    return isinstance(value, jax.Array | jax.ShapeDtypeStruct | bool | int | float)


def dtype(leaf: Any) -> Any:
    """The dtype of an array or of a Python number."""
    return getattr(leaf, "dtype", None) or jnp.result_type(leaf)


def of(tree: Any) -> Any:
    """The shapes and dtypes of a tree, as `jax.ShapeDtypeStruct` leaves."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), dtype(a)), tree)


def difference(found: Any, wanted: Any, path: str, same: Any) -> Any:
    """The first place at which two trees differ: ``(path, found, wanted)``, or None.

    ``same(found, wanted)`` compares two leaves.
    """

    def top(tree):
        return tree_flatten_with_path(tree, is_leaf=lambda a: a is not tree)

    inner, structure = top(found)
    expected, wanted_structure = top(wanted)
    if structure != wanted_structure:
        return path, found, wanted
    if len(inner) == 1 and inner[0][1] is found:
        return None if same(found, wanted) else (path, found, wanted)
    for (step, one), (_, other) in zip(inner, expected, strict=True):
        place = difference(one, other, path + keystr(step), same)
        if place is not None:
            return place
    return None


def _leaf(leaf: Any) -> str:
    if isinstance(leaf, str):
        return repr(leaf) if len(leaf) <= 40 else repr(leaf[:40] + "...")
    if isinstance(leaf, bool | int | float | type(None)):
        return repr(leaf)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and is_array(leaf):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    if isinstance(leaf, type) or hasattr(leaf, "__name__"):
        return getattr(leaf, "__name__", repr(leaf))
    return kind(leaf)


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
