"""What each primitive makes of elements that are constant, affine or more in a carry.

What an element is stands in the order of what it allows. A shift has the coefficient 1,
or 0; a max-plus function is ``max(carry + a, b)``.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

CONSTANT, SHIFT, AFFINE, MAX_PLUS, OTHER = range(5)


def unknown(*kinds: np.ndarray) -> np.ndarray:
    """Any function of the elements: constant if they are."""
    return np.where(functools.reduce(np.maximum, kinds), OTHER, CONSTANT)


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    most = np.maximum(one, other)
    both = np.where(most <= AFFINE, AFFINE, OTHER)
    return np.where((one == 0) | (other == 0), most, both)


def multiple(kind: np.ndarray) -> np.ndarray:
    """The element times a constant."""
    return np.choose(kind, [CONSTANT, AFFINE, AFFINE, OTHER, OTHER])


def _times(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    most = multiple(np.maximum(one, other))
    return np.where((one > 0) & (other > 0), OTHER, most)


def _quotient(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(other > 0, OTHER, multiple(one))


def _either(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    most, least = np.maximum(one, other), np.minimum(one, other)
    return np.where((most == MAX_PLUS) & (least == AFFINE), OTHER, most)


def _choice(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    return np.where(which > 0, OTHER, functools.reduce(_either, cases))


def _maximum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    affine = (one == AFFINE) | (other == AFFINE)
    most = np.maximum(one, other)
    plain = np.where(most > 0, np.maximum(most, MAX_PLUS), CONSTANT)
    return np.where(affine, OTHER, plain)


def _broadcast_in_dim(params: Any, a: np.ndarray) -> np.ndarray:
    shape, axes = params["shape"], params["broadcast_dimensions"]
    spread = [1] * len(shape)
    for size, axis in zip(a.shape, axes, strict=True):
        spread[axis] = size
    return np.broadcast_to(a.reshape(spread), shape)


def _slice(params: Any, a: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * a.ndim
    places = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return a[tuple(slice(*place) for place in places)]


KIND_OF: dict[str, Callable[..., np.ndarray]] = {
    "add": _sum,
    "add_any": _sum,
    "sub": lambda one, other: _sum(one, multiple(other)),
    "neg": multiple,
    "mul": _times,
    "div": _quotient,
    "select_n": _choice,
    "max": _maximum,
}
MOVING: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "reshape": lambda params, a: a.reshape(params["new_sizes"]),
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": lambda params, a: a.transpose(params["permutation"]),
    "squeeze": lambda params, a: a.squeeze(params["dimensions"]),
    "rev": lambda params, a: np.flip(a, params["dimensions"]),
    "slice": _slice,
}
# How many operands each is linear in; those after them must be constant.
LINEAR = {
    "gather": 1,
    "dynamic_slice": 1,
    "dynamic_update_slice": 2,
    "pad": 2,
    "reduce_window_sum": 1,
}
PASSING = {"copy", "copy_p", "name", "optimization_barrier", "pcast", "pvary"}
PASSING |= {"reshard", "sharding_constraint", "mesh_cast"}
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# fmt: off
ELEMENTWISE = {
    *KIND_OF, "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atan2",
    "atanh", "cbrt", "ceil", "clamp", "complex", "conj", "convert_element_type",
    "cos", "cosh", "digamma", "eq", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "floor", "ge", "gt", "imag", "integer_pow", "is_finite", "le",
    "lgamma", "log", "log1p", "logistic", "lt", "min", "ne", "nextafter", "not",
    "or", "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "sign", "sin",
    "sinh", "sqrt", "square", "stop_gradient", "tan", "tanh", "xor",
}
# fmt: on
CONVOLUTIONS = ("conv_general_dilated", "convolution")
WORDS = {
    "mul": "a product of the carry with itself",
    "div": "a division by the carry",
    "dot_general": "a product of the carry with itself",
    "conv_general_dilated": "a product of the carry with itself",
    "convolution": "a product of the carry with itself",
    "select_n": "a choice by the carry",
    "max": "a maximum of the carry",
    "min": "a minimum of the carry",
    "add": "a sum with a maximum of the carry",
    "sub": "a sum with a maximum of the carry",
    "logistic": "a sigmoid of the carry",
    "tanh": "a tanh of the carry",
    "integer_pow": "a power of the carry",
    "square": "a square of the carry",
    **dict.fromkeys(["eq", "ge", "gt", "le", "lt", "ne"], "a comparison of the carry"),
    "scan": "a loop over the carry",
    "while": "a loop over the carry",
    "convert_element_type": "a rounding of the carry",
    "stop_gradient": "a carry whose gradient is stopped",
}
