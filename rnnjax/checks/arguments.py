"""The arguments of constructors: sizes, numbers, functions, choices and cells."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import forms
from rnnjax.cell import Cell


def size(name: str, value: Any) -> int:
    """A positive number of units, features, steps or cells."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(
            f"{name} is {forms.outline(value)}; expected a positive integer. Write "
            f"{name}=8."
        )
    return int(value)


def shape(name: str, value: Any) -> tuple[int, ...] | None:
    """The shape of one input, or None for any input."""
    if value is not None and not isinstance(value, tuple):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a tuple of sizes. Write "
            f"{name}=(8,) for inputs of 8 features, with the comma."
        )
    for axis in value or ():
        size(f"{name}[...]", axis)
    return value


def number(name: str, value: Any, *, example: float = 1.0) -> float:
    """A finite real number, known in Python."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a number that is known when "
            f"the cell is made. Write {name}={example!r}; arrays belong in params."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{name} is {value!r}; expected a finite number. Write {name}={example!r}."
        )
    return float(value)


def positive(name: str, value: Any, *, example: float = 1.0) -> float:
    """A number above zero."""
    if number(name, value, example=example) <= 0:
        raise ValueError(
            f"{name} is {value!r}; expected a positive number. Write "
            f"{name}={example!r}."
        )
    return float(value)


def not_negative(name: str, value: Any, *, example: float = 1.0) -> float:
    """Zero or a number above it."""
    if number(name, value, example=example) < 0:
        raise ValueError(
            f"{name} is {value!r}; expected zero or a positive number. Write "
            f"{name}={example!r}."
        )
    return float(value)


def rate(name: str, value: Any) -> float:
    """A probability of dropping something, one excluded."""
    if not 0 <= number(name, value, example=0.5) < 1:
        raise ValueError(
            f"{name} is {value!r}; expected a probability in [0, 1): the share that is "
            f"dropped. Write {name}=0.5 to keep half."
        )
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected True or False. Write "
            f"{name}=True."
        )
    return bool(value)


def floating(name: str, value: Any) -> Any:
    """A floating dtype, by any of the names that NumPy takes."""
    array = isinstance(value, np.ndarray | jax.Array)
    try:
        dtype = None if array else jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a floating dtype. Write "
            f"{name}=jnp.float32."
        )
    return dtype


def choice(name: str, value: Any, choices: tuple[str, ...], write: str) -> str:
    """One of a few words; ``write`` says what is meant by them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} is {forms.outline(value)}; expected "
            f"{' or '.join(map(repr, choices))}. Write {write}."
        )
    return value


def function(name: str, value: Any, example: str) -> Callable[..., Any]:
    """A function, for example ``"jax.nn.relu"``."""
    if isinstance(value, Cell) or not callable(value):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a function. Write "
            f"{name}={example}."
        )
    return value


def activation(value: Any) -> Callable[..., Any]:
    """A function of one array."""
    named = isinstance(value, str) and value.isidentifier()
    return function("activation", value, f"jax.nn.{value if named else 'relu'}")


def cell(name: str, value: Any) -> Cell:
    """A cell, to put another around."""
    if not isinstance(value, Cell):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a Cell. Write "
            f"rnnjax.lstm(3, 4), for example{_of_a_function(value)}."
        )
    return value


def cells(constructor: str, values: tuple[Any, ...]) -> tuple[Cell, ...]:
    """One cell or more."""
    wrong = [value for value in values if not isinstance(value, Cell)]
    if wrong or not values:
        raise TypeError(
            f"{constructor} got {forms.outline(wrong) if wrong else 'nothing'}; "
            f"expected one or more cells. Write {constructor}(rnnjax.lstm(8, 16), "
            f"rnnjax.lstm(16, 4)), a list as {constructor}(*cells)"
            f"{_of_a_function(wrong[0] if wrong else None)}."
        )
    return values


def _of_a_function(value: Any) -> str:
    if not callable(value):
        return ""
    return f", and a function as rnnjax.pointwise({forms.outline(value)})"
