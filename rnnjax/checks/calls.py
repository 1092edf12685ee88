"""The arguments of a call: keys, inputs, carries, lengths, masks and resets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from rnnjax import forms, guards
from rnnjax.cell import Carry, Cell, Keys, Params, Reset


def key(value: Any, *, name: str = "key") -> Array:
    """One typed key: the legacy arrays of two integers mix up silently with data."""
    write = "Write jax.random.key(0)."
    if not isinstance(value, jax.Array):
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected a typed random key. {write}"
        )
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} is an array of {value.dtype}{list(value.shape)}, a legacy "
            "jax.random.PRNGKey or no key at all; expected a typed random key. "
            f"{write} An old key is converted by jax.random.wrap_key_data({name})."
        )
    if value.shape:
        raise ValueError(
            f"{name} holds keys of shape {value.shape}; expected a single one. Write "
            f"{name}[0], or jax.vmap over the axis of the keys."
        )
    return value


def noise_key(value: Any) -> Array | Keys:
    """What ``unroll`` takes as its ``key``: one typed key, or two as `Keys`."""
    if not isinstance(value, Keys):
        return key(value)
    return Keys(
        key(value.sequence, name="key.sequence"), key(value.step, name="key.step")
    )


def model(cell: Any, params: Params) -> None:
    """A cell, and params of the form that its ``init`` makes."""
    if not isinstance(cell, Cell):
        swapped = isinstance(params, Cell)
        write = "(cell, params, ...), the cell in front"
        raise TypeError(
            f"cell is {forms.outline(cell)}; expected a Cell, such as "
            f"rnnjax.lstm(3, 4). Write {write if swapped else 'rnnjax.lstm(3, 4)'}."
        )
    guards.params(cell, cell.init, params)


def array(name: str, value: Any) -> Array:
    """One array; lists of numbers are turned into one."""
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(jax.tree.map(np.asarray, value))
        except (TypeError, ValueError):  # ragged, or tracers
            try:
                return jnp.asarray(value)
            except (TypeError, ValueError):
                pass
    if not forms.is_array(value) and not hasattr(value, "__jax_array__"):
        holds = ", or the array in it" if isinstance(value, dict) else ""
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected an array of numbers. Write "
            f"{name} as a JAX or NumPy array{holds}; numpy.asarray turns tensors of "
            "other libraries into one."
        )
    return jnp.asarray(value)


def arrays(name: str, tree: Any) -> None:
    """A pytree of arrays, one at least."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not all(
        forms.is_array(leaf) or hasattr(leaf, "__jax_array__") for leaf in leaves
    ):
        raise TypeError(
            f"{name} is {forms.outline(tree)}; expected an array of numbers, or a "
            f"pytree of such arrays. Write {name} as a JAX or NumPy array; "
            "numpy.asarray turns tensors of other libraries into one."
        )


def step_input(x: Any, shape: tuple[int, ...] | None, dtype: Any) -> Any:
    """The input of one time step, in the params' dtype; ``shape=None`` takes any."""
    if shape is None:
        return x
    x = _floating("x", x, dtype)
    if x.shape != shape:
        if x.ndim == len(shape) + 1 and x.shape[1:] == shape:
            raise ValueError(
                f"x has shape {x.shape}; step takes one example at one time, "
                f"{shape}. Write cell.unroll(params, carry, x) if axis 0 is time, "
                "jax.vmap(cell.step, in_axes=(None, 0, 0)) if it is the batch."
            )
        raise ValueError(
            f"x has shape {x.shape}; this cell was made for inputs of shape {shape}. "
            f"Pass x of that shape, or make the cell with input_size={_last(x)}."
        )
    return x


def timed_input(
    inputs: Any, input_size: int, dtype: Any, *, name: str
) -> tuple[Array, Array]:
    """One input and its time; x in the dtype of the params, the time in its own."""
    write = f"Write cell.unroll(params, carry, (xs, {name})), both with time in front."
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise TypeError(
            f"the input is {forms.outline(inputs)}; expected a pair (x, {name}) of "
            f"features and a number at each step. {write}"
        )
    x, time = inputs
    time = array(name, time)
    if time.shape or not jnp.issubdtype(time.dtype, jnp.number):
        raise ValueError(
            f"{name} is {time.dtype}{list(time.shape)} at one step; expected a single "
            f"number. {write}"
        )
    if not jnp.issubdtype(time.dtype, jnp.floating):
        time = time.astype(jnp.result_type(float))
    return step_input(x, (input_size,), dtype), time


def sequence(xs: Any, shape: tuple[int, ...] | None, dtype: Any) -> tuple[Any, int]:
    """The inputs of one sequence, time on axis 0, and how many steps there are."""
    if shape is not None:
        xs = _floating("xs", xs, dtype)
        expected = f"(time, {', '.join(map(str, shape))})"
        if xs.ndim == len(shape) + 2:
            raise ValueError(
                f"xs has shape {xs.shape}; unroll of a cell takes one sequence, "
                f"{expected}. For a batch write rnnjax.unroll(cell, params, xs), or "
                "jax.vmap(cell.unroll, in_axes=(None, 0, 0))(params, carry, xs)."
            )
        if xs.shape == shape:
            raise ValueError(
                f"xs has shape {xs.shape}, that of one step; expected a sequence, "
                f"{expected}. Write cell.unroll(params, carry, xs) for one sequence, "
                "rnnjax.unroll(cell, params, xs) for a batch of them, and xs[None] "
                "where the axis of time or of the batch is missing."
            )
        if xs.ndim != len(shape) + 1 or xs.shape[1:] != shape:
            raise ValueError(
                f"xs has shape {xs.shape}; this cell was made for a sequence of shape "
                f"{expected}. Pass xs of that shape, or make the cell with "
                f"input_size={_last(xs)}."
            )
    return xs, time_steps(xs)


def time_steps(xs: Any) -> int:
    """The length of axis 0, the same for every leaf and not zero."""
    arrays("xs", xs)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(xs)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"xs has leaves of shapes {shapes}; expected the same number of time steps "
            "on axis 0 of all. Write xs of shape (time, ...)."
        )
    (time,) = lengths
    if time == 0:
        raise ValueError(
            f"xs has shape {shapes[0]}: no time step at all; expected one or more. For "
            "an empty sequence in a batch pad it and write lengths=0 for it."
        )
    return time


def carry(value: Carry, expected: Carry, *, name: str = "carry") -> Carry:
    """A carry with the structure, shapes and dtypes of the initial one."""
    write = "Write cell.initial_carry(params)"
    found, wanted = jax.tree.structure(value), jax.tree.structure(expected)
    if found != wanted:
        raise TypeError(
            f"{name} is {forms.outline(value)}; expected {forms.outline(expected)}. "
            f"{write}, or build it by name as {forms.call(expected)}; beware of "
            "libraries that order it (h, c)."
        )
    leaves = jax.tree_util.tree_leaves_with_path(value)
    for (path, leaf), want in zip(leaves, jax.tree.leaves(expected), strict=True):
        leaf_name = name + jax.tree_util.keystr(path)
        if not forms.is_array(leaf):
            raise TypeError(
                f"{leaf_name} is {forms.outline(leaf)}; expected an array. {write}."
            )
        shape, dtype = np.shape(leaf), forms.dtype(leaf)
        if shape[1:] == want.shape and len(shape) == len(want.shape) + 1:
            raise ValueError(
                f"{leaf_name} has shape {shape}; expected {want.shape}, the carry of "
                "one example. For a batch write rnnjax.unroll(cell, params, xs, "
                "carry=carry), or jax.vmap over axis 0."
            )
        if want.shape[1:] == shape and len(want.shape) == len(shape) + 1:
            raise ValueError(
                f"{leaf_name} has shape {shape}; expected {want.shape}, a carry for "
                "each example. Leave it out for the initial carry, or write jax.tree."
                f"map(lambda a: jnp.stack([a] * {want.shape[0]}), {name})."
            )
        if shape != want.shape:
            raise ValueError(
                f"{leaf_name} has shape {shape}; expected {want.shape}. {write}; if "
                "shapes of two leaves look exchanged, the carry is ordered "
                f"{forms.call(expected)}."
            )
        if dtype != want.dtype:
            raise TypeError(
                f"{leaf_name} has dtype {dtype}; expected {want.dtype}, as the params "
                f"have. {write}, or jax.tree.map(lambda a: a.astype({want.dtype.name!r}"
                f"), {name})."
            )
    return jax.tree.map(jnp.asarray, value)


def lengths(value: Any, batch: int, time: int) -> Array:
    """One length in 0..time for each example; values are seen outside ``jit`` only."""
    value = array("lengths", value)
    write = "Write lengths=jnp.array([...]), one integer for each sequence"
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"lengths has dtype {value.dtype}; expected integers. {write}.")
    if value.shape != (batch,):
        if value.shape == (time,):
            write += ", and jnp.swapaxes(xs, 0, 1) if the time of xs is in front"
        raise ValueError(
            f"lengths has shape {value.shape}; expected ({batch},) for the batch of "
            f"{batch}. {write}."
        )
    if not isinstance(value, Tracer):
        wrong = [n for n in value.tolist() if not 0 <= n <= time]
        if wrong:
            pad = f", or pad xs to {max(wrong)}" if max(wrong) > time else ""
            raise ValueError(
                f"lengths holds {wrong}; expected 0 to {time}, as xs has {time} time "
                f"steps. {write}, counting valid steps{pad}."
            )
    return value.astype(jnp.int32)


def flags(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """One bool for each time step, ``(time,)`` or ``(batch, time)``."""
    value = array(name, value)
    if value.dtype != jnp.bool_:
        raise TypeError(
            f"{name} has dtype {value.dtype}; expected bool. Write {name} != 0."
        )
    if value.shape != shape:
        batch = value.ndim == 2 and len(shape) == 1
        write = "rnnjax.unroll(cell, params, xs, ...) for a batch, or jax.vmap"
        raise ValueError(
            f"{name} has shape {value.shape}; expected {shape}, one flag for each time "
            f"step. Write {write if batch else f'{name} of shape {shape}'}."
        )
    return value


def reset(value: Any, start: Carry, shape: tuple[int, ...]) -> Array | Reset:
    """Flags, or a `Reset` to a carry of the form of ``start``."""
    if isinstance(value, Reset):
        where = flags("reset.where", value.where, shape)
        return Reset(where, carry(value.carry, start, name="reset.carry"))
    if isinstance(value, tuple):
        raise TypeError(
            f"reset is {forms.outline(value)}; expected flags, or a Reset of flags and "
            "a carry. Write rnnjax.Reset(where, carry)."
        )
    return flags("reset", value, shape)


def float_dtype(params: Params) -> Any:
    """The dtype that a cell computes in: that of its first floating parameter."""
    for leaf in jax.tree.leaves(params):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return jnp.result_type(leaf)
    return None


def cast(tree: Any, dtype: Any) -> Any:
    """A tree with its floating leaves in another dtype."""

    def one(leaf):
        floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floats else leaf

    return jax.tree.map(one, tree)


def _floating(name: str, x: Any, dtype: Any) -> Array:
    x = array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected a floating dtype. Write "
            f"{name}.astype(jnp.float32) for numbers (pixels / 255), or put "
            "rnnjax.embedding in front of the cell for the ids of tokens."
        )
    return x if dtype is None else x.astype(dtype)


def _last(x: Array) -> Any:
    return x.shape[-1] if x.ndim else 1
