"""A dictionary of arrays as it comes in: what it may hold, and taking from it."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def flatten(
    arrays: Mapping[Any, Any], prefix: str = "", ignored: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """A flat dictionary with names ``a/b/c`` of a nested one; ``None`` is left out.

    With ``prefix`` only the names that start with it are kept, without it. Entries
    whose own name is ``ignored`` are left out too.

    Raises:
      TypeError: for something other than a dictionary, a module for example, for names
        that are no strings, and for what NumPy cannot hold.
      ValueError: where nothing is left, and for names that occur twice.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(
            f"arrays is of type {type(arrays).__name__}; expected a dictionary of "
            "names and arrays. Write module.state_dict() for a module of torch, "
            "vars(cell) for a cell of Equinox."
        )
    check_prefix(prefix)
    flat: dict[str, Any] = {}

    def visit(tree, path):
        if len(path) > _DEEPEST:
            raise ValueError(
                f"arrays is nested more than {_DEEPEST} dictionaries deep, or holds a "
                "dictionary within itself; expected a few levels of names. Pass the "
                "dictionary that holds the layers."
            )
        for key, value in tree.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(
                    f"arrays has a name of type {type(key).__name__}; expected "
                    "strings. Write {str(name): array for name, array in "
                    "arrays.items()}."
                )
            if key in ignored or value is None:
                continue
            if isinstance(value, Mapping):
                visit(value, (*path, str(key)))
                continue
            name = "/".join((*path, str(key)))
            if name in flat:
                raise ValueError(
                    f"arrays has two entries that are called {name!r}, one of them "
                    "nested; expected one array for each name. Leave one out."
                )
            flat[name] = value

    visit(arrays, ())
    if not flat:
        raise ValueError(
            "arrays is empty; expected the weights of a layer. Pass the dictionary "
            "that holds them."
        )
    # Of a whole model only what is asked for has to be something NumPy can hold.
    kept = {
        name[len(prefix) :]: _array(name, value)
        for name, value in flat.items()
        if name.startswith(prefix)
    }
    if not kept:
        raise ValueError(
            f"arrays has no name that starts with prefix={prefix!r}; expected one of "
            f"those that are there: {some(flat)}. Write the prefix of one of them, up "
            "to the layer's name."
        )
    return kept


_DEEPEST = 50


def check_prefix(prefix: Any) -> None:
    """Whether a prefix is a text.

    Raises:
      TypeError: where it is not.
    """
    if not isinstance(prefix, str):
        raise TypeError(
            f"prefix is of type {type(prefix).__name__}; expected a string, what the "
            "names of the layers start with. Write prefix='encoder.'."
        )


def _array(name: str, value: Any) -> np.ndarray:
    write = (
        "Write np.asarray(array, np.float32), for torch module.float().cpu()."
        "state_dict()."
    )
    try:
        array = np.asarray(value)
    except Exception as error:
        # Libraries raise their own exceptions here, with paragraphs of advice.
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise TypeError(
            f"arrays[{name!r}] is of type {type(value).__name__}, which NumPy cannot "
            f"hold ({reason}); expected an array of numbers. {write}"
        ) from None
    real = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "biu"
    if not real or isinstance(value, np.ma.MaskedArray):
        came = "masked" if real else f"of dtype {array.dtype}"
        raise TypeError(
            f"arrays[{name!r}] is {came}; expected an array of floating numbers. "
            f"{write}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


_CAST = {
    "arrays": "{name: a.astype('float32') for name, a in arrays.items()}",
    "params": "jax.tree.map(lambda a: a.astype('float32'), params)",
}
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_dtypes(arrays: Mapping[str, Any], argument: str = "arrays") -> None:
    """Whether all weights have one floating dtype, one in which cells compute.

    Raises:
      ValueError: naming the arrays that differ.
    """
    first: dict[str, str] = {}
    for name, array in arrays.items():
        first.setdefault(array.dtype.name, name)
    for dtype, name in first.items():
        if dtype not in _DTYPES:
            raise ValueError(
                f"{name} has dtype {dtype}; expected one of {', '.join(_DTYPES)}. "
                "Turn quantised weights back into numbers first, then write "
                f"{_CAST[argument]}."
            )
    if len(first) > 1:
        mixed = " and ".join(f"{dtype} in {name!r}" for dtype, name in first.items())
        raise ValueError(
            f"{argument} holds {mixed}; expected one dtype for all weights. Write "
            f"{_CAST[argument]}."
        )


def take(
    group: Mapping[str, np.ndarray], name: str, source: str, axes: int
) -> np.ndarray:
    """An array that must be there, with so many axes.

    Raises:
      ValueError: where it is not, or has other axes, or holds nothing.
    """
    if name not in group:
        raise ValueError(
            f"{source} has no {name!r}, only {some(group)}; expected all weights of "
            "the layer. Pass them as the other library has them."
        )
    array = group[name]
    if array.ndim != axes or not array.size:
        raise ValueError(
            f"{source}: {name} has shape {array.shape}; expected {axes} "
            f"{'axis' if axes == 1 else 'axes'}, none of them of size 0. Pass the "
            "array as the other library has it."
        )
    return array


def take_or_zeros(
    group: Mapping[str, np.ndarray], name: str, source: str, like: np.ndarray
) -> np.ndarray:
    """A bias, or zeros for each column of ``like`` where a layer has none.

    Raises:
      ValueError: for one that does not fit those columns.
    """
    expected = like.shape[-1:]
    if name not in group:
        return np.zeros(expected, like.dtype)
    bias = take(group, name, source, 1)
    if bias.shape != expected:
        raise ValueError(
            f"{source}: {name} has shape {bias.shape}; expected {expected}, as the "
            f"matrix has {like.shape[-1]} columns. Pass the arrays of one layer."
        )
    return bias


def check_names(group: Collection[str], names: Collection[str], source: str) -> None:
    """Whether all arrays of a layer are used.

    Raises:
      ValueError: naming those that are not.
    """
    spare = [name for name in group if name not in names]
    if spare:
        raise ValueError(
            f"{source} has {some(spare)} too, which nothing reads; expected "
            f"{some(names)} alone. Leave the rest out, or convert its layer by itself."
        )


def some(names: Collection[str]) -> str:
    """A few names for a sentence, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    shown = (repr(name if len(name) < 80 else f"{name[:76]}...") for name in names[:4])
    return ", ".join(shown) + more if names else "none"
