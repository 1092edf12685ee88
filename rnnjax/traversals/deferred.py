"""Compute the gradients of the params after the loop."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnjax.checks import time_steps
from rnnjax.signals import gated
from rnnjax.traversals import sums


@gated
def deferred(project, step, params, carry, xs):
    """Like `hoisted`, and the gradients of the params leave the backward loop too.

    The transpose of `jax.lax.scan` sums the weights' gradient inside its loop, a pass
    over the whole matrix at each step. Here the tangent of the recurrence is a scan
    with the params held fixed; what the params' tangents contribute is computed for all
    steps at once and fed in. Transposed, that is one product over time and batch.
    Forward mode and higher orders work, as in every traversal.

    >>> import jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4, traversal=rnnjax.scan.deferred)
    """
    zs = sums.at_all_times(project, params, time_steps(xs), xs)
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

    def contribution(d_params, carry, rest_carry, z, rest_z, d_z):
        def of_inputs(params, z):
            return floating_step(params, carry, z, rest_carry, rest_z)[0]

        return jax.jvp(of_inputs, (params, z), (d_params, d_z))[1]

    steps = (before, rest_before, zs, rest_zs, d_zs)
    deltas = sums.at_all_times(contribution, d_params, time_steps(steps), *steps)

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
