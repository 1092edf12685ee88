"""The attributes of ONNX's recurrent nodes: what is known, and which activations."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ATTRIBUTES = {
    "LSTM": ("input_forget",),
    "GRU": ("linear_before_reset",),
    "RNN": (),
}
_COMMON = (
    "hidden_size",
    "direction",
    "activations",
    "activation_alpha",
    "activation_beta",
    "clip",
    "layout",
)
_PLAIN = {
    "Tanh": jnp.tanh,
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Softsign": jax.nn.soft_sign,
    "Softplus": jax.nn.softplus,
    "LeakyRelu": jax.nn.leaky_relu,
    "Elu": jax.nn.elu,
}
# Functions of x, alpha and, where there are two numbers, beta; and what ONNX takes for
# those that are left out. None: the operators' page and onnxruntime disagree.
_WITH_NUMBERS: dict[str, tuple[Callable[..., Any], tuple[float | None, ...]]] = {
    "LeakyRelu": (jax.nn.leaky_relu, (0.01,)),
    "Elu": (jax.nn.elu, (1.0,)),
    "ThresholdedRelu": (lambda x, alpha: jnp.where(x > alpha, x, 0), (None,)),
    "HardSigmoid": (lambda x, a, b: jnp.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "ScaledTanh": (lambda x, a, b: a * jnp.tanh(b * x), (None, None)),
    "Affine": (lambda x, a, b: a * x + b, (None, None)),
}
_NAMES = {name.lower(): name for name in (*_PLAIN, *_WITH_NUMBERS)}
_DEFAULTS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
_NUMBERS = ("activation_alpha", "activation_beta")


def check_attributes(op: str, given: dict[str, Any], count: int, hidden: int) -> str:
    """The direction, once every attribute is known and fits the arrays.

    Raises:
      ValueError: for one that does not.
    """
    known = (*_COMMON, *_ATTRIBUTES[op])
    for name in given:
        if name not in known:
            raise ValueError(
                f"attributes holds {name!r}, which an ONNX {op} does not have; "
                f"expected some of {', '.join(known)}. Leave it out if the node "
                "computes the same without."
            )
    for name, allowed in (
        ("hidden_size", (hidden,)),
        ("linear_before_reset", (0, 1)),
        ("input_forget", (0, 1)),
        ("layout", (0, 1)),
    ):
        value = given.get(name, allowed[0])
        if not isinstance(value, int | np.integer) or value not in allowed:
            came = (
                value if isinstance(value, int) else f"of type {type(value).__name__}"
            )
            raise ValueError(
                f"{name} is {came}; expected {' or '.join(map(str, allowed))}"
                f"{', as R has it' if name == 'hidden_size' else ''}. Write the "
                "attributes that the node has."
            )
    direction = _text("direction", given.get("direction", "forward"))
    if {"forward": 1, "reverse": 1, "bidirectional": 2}.get(direction) != count:
        raise ValueError(
            f"direction is {direction!r} and W has {count} directions; expected "
            "'forward', its default, or 'reverse' for one, 'bidirectional' for two. "
            "Write the attributes that the node has."
        )
    return direction


def onnx_name(activation: Any) -> str:
    """What ONNX calls an activation of ours.

    Raises:
      ValueError: for one that it does not have.
    """
    for name, function in _PLAIN.items():
        if function is activation:
            return name
    known = ", ".join(f"jax.nn.{f.__name__}" for f in _PLAIN.values())
    raise ValueError(
        f"activation is {activation}; ONNX has no such name. Write one of {known}."
    )


def activations_of(
    op: str, attributes: Mapping[str, Any], count: int
) -> tuple[list[Callable[..., Any]], tuple[str, ...]]:
    """The one free activation of each direction, and notes on numbers left out.

    Raises:
      ValueError: for activations that our cells do not have in that place, by name.
    """
    default = _DEFAULTS[op]
    names = _names(op, attributes.get("activations"), count)
    free = []
    for d in range(count):
        each = names[d * len(default) : (d + 1) * len(default)]
        if op != "RNN" and each[0] != "Sigmoid":
            raise ValueError(
                f"activations has {each[0]} for the gates of this {op}; expected "
                "Sigmoid, as no cell here has other gates. Convert a node with "
                f"{default}."
            )
        if op == "GRU" and each[1] != "Tanh":
            raise ValueError(
                f"activations has {each[1]} for the candidate of a GRU; expected Tanh, "
                f"as our gru has no other. Convert a node with {default}."
            )
        if op == "LSTM" and each[1] != each[2]:
            raise ValueError(
                f"activations has {each[1]} for the candidate and {each[2]} for the "
                "output of an LSTM; expected the same for both, as in our lstm. "
                f"Convert a node with {default}."
            )
        free.append(each[-1])
    clip = _clip(op, attributes.get("clip"))
    numbers = [_number(name, attributes.get(name), free) for name in _NUMBERS]
    notes = tuple(
        f"{name} is left out: no activation of this node has it"
        for k, name in enumerate(_NUMBERS)
        if attributes.get(name) and not any(_takes(name) > k for name in free)
    )
    made = []
    for d, name in enumerate(free):
        own = [values[d] for values in numbers][: _takes(name)]
        if name in _WITH_NUMBERS:
            defaults = _WITH_NUMBERS[name][1]
            own = [b if a is None else a for a, b in zip(own, defaults, strict=True)]
            if None in own:
                raise ValueError(
                    f"activations has {name} without its {_NUMBERS[own.index(None)]}; "
                    "expected it, for runtimes take different ones where it is left "
                    f"out. Write {_NUMBERS[own.index(None)]}=[...] with that of yours."
                )
        made.append(_function(name, tuple(own), clip))
    return made, notes


def _takes(name: str) -> int:
    return len(_WITH_NUMBERS[name][1]) if name in _WITH_NUMBERS else 0


def _names(op: str, given: Any, count: int) -> list[str]:
    wanted = _DEFAULTS[op] * count
    if given is None:
        return wanted
    if not isinstance(given, list | tuple) or len(given) not in (0, len(wanted)):
        raise ValueError(
            f"activations is {_shown(given)}; expected {len(wanted)} names, {wanted} "
            f"by default, for an {op} of {count} directions. Write the attributes that "
            "the node has."
        )
    names = []
    for value in given or wanted:
        name = _text("activations", value)
        if name.lower() not in _NAMES:
            raise ValueError(
                f"activations has {name[:40]!r}; expected names among "
                f"{', '.join(_NAMES.values())}. Convert a node with {_DEFAULTS[op]}."
            )
        names.append(_NAMES[name.lower()])
    return names


def _clip(op: str, clip: Any) -> float | None:
    if clip is None:
        return None
    if not _finite(clip) or not clip > 0:
        raise ValueError(
            f"clip is {_shown(clip)}; expected a positive number. Leave it out of "
            "attributes for a node without it."
        )
    if op != "RNN":
        raise ValueError(
            f"clip is {clip}, which bounds what goes into every activation of an {op}, "
            "its gates too; expected none, as no cell here does that: our cell_clip "
            "bounds the memory itself. Convert a node without clip."
        )
    return float(clip)


def _number(name: str, given: Any, free: list[str]) -> list[float | None]:
    """``activation_alpha`` or ``activation_beta`` of each direction."""
    none: list[float | None] = [None] * len(free)
    if given is None:
        return none
    if not isinstance(given, list | tuple) or not all(map(_finite, given)):
        raise ValueError(
            f"{name} is {_shown(given)}; expected a list of finite numbers. Write the "
            "attributes that the node has."
        )
    values: list[float | None] = [float(value) for value in given]
    if len(set(values)) < 2:  # the same wherever it belongs
        return values[:1] * len(free) or none
    if len(values) == len(free):
        return values
    raise ValueError(
        f"{name} is {values}, which does not tell the activation that each belongs to; "
        "expected one number for each direction, or the same number everywhere. "
        f"Write {name}=[...] so."
    )


@functools.cache
def _function(
    name: str, numbers: tuple[float, ...], clip: float | None
) -> Callable[..., Any]:
    """The same function for the same name and numbers, so that cells are equal."""
    plain = name in _PLAIN and numbers in ((), _WITH_NUMBERS.get(name, (None, ()))[1])
    if plain and clip is None:
        return _PLAIN[name]
    function = _PLAIN[name] if plain else _WITH_NUMBERS[name][0]
    own = () if plain else numbers

    def activation(x):
        return function(x if clip is None else jnp.clip(x, -clip, clip), *own)

    said = [*map(repr, numbers), *([] if clip is None else [f"clip={clip}"])]
    activation.__name__ = f"{name}({', '.join(said)})"
    return activation


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float):
        return repr(value)[:40]
    return f"of type {type(value).__name__}"


def _text(name: str, value: Any) -> str:
    """A text, for ``onnx.helper`` returns bytes."""
    if isinstance(value, str):
        return value
    write = "Write the attributes that the node has."
    if not isinstance(value, bytes):
        raise TypeError(
            f"{name} holds a value of type {type(value).__name__}; expected text. "
            f"{write}"
        )
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{name} is {value[:20]!r}, bytes that are no UTF-8; expected text. {write}"
        ) from None
