"""Kernels: traversals of the built-in cells that run as JAX primitives.

`lstm`, `gru`, `gru_before`, `elman_tanh` and `elman_relu` are traversals like those of
`rnnjax.scan` and agree with them, but know the cell's equations: a native kernel walks
through time on a CPU and a Pallas kernel on a TPU, and the gradient of the weights is
one product over all steps and examples. `status` tells what runs on this machine.

`lstm_cudnn`, `lstm_pallas` and `gru_pallas` are the same with another program on an
NVIDIA GPU. Nobody has timed them, so no cell walks with one unless it is told to.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import meshes, signals
from rnnjax.cell import Carry, Params, Reset
from rnnjax.kernels import cudnn, native_loop, pallas
from rnnjax.kernels.equations import (
    ELMAN_RELU,
    ELMAN_TANH,
    GRU,
    GRU_BEFORE,
    LSTM,
    Equations,
    Known,
)
from rnnjax.kernels.lowerings import Lowering, Status, status
from rnnjax.kernels.memory import keep_memory
from rnnjax.kernels.primitives import value_p

__all__ = [
    "Known",
    "Lowering",
    "Status",
    "check",
    "elman_relu",
    "elman_tanh",
    "gru",
    "gru_before",
    "gru_pallas",
    "keep_memory",
    "lstm",
    "lstm_cudnn",
    "lstm_pallas",
    "status",
]

_DTYPES = (jnp.float32, jnp.bfloat16)
_LSTM_PALLAS = LSTM._replace(program=pallas.PROGRAM)
_GRU_PALLAS = GRU._replace(program=pallas.PROGRAM)
_value = functools.partial(value_p.bind, residuals=False)


_kernels: list[tuple[signals.Traversal, Equations]] = []


def _kernel_of(cell: Equations) -> Callable[[signals.Traversal], signals.Traversal]:
    def add(traversal):
        _kernels.append((traversal, cell))
        return traversal

    return add


def check(traversal: signals.Traversal, step: signals.Step) -> None:
    """Refuse a kernel whose equations are not those of the step.

    Raises:
      ValueError: the traversal is a kernel, and the step is not `Known` to compute the
        same.

    >>> import rnnjax
    >>> rnnjax.kernels.check(rnnjax.scan.fused, lambda params, h, z: (h, h))
    """
    for kernel, cell in _kernels:
        if kernel is traversal:
            _check(cell, step)


def _check(cell: Equations, step: signals.Step) -> None:
    if not isinstance(step, Known):
        other = "a step that it does not know"
    elif step.equations.name != cell.name:
        other = f"the step of {step.equations.cell}"
    else:
        return
    raise ValueError(
        f"traversal=rnnjax.kernels.{cell.name} computes {cell.cell} by itself; it was "
        f"given {other}. Write traversal=rnnjax.scan.default, which takes every step."
    )


@_kernel_of(LSTM)
def lstm(project, step, params, carry, xs, *, mask=None, reset=None, reverse=False):
    """The traversal of `rnnjax.lstm` with its own equations.

    >>> import rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.kernels.lstm)
    """
    return _traverse(LSTM, project, step, params, carry, xs, mask, reset, reverse)


@_kernel_of(GRU)
def gru(project, step, params, carry, xs, *, mask=None, reset=None, reverse=False):
    """The traversal of `rnnjax.gru` with its own equations, the reset coming after.

    >>> import rnnjax
    >>> cell = rnnjax.gru(3, 4, traversal=rnnjax.kernels.gru)
    """
    return _traverse(GRU, project, step, params, carry, xs, mask, reset, reverse)


@_kernel_of(GRU_BEFORE)
def gru_before(
    project, step, params, carry, xs, *, mask=None, reset=None, reverse=False
):
    """The traversal of `rnnjax.gru` with ``reset_after=False``.

    >>> import rnnjax
    >>> cell = rnnjax.gru(
    ...     3, 4, reset_after=False, traversal=rnnjax.kernels.gru_before)
    """
    return _traverse(GRU_BEFORE, project, step, params, carry, xs, mask, reset, reverse)


@_kernel_of(ELMAN_TANH)
def elman_tanh(
    project, step, params, carry, xs, *, mask=None, reset=None, reverse=False
):
    """The traversal of `rnnjax.elman` with its own equations.

    >>> import rnnjax
    >>> cell = rnnjax.elman(3, 4, traversal=rnnjax.kernels.elman_tanh)
    """
    return _traverse(ELMAN_TANH, project, step, params, carry, xs, mask, reset, reverse)


@_kernel_of(ELMAN_RELU)
def elman_relu(
    project, step, params, carry, xs, *, mask=None, reset=None, reverse=False
):
    """The traversal of `rnnjax.elman` with ``activation=jax.nn.relu``.

    >>> import jax, rnnjax
    >>> cell = rnnjax.elman(
    ...     3, 4, activation=jax.nn.relu, traversal=rnnjax.kernels.elman_relu)
    """
    return _traverse(ELMAN_RELU, project, step, params, carry, xs, mask, reset, reverse)


@_kernel_of(LSTM)
def lstm_cudnn(project, step, params, carry, xs, *, mask=None, reset=None):
    """`lstm`, but through cuDNN on an NVIDIA GPU, in float32 and without resets.

    Everywhere else it is `lstm`, and so are its forward-mode and higher derivatives. A
    gradient for each example (``vmap`` of ``grad``) is too; take the gradient of the
    sum where that will do. Untimed, see ``docs/gpu.md``.

    >>> import rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.kernels.lstm_cudnn)
    """
    covered = reset is None and params.w_hh.dtype == jnp.float32 and len(xs) > 0
    value = cudnn.value_p.bind if covered and not cudnn.reason() else _value
    given = project, step, params, carry, xs, mask, reset
    return _traverse(LSTM, *given, value=value)


@_kernel_of(LSTM)
def lstm_pallas(project, step, params, carry, xs, *, mask=None, reset=None):
    """`lstm`, but in one kernel written in Pallas on an NVIDIA GPU.

    It holds the recurrent weights on the chip: up to 64 units, and in bfloat16 128 on
    an A100, H100, H200 or B200. Beyond, and on other devices, it is `lstm`. Untimed,
    see ``docs/gpu.md``.

    >>> import rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.kernels.lstm_pallas)
    """
    return _traverse(_LSTM_PALLAS, project, step, params, carry, xs, mask, reset)


@_kernel_of(GRU)
def gru_pallas(project, step, params, carry, xs, *, mask=None, reset=None):
    """`gru`, but in one kernel written in Pallas on an NVIDIA GPU.

    It holds the recurrent weights on the chip: up to 64 units, in bfloat16 128 on an
    A100, H100, H200 or B200, and on the last three 128 in float32 too. Beyond, and on
    other devices, it is `gru`. Untimed, see ``docs/gpu.md``.

    >>> import rnnjax
    >>> cell = rnnjax.gru(3, 4, traversal=rnnjax.kernels.gru_pallas)
    """
    return _traverse(_GRU_PALLAS, project, step, params, carry, xs, mask, reset)


def _traverse(
    cell: Equations,
    project: signals.Project,
    step: signals.Step,
    params: Params,
    carry: Carry,
    xs: Any,
    mask: Array | None,
    reset: Reset | None,
    reverse: bool = False,
    value: Callable[..., Sequence[Array]] = _value,
) -> tuple[Carry, Any]:
    """Bind the value primitive to one sequence, or walk the step if it cannot be."""
    _check(cell, step)
    start = jax.tree.leaves(carry)
    restart = [] if reset is None else jax.tree.leaves(reset.carry)
    if not _covers(cell, params, [*start, *restart], xs):
        beside = {"mask": mask, "reset": reset, "reverse": reverse}
        return native_loop.walk(project, step, params, carry, xs, **beside)
    cell = cell._replace(reverse=reverse)
    absent = jnp.zeros(0, bool)
    # One sequence is a batch of one; jax.vmap makes the batch larger.
    operands = (
        xs[None],
        *map(meshes.whole, jax.tree.leaves(params)),
        *(c[None] for c in start),
        absent if mask is None else mask[None],
        absent if reset is None else reset.where[None],
        *([c[None] for c in restart] or [jnp.zeros(0, xs.dtype)] * len(start)),
    )
    ys, *last = value(*meshes.varying(operands), cell=cell)
    last = [c[0] for c in last]
    return jax.tree.unflatten(jax.tree.structure(carry), last), ys[0]


def _covers(cell: Equations, params: Any, carries: list[Array], xs: Any) -> bool:
    """Whether all arrays are there, in one dtype that a kernel knows, and fit."""
    arrays = jax.tree.leaves(params)  # without the bias that a cell lacks
    if len(arrays) != (3 if cell.joined else 4) or params.w_hh.ndim != 2:
        return False  # another cell's, or an ensemble's: the step will say so
    h, k = params.w_hh.shape
    return (
        k == h * cell.columns
        and params.w_hh.dtype in _DTYPES
        and all(a.dtype == params.w_hh.dtype for a in (*arrays, *carries, xs))
        and xs.ndim == 2
        and params.w_ih.shape == (xs.shape[1], k)
        and params.b.shape == (k,)
        and all(a.shape == (h,) for a in (*arrays[3:], *carries))
    )
