"""Masks, resets and keys: the signals that come beside a sequence.

A padded step does nothing at all: the carry holds, the output is zero, its reset does
not count, and whatever the padding contains reaches no value and no gradient. A reset
replaces the carry before the input is consumed. Keys are for cells that draw random
numbers.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Literal

from rnnjax import checks, meshes
from rnnjax.cell import Carry, Keys, Params, Reset

Project = Callable[[Params, Any], Any]
Step = Callable[[Params, Carry, Any], tuple[Carry, Any]]


class Traversal(Protocol):
    """One sequence: ``(project, step, params, carry, xs) -> (carry, ys)``.

    One that takes ``reverse`` besides is asked to walk from the last step to the first,
    each output beside its input. For others the sequence is turned round.
    """

    def __call__(
        self,
        project: Project,
        step: Step,
        params: Params,
        carry: Carry,
        xs: Any,
        *,
        mask: Array | None = None,
        reset: Reset | None = None,
    ) -> tuple[Carry, Any]: ...


def read(
    start: Carry,
    carry: Carry,
    xs: Any,
    mask: Any = None,
    reset: Any = None,
    key: Any = None,
) -> tuple[Carry, Array | None, Reset | None]:
    """Check what comes beside one sequence ``xs``: ``(carry, mask, reset)``.

    Plain flags of a reset are completed by ``start``, the carry that the cell's
    sequences start with. A key is checked only: even for a cell that draws nothing a
    wrong one is a mistake.

    >>> import jax.numpy as jnp
    >>> from rnnjax import signals
    >>> start, xs, flags = jnp.zeros(2), jnp.ones((3, 4)), jnp.array([True] * 3)
    >>> carry, mask, reset = signals.read(start, start, xs, reset=flags)
    >>> mask, reset.carry
    (None, Array([0., 0.], dtype=float32))
    """
    time = checks.time_steps(xs)
    carry = checks.carry(carry, start)
    if key is not None:
        checks.noise_key(key)
    if mask is not None:
        mask = checks.flags("mask", mask, (time,))
    if reset is None:
        return carry, mask, None
    reset = checks.reset(reset, start, (time,))
    return carry, mask, reset if isinstance(reset, Reset) else Reset(reset, start)


def gated(walk: Callable[..., tuple[Carry, Any]]) -> Traversal:
    """Teach a plain walk over ``xs`` about masks and resets, once for all walks.

    The flags travel beside the inputs and the reset's carry beside the params, so a
    walk may hoist, defer or recompute the gated step like any other.
    """

    @functools.wraps(walk)
    def traversal(project, step, params, carry, xs, *, mask=None, reset=None, **how):
        carry = meshes.varying(carry, params, xs, mask, reset)
        if mask is None and reset is None:
            return walk(project, step, params, carry, xs, **how)
        if mask is not None:
            xs = zero_padding(xs, mask)

        def gated_project(params, x):
            x, valid, restart = x
            return project(params[0], x), valid, restart

        @functools.wraps(step)
        def gated_step(params, carry, z):
            params, start = params
            z, valid, restart = z
            before = carry if restart is None else select(restart, start, carry)
            after, y = step(params, before, z)
            if valid is None:
                return after, y
            # A padded step does nothing at all: its reset does not count either.
            return select(valid, after, carry), select(
                valid, y, jax.tree.map(jnp.zeros_like, y)
            )

        where, start = (None, None) if reset is None else reset
        inputs = (xs, mask, where)
        return walk(gated_project, gated_step, (params, start), carry, inputs, **how)

    return traversal


def takes_reverse(function: Callable) -> bool:
    """Whether a traversal, or the unroll of a cell, walks backwards when it is asked.

    >>> import rnnjax
    >>> from rnnjax import signals
    >>> signals.takes_reverse(rnnjax.scan.default)
    True
    >>> signals.takes_reverse(rnnjax.scan.fused)
    False
    """
    try:
        return "reverse" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # what is not written in Python may have none
        return False


def backwards(traversal: Callable[..., tuple[Carry, Any]]) -> Traversal:
    """A traversal from the last step to the first, each output beside its input.

    >>> import jax.numpy as jnp, rnnjax
    >>> from rnnjax import signals
    >>> add = lambda params, total, x: (total + x,) * 2
    >>> walk = signals.backwards(rnnjax.scan.fused)
    >>> walk(lambda params, x: x, add, (), 0.0, jnp.arange(4.0))[1]
    Array([6., 6., 5., 3.], dtype=float32)
    """
    if takes_reverse(traversal):
        return functools.partial(traversal, reverse=True)

    def turned(project, step, params, carry, xs, *, mask=None, reset=None):
        where, start = (None, None) if reset is None else reset
        xs, mask, where = flip((xs, mask, where))[0]
        reset = None if where is None else Reset(where, start)
        beside = {"mask": mask, "reset": reset}
        carry, ys = traversal(project, step, params, carry, xs, **beside)
        return carry, flip(ys)[0]

    return turned


def select(where: Array, one: Any, other: Any) -> Any:
    """One pytree where a flag is true, the other where it is not.

    >>> import jax.numpy as jnp
    >>> from rnnjax import signals
    >>> signals.select(jnp.array(True), (jnp.ones(2),), (jnp.zeros(2),))
    (Array([1., 1.], dtype=float32),)
    """
    return jax.tree.map(functools.partial(jnp.where, where), one, other)


def zero_padding(xs: Any, mask: Array) -> Any:
    """``xs`` with zeros where ``mask: (t,)`` is false.

    Selecting the state alone keeps NaN in the padding out of the values but not out of
    the gradients, where it would meet a zero cotangent in a product.

    >>> import jax.numpy as jnp, rnnjax
    >>> xs, mask = jnp.array([1.0, jnp.nan]), jnp.array([True, False])
    >>> rnnjax.scan.zero_padding(xs, mask)
    Array([1., 0.], dtype=float32)
    """

    def zero(x):
        x = jnp.asarray(x)
        valid = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        return jnp.where(valid, x, jnp.zeros((), x.dtype))

    return jax.tree.map(zero, xs)


def flip(
    xs: Any, mask: Array | None = None, reset: Reset | None = None
) -> tuple[Any, Array | None, Reset | None]:
    """The sequence backwards in time, cut into the same segments.

    A reset stands on the first step of a segment. Backwards, the segment before it must
    start afresh, at the last of its steps that is not padding.

    >>> import jax.numpy as jnp, rnnjax
    >>> reset = rnnjax.Reset(jnp.array([True, False, True, False]), ())
    >>> xs, _, reset = rnnjax.scan.flip(jnp.array([1, 2, 3, 4]), None, reset)
    >>> xs.tolist(), reset.where.tolist()
    ([4, 3, 2, 1], [False, False, True, False])
    """
    xs = jax.tree.map(lambda a: jnp.flip(a, axis=0), xs)
    mask = None if mask is None else jnp.flip(mask)
    if reset is None:
        return xs, mask, None
    # The boundary before step t lies, backwards, before the step that was t - 1.
    where = jnp.flip(reset.where) if mask is None else jnp.flip(reset.where) & mask
    where = jnp.roll(where, 1).at[0].set(False)
    if mask is not None:
        # A boundary that fell into padding moves on to the next step that counts.
        steps = jnp.arange(where.shape[0])
        boundary = lax.cummax(jnp.where(where, steps, -1))
        counted = lax.cummax(jnp.where(mask, steps, -1))
        where = mask & (boundary > jnp.roll(counted, 1).at[0].set(-1))
    return xs, mask, Reset(where, reset.carry)


def split_reset(reset: Array | Reset | None, count: int) -> list[Array | Reset | None]:
    """The reset for each of ``count`` cells whose carries form a tuple.

    >>> import jax.numpy as jnp, rnnjax
    >>> reset = rnnjax.Reset(jnp.array([True]), (1.0, 2.0))
    >>> [part.carry for part in rnnjax.scan.split_reset(reset, 2)]
    [1.0, 2.0]
    """
    if not isinstance(reset, Reset):
        return [reset] * count
    return [Reset(reset.where, carry) for carry in reset.carry]


def split_key(key: Array | Keys | None, count: int) -> list[Any]:
    """A key for each of ``count`` cells; `Keys` are split both.

    >>> import jax, rnnjax
    >>> len(rnnjax.scan.split_key(jax.random.key(0), 3))
    3
    """
    if key is None:
        return [None] * count
    keys = jax.tree.map(lambda k: jax.random.split(k, count), key)
    return [jax.tree.map(lambda k, i=i: k[i], keys) for i in range(count)]


def as_keys(key: Array | Keys) -> Keys:
    """Both keys of a plain one, which stands for both.

    >>> import jax
    >>> from rnnjax import signals
    >>> keys = signals.as_keys(jax.random.key(0))
    >>> bool(keys.sequence == keys.step)
    True
    """
    key = checks.noise_key(key)
    return key if isinstance(key, Keys) else Keys(key, key)


def uses_key(run: Callable[..., Any], key: Array | Keys, *given: Any) -> bool:
    """Whether what ``run(key, *given)`` returns depends on its key.

    It is traced, not run: shapes may stand for arrays. What a part of it, such as a
    loop, does with the key is not looked into.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax import signals
    >>> key, x = jax.random.key(0), jnp.ones(3)
    >>> signals.uses_key(lambda key, x: x + jax.random.normal(key, (3,)), key, x)
    True
    >>> signals.uses_key(lambda key, x: (jax.random.split(key), x)[1], key, x)
    False
    """
    jaxpr = jax.make_jaxpr(run)(key, *given).jaxpr
    reached = set(jaxpr.invars[: len(jax.tree.leaves(key))])

    def reaches(variables):
        return any(not isinstance(v, Literal) and v in reached for v in variables)

    for eqn in jaxpr.eqns:
        if reaches(eqn.invars):
            reached.update(eqn.outvars)
    return reaches(jaxpr.outvars)
