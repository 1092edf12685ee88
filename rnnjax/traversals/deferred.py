"""Compute the gradients of the params after the loop."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rnnjax import floats
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
    (params, rest_params), _, (zs, rest_zs) = map(floats.split, primals)
    d_params, d_carry, d_zs = (floats.tangents(tangent) for tangent in tangents)

    def floating_step(params, carry, z, rest_carry, rest_z):
        whole = (floats.join(params, rest_params), floats.join(carry, rest_carry))
        return floats.split(step(*whole, floats.join(z, rest_z)))

    def forward(state, z):
        after, y = step(primals[0], state, z)
        return after, (floats.split(state), y)

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
    return out, jax.tree.map(
        floats.tangent, out, floats.join((d_last, d_ys), floats.split(out)[1])
    )
