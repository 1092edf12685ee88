"""The traversals: how time is walked, in one place and not in the cells.

Each takes a recurrence as two functions of one example, ``project(params, x) -> z``
for what does not depend on the carry and ``step(params, carry, z) -> (carry, y)`` for
what does, and agrees with every other in values and gradients. They differ in speed
and memory alone.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rnnjax.cell import Carry, Keys, Params, Reset

Project = Callable[[Params, Any], Any]
Step = Callable[[Params, Carry, Any], tuple[Carry, Any]]


class Traversal(Protocol):
    """One sequence: ``(project, step, params, carry, xs) -> (carry, ys)``."""

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


def _select(where: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, where), one, other)


def _with_signals(walk: Callable[..., tuple[Carry, Any]]) -> Traversal:
    """Teach a plain walk over ``xs`` about masks and resets, once for all of them.

    The flags travel beside the inputs and the reset's carry beside the params, so a
    walk may hoist, defer or recompute the gated step like any other.
    """

    @functools.wraps(walk)
    def traversal(project, step, params, carry, xs, *, mask=None, reset=None):
        if mask is None and reset is None:
            return walk(project, step, params, carry, xs)
        if mask is not None:
            xs = zero_padding(xs, mask)

        def gated_project(params, x):
            x, valid, restart = x
            return project(params[0], x), valid, restart

        def gated_step(params, carry, z):
            params, start = params
            z, valid, restart = z
            before = carry if restart is None else _select(restart, start, carry)
            after, y = step(params, before, z)
            if valid is None:
                return after, y
            # A padded step does nothing at all: its reset does not count either.
            return _select(valid, after, carry), _select(
                valid, y, jax.tree.map(jnp.zeros_like, y)
            )

        where, start = (None, None) if reset is None else reset
        inputs = (xs, mask, where)
        return walk(gated_project, gated_step, (params, start), carry, inputs)

    return traversal


def _fused(project, step, params, carry, xs):
    return lax.scan(lambda c, x: step(params, c, project(params, x)), carry, xs)


@_with_signals
def fused(project, step, params, carry, xs):
    """Project inside the loop: one `jax.lax.scan`, nothing kept that is not needed.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> rnnjax.scan.fused(
    ...     lambda rate, x: rate * x, lambda rate, c, z: (c + z, c + z),
    ...     2.0, 0.0, jnp.arange(4.0))
    (Array(12., dtype=float32), Array([ 0.,  2.,  6., 12.], dtype=float32))
    """
    return _fused(project, step, params, carry, xs)


@_with_signals
def hoisted(project, step, params, carry, xs):
    """Project all time steps in one product before the loop.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.hoisted)
    """
    zs = jax.vmap(project, in_axes=(None, 0))(params, xs)
    return lax.scan(lambda c, z: step(params, c, z), carry, zs)


@_with_signals
def deferred(project, step, params, carry, xs):
    """Hoisted, and the gradients of the params leave the backward loop too.

    `jax.lax.scan` transposed adds the weights' gradient up inside its loop, a pass over
    the whole matrix at each step. Here the tangent of the recurrence is stated as a
    scan with the params held fixed, fed with what their tangents contribute at all
    steps at once; transposed, that contribution is one product over time and batch.
    Forward mode and higher orders work, as in any traversal.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.deferred)
    """
    zs = jax.vmap(project, in_axes=(None, 0))(params, xs)
    return _deferred(step, params, carry, zs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _deferred(step, params, carry, zs):
    return lax.scan(lambda c, z: step(params, c, z), carry, zs)


@_deferred.defjvp
def _deferred_jvp(step, primals, tangents):
    # Leaves that are not floating (flags, counters, keys) have no tangent: they are
    # taken out of everything that is differentiated and handed in beside it.
    (params, rest_params), _, (zs, rest_zs) = map(_split, primals)
    d_params, d_carry, d_zs = (_floats(tangent) for tangent in tangents)

    def floating_step(params, carry, z, rest_carry, rest_z):
        whole = (_join(params, rest_params), _join(carry, rest_carry))
        return _split(step(*whole, _join(z, rest_z)))

    def forward(state, z):
        after, y = step(primals[0], state, z)
        return after, (_split(state), y)

    last, ((before, rest_before), ys) = lax.scan(forward, primals[1], primals[2])

    def contribution(carry, rest_carry, z, rest_z, d_z):
        def of_inputs(params, z):
            return floating_step(params, carry, z, rest_carry, rest_z)[0]

        return jax.jvp(of_inputs, (params, z), (d_params, d_z))[1]

    deltas = jax.vmap(contribution)(before, rest_before, zs, rest_zs, d_zs)

    def linear(d_carry, inputs):
        carry, rest_carry, z, rest_z, delta = inputs

        def of_carry(carry):
            return floating_step(params, carry, z, rest_carry, rest_z)[0]

        pushed = jax.jvp(of_carry, (carry,), (d_carry,))[1]
        return jax.tree.map(jnp.add, pushed, delta)

    inputs = (before, rest_before, zs, rest_zs, deltas)
    d_last, d_ys = lax.scan(linear, d_carry, inputs)
    out = (last, ys)
    return out, jax.tree.map(_tangent, out, _join((d_last, d_ys), _split(out)[1]))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _split(tree: Any) -> tuple[Any, Any]:
    """The floating leaves and the others, each with None in the other's places."""
    floats = jax.tree.map(lambda a: a if _is_float(a) else None, tree)
    return floats, jax.tree.map(lambda a: None if _is_float(a) else a, tree)


def _join(floats: Any, rest: Any) -> Any:
    return jax.tree.map(
        lambda a, b: b if a is None else a, floats, rest, is_leaf=lambda a: a is None
    )


def _floats(tangents: Any) -> Any:
    no_tangent = jax.dtypes.float0
    return jax.tree.map(lambda t: None if t.dtype == no_tangent else t, tangents)


def _tangent(primal: Any, tangent: Any) -> Any:
    if _is_float(primal):
        return tangent
    return np.zeros(jnp.shape(primal), jax.dtypes.float0)


@_with_signals
def checkpointed(project, step, params, carry, xs):
    r"""Keep the carry at :math:`\sqrt t` places and recompute between them.

    Memory for the backward pass falls from :math:`O(t)` to :math:`O(\sqrt t)` steps for
    one more forward pass.

    Reference: Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost,
    2016, arXiv:1604.06174.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.checkpointed)
    """
    time = jax.tree.leaves(xs)[0].shape[0]
    length = math.isqrt(time - 1) + 1
    segments = time // length
    # Inside a scan nothing can be merged across the barrier that prevent_cse puts up.
    segment = jax.checkpoint(
        functools.partial(_fused, project, step), prevent_cse=False
    )

    def fold(a):
        return a[: segments * length].reshape(segments, length, *a.shape[1:])

    carry, ys = lax.scan(
        lambda c, part: segment(params, c, part), carry, jax.tree.map(fold, xs)
    )
    ys = jax.tree.map(lambda a: a.reshape(segments * length, *a.shape[2:]), ys)
    if segments * length == time:
        return carry, ys
    tail = jax.tree.map(lambda a: a[segments * length :], xs)
    carry, last = segment(params, carry, tail)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, last)


@_with_signals
def static(project, step, params, carry, xs):
    """A Python loop: every step is visible to prints and debuggers, outside ``jit``.

    Compile time grows with the number of steps.

    >>> import rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.static)
    """
    ys = []
    for t in range(jax.tree.leaves(xs)[0].shape[0]):
        x = jax.tree.map(lambda a, t=t: a[t], xs)
        carry, y = step(params, carry, project(params, x))
        ys.append(y)
    return carry, jax.tree.map(lambda *steps: jnp.stack(steps), *ys)


def default(project, step, params, carry, xs, *, mask=None, reset=None):
    """The traversal for any step: `fused` on a CPU, `deferred` elsewhere.

    Cells that have a kernel walk with it instead, see `rnnjax.kernels`. The figures
    behind the choice stand in ``docs/design.md``.

    >>> import rnnjax
    >>> rnnjax.lstm(3, 4) == rnnjax.lstm(3, 4, traversal=rnnjax.scan.default)
    False
    """
    walk = fused if jax.default_backend() == "cpu" else deferred
    return walk(project, step, params, carry, xs, mask=mask, reset=reset)


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
