"""When two ways to compute the same are equal, and what to say if they are not."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax.cell import Cell
from rnnjax.testing import drawing

# Of one plus the largest value: far above what sums in another order differ by, far
# below any mistake.
_TOLERANCE = {"float64": 1e-9, "float32": 2e-4}
# In 16 bits rounding is as large as a small mistake, so it is measured. How large it
# turns out is luck, as long as it is one try: all that is given, times one of these, is
# rounded elsewhere.
_NARROW = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
_SCALES = (0.95, 0.98, 1.02, 1.05)


def pulled_back(function: Callable) -> Callable:
    """``(weights, *args) -> (outputs, gradients of <outputs, weights> by args)``."""

    def pulled(weights, params, *args):
        inputs, signals = (params, *args)[:3], args[2:]
        out, pull = jax.vjp(lambda *given: function(*given, *signals), *inputs)
        cotangents = jax.tree.map(_cotangent, out, weights)
        return out, floating(pull(cotangents))

    return pulled


def floating(tree: Any) -> Any:
    """The tree with None in the places of leaves that are not floating."""
    return jax.tree.map(lambda a: a if drawing.is_float(a) else None, tree)


def assert_equal(
    law: str, cell: Cell, found: Any, expected: Callable, *given: Any
) -> None:
    """Compare ``found`` with ``expected(*given)``: pairs ``(outputs, gradients)``.

    Where 16-bit floats are given, ``expected`` is computed again in float32. That is
    the truth, and how far ``expected`` itself is from it in the worst of five tries,
    together with a few roundings of the largest value, is what ``found`` may differ
    from it by.
    """
    eps = max([_eps(a) for a in jax.tree.leaves(given)], default=0.0)
    plain = truth = expected(*given)
    errors = []
    if eps:
        truth = expected(*_widened(given))
        errors = [jax.tree.map(_distance, plain, truth)]
        for scale in _SCALES:
            again = _scaled(scale, given)
            near, there = expected(*again), expected(*_widened(again))
            errors.append(jax.tree.map(_distance, near, there))
    allowed = jax.tree.map(functools.partial(_allowed, eps), truth, *errors)
    names = ("the outputs", "the gradients")
    for name, ours, theirs, true, most in zip(
        names, found, plain, truth, allowed, strict=True
    ):
        assert_same_form(f"law {law} in {name}", cell, theirs, ours)
        leaves = zip(
            jax.tree_util.tree_leaves_with_path(ours),
            jax.tree.leaves(true),
            jax.tree.leaves(most),
            strict=True,
        )
        for (path, one), exact, limit in leaves:
            difference = _distance(one, exact)
            if not difference <= limit:
                raise AssertionError(
                    f"law {law} does not hold for {cell}: {name}"
                    f"{jax.tree_util.keystr(path)} differ by {difference:.3g}, "
                    f"allowed are {limit:.3g}."
                )


def assert_same_form(law: str, cell: Cell, expected: Any, found: Any) -> None:
    """Compare structures, shapes and dtypes."""

    def form(tree):
        return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a).name), tree)

    if form(expected) != form(found):
        raise AssertionError(
            f"{law} does not hold for {cell}: expected {form(expected)}, "
            f"got {form(found)}."
        )


def _scaled(scale: float, tree: Any) -> Any:
    def scaled(a):
        return (scale * a).astype(a.dtype) if drawing.is_float(a) else a

    return jax.tree.map(scaled, tree)


def _allowed(eps: float, truth: Array, *errors: float) -> float:
    if not drawing.is_float(truth):
        return 0.0
    largest = np.abs(_wide(truth)).max(initial=0)
    if eps:
        return 2 * max(errors) + 2 * eps * largest
    return _TOLERANCE[truth.dtype.name] * (1 + largest)


def _distance(one: Array, other: Array) -> float:
    return np.abs(_wide(one) - _wide(other)).max(initial=0)


def _wide(a: Array) -> np.ndarray:
    return np.asarray(a, np.float64)


def _eps(a: Any) -> float:
    """The distance from 1 to the next number, where it is large."""
    dtype = jnp.result_type(a)
    return float(jnp.finfo(dtype).eps) if dtype in _NARROW else 0.0


def _widened(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32) if _eps(a) else a, tree)


def _cotangent(out: Array, weight: Array) -> Any:
    if drawing.is_float(out):
        return weight.astype(out.dtype)
    return np.zeros(out.shape, jax.dtypes.float0)
