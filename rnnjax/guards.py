"""What every cell is asked before and after it runs, while it is traced.

Params must have the form of those that ``init`` makes: arrays of other shapes would
often broadcast, and give numbers. A carry must leave a step as it came.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import forms

Functions = tuple[Callable, Callable, Callable, Callable]
"""``init``, ``initial_carry``, ``step`` and ``unroll`` of a cell."""

# What each init makes, as shapes: learnt when it is called, or else by tracing it.
_MADE: weakref.WeakKeyDictionary[Callable, dict[Any, Any]] = weakref.WeakKeyDictionary()


class FormError(TypeError):
    """Raised for what a step returned, where it is no carry in the form it came in."""


def guarded(name: Any, functions: Functions, *, one_dtype: bool = False) -> Functions:
    """The functions of a cell, which refuse params and carries of another form.

    ``name`` is what stands for the cell in a sentence, such as its spec, if it has one
    already. With ``one_dtype`` all floating params must have the same.
    """
    init, initial_carry, step, unroll = functions

    @functools.wraps(init)
    def remembered(key):
        made = init(key)
        _MADE.setdefault(remembered, {})[_precision()] = forms.of(made)
        return made

    def check(given):
        params(name, remembered, given, one_dtype=one_dtype)

    @functools.wraps(initial_carry)
    def checked_initial_carry(params):
        check(params)
        return initial_carry(params)

    @functools.wraps(step)
    def checked_step(params, carry, x):
        check(params)
        with _named(name):
            return returned("step", step(params, carry, x), carry)

    @functools.wraps(unroll)
    def checked_unroll(params, carry, xs, **signals):
        check(params)
        with _named(name):
            return returned("unroll", unroll(params, carry, xs, **signals), carry)

    return remembered, checked_initial_carry, checked_step, checked_unroll


def params(name: Any, init: Callable, given: Any, *, one_dtype: bool = False) -> None:
    """Refuse params whose structure, shapes or dtypes are not those of ``init``.

    Floating ones may be cast to another floating dtype.
    """
    wanted = made(init)
    if wanted is None:
        return
    leaves, structure = jax.tree.flatten(given)
    expected, wanted_structure = jax.tree.flatten(wanted)
    if structure != wanted_structure or not all(map(_same_leaf, leaves, expected)):
        path, found, there = forms.difference(given, wanted, "params", _same_leaf)
        raise ValueError(
            f"{path} is {forms.outline(found)}; {_short(name)} was made for "
            f"{forms.outline(there)}. Write params = cell.init(key) with this very "
            f"cell{_for_an_ensemble(found, there)}."
        )
    if not one_dtype:
        return
    dtypes = [forms.dtype(leaf) for leaf in leaves]
    floating = {d for d in dtypes if _dtype_kind(d) == "floating"}
    if len(floating) > 1 and dtypes != [leaf.dtype for leaf in expected]:
        raise TypeError(
            f"params is {forms.outline(given)}; expected one floating dtype for all of "
            "them, in which the cell computes. Write jax.tree.map(lambda a: "
            f"a.astype(jnp.{max(floating, key=lambda d: d.itemsize)}), params)."
        )


def returned(what: str, result: Any, before: Any) -> Any:
    """Refuse what is no pair of a carry, in the form that it had before, and outputs.

    ``what`` returned it, for example ``"step"``.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise FormError(
            f"{what} returned {forms.outline(result)}; expected a pair of the next "
            "carry and the output. Write return carry, y."
        )
    after = result[0]
    place = forms.difference(after, before, "carry", _same_state)
    if place is not None:
        path, found, wanted = place
        raise FormError(
            f"{what} returned {path} as {forms.outline(found)}; expected "
            f"{forms.outline(forms.of(wanted))}, as it came in. A carry keeps its "
            "structure, shapes and dtypes at every step. Write an initial_carry of the "
            "form that step returns, or .astype in step."
        )
    return result


@contextlib.contextmanager
def _named(name: Any):
    """Let the innermost cell that has a name add it to what it is told about."""
    try:
        yield
    except FormError as error:
        if name is not None and not hasattr(error, "__notes__"):
            error.add_note(f"This was in {_short(name)}.")
        raise


def made(init: Callable) -> Any:
    """The form of what ``init`` makes, or None for one that cannot be traced."""
    precision = _precision()
    try:
        known = _MADE.setdefault(init, {})
    except TypeError:  # a callable that nothing can refer to weakly
        known = {}
    if precision not in known:
        key = jax.eval_shape(lambda: jax.random.key(0))
        try:
            known[precision] = jax.eval_shape(init, key)
        except Exception:  # a user's, that wants the bits of a real key
            known[precision] = None
    return known[precision]


def _precision() -> Any:
    """The default dtypes, which decide those of what ``init`` makes."""
    return jnp.result_type(float)


def _same_leaf(found: Any, wanted: Any) -> bool:
    if not forms.is_array(found) or np.shape(found) != wanted.shape:
        return False
    return _dtype_kind(forms.dtype(found)) == _dtype_kind(wanted.dtype)


def _same_state(after: Any, before: Any) -> bool:
    if not forms.is_array(after) or np.shape(after) != np.shape(before):
        return False
    # A number in Python has no dtype of its own, it takes that of what it meets.
    pair = (after, before)
    weak = any(getattr(a, "weak_type", not hasattr(a, "dtype")) for a in pair)
    return weak or forms.dtype(after) == forms.dtype(before)


@functools.cache
def _dtype_kind(dtype: Any) -> str:
    """What of a dtype must agree: all of it, but for the width of floating numbers."""
    for kind in (jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(dtype, kind):
            return kind.__name__
    return str(dtype)


def _for_an_ensemble(found: Any, wanted: Any) -> str:
    if not isinstance(wanted, jax.ShapeDtypeStruct) or not forms.is_array(found):
        return ""
    if np.shape(found)[1:] != wanted.shape or np.ndim(found) != len(wanted.shape) + 1:
        return ""
    return ", or jax.vmap(lambda params: ...)(params) for an ensemble"


def _short(name: Any) -> str:
    text = "this cell" if name is None else str(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
