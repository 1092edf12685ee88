"""Cells that are affine in their carry, one for each form that coefficients take."""

import jax
import jax.numpy as jnp

import rnnjax


def complex_pair(traversal):
    """A diagonal linear recurrence of complex numbers, as two real leaves."""

    def init(key):
        key_a, key_b = jax.random.split(key)
        return 0.6 * jax.random.normal(key_a, (2, 3)), jax.random.normal(key_b, (2, 6))

    def initial_carry(params):
        return (jnp.zeros(3, params[0].dtype),) * 2

    def project(params, x):
        return jnp.split(x @ params[1], 2)

    def step(params, carry, z):
        (re, im), (a, b) = carry, params[0]
        carry = a * re - b * im + z[0], b * re + a * im + z[1]
        return carry, jnp.tanh(carry[0]) + carry[1]

    return rnnjax.recurrence(init, initial_carry, project, step, (2,), traversal)


def delta_rule(traversal):
    """A matrix memory whose rows see each other, but not its columns."""

    def init(key):
        return jax.random.normal(key, (2, 9))

    def initial_carry(params):
        return jnp.zeros((3, 2), params.dtype)

    def project(params, x):
        q, k, v, rate = jnp.split(x @ params, [3, 6, 8])
        return q, jnp.tanh(k), v, jax.nn.sigmoid(rate)

    def step(params, memory, z):
        q, k, v, rate = z
        memory = memory + rate * jnp.outer(k, v - k @ memory)
        return memory, q @ memory

    return rnnjax.recurrence(init, initial_carry, project, step, (2,), traversal)


def stabilised(traversal):
    """A matrix memory with exponential gates, whose stabiliser is a running maximum."""

    def init(key):
        return jax.random.normal(key, (2, 10))

    def initial_carry(params):
        zeros = jnp.zeros((3, 2), params.dtype)
        return {"memory": zeros, "norm": zeros[:, 0], "top": zeros[0, 0]}

    def project(params, x):
        q, k, v, gates = jnp.split(x @ params, [3, 6, 8])
        return q, k, v, gates[0], jax.nn.log_sigmoid(gates[1])

    def step(params, carry, z):
        q, k, v, log_i, log_f = z
        top = jnp.maximum(carry["top"] + log_f, log_i)
        f, i = jnp.exp(log_f + carry["top"] - top), jnp.exp(log_i - top)
        memory = f * carry["memory"] + i * jnp.outer(k, v)
        norm = f * carry["norm"] + i * k
        y = q @ memory / jnp.maximum(jnp.abs(q @ norm), jnp.exp(-top))
        return {"memory": memory, "norm": norm, "top": top}, y

    return rnnjax.recurrence(init, initial_carry, project, step, (2,), traversal)


def dense(traversal):
    """A linear state of which every unit sees every other one."""

    def init(key):
        return 0.4 * jax.random.normal(key, (5, 3))

    def step(params, h, z):
        h = h @ params[2:] + z
        return h, h * h

    return rnnjax.recurrence(
        init,
        lambda params: jnp.zeros(3, params.dtype),
        lambda params, x: x @ params[:2],
        step,
        (2,),
        traversal,
    )


CELLS = {
    "min_gru": lambda traversal: rnnjax.min_gru(2, 3, traversal=traversal),
    "sru": lambda traversal: rnnjax.sru(2, 3, traversal=traversal),
    "complex pair": complex_pair,
    "delta rule": delta_rule,
    "stabilised": stabilised,
    "dense": dense,
}
