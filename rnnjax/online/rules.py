"""The exact rule, and a random one of rank one."""

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.cell import Params
from rnnjax.online.learning import Rule


def rtrl() -> Rule:
    r"""Real-time recurrent learning: the whole influence, exactly.

    .. math:: S_t = J_t S_{t-1} + D_t, \qquad
        J_t = \frac{\partial c_t}{\partial c_{t-1}}, \quad
        D_t = \frac{\partial c_t}{\partial \theta}

    For a state of ``n`` numbers and ``p`` params it keeps ``n p`` numbers, and a step
    costs :math:`O(n^2 p)`: for small networks, or as the truth for other rules.

    Reference: Williams, Zipser 1989, A learning algorithm for continually running fully
    recurrent neural networks, Neural Computation 1.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.rtrl())
    >>> xs = jax.random.normal(jax.random.key(1), (5, 2))
    >>> def learn(held, x):
    ...     state, total = held
    ...     y, pull, state = learner.step(params, state, x)
    ...     return (state, jax.tree.map(jnp.add, total, pull(2 * y))), None
    >>> start = learner.init(params, xs[0]), jax.tree.map(jnp.zeros_like, params)
    >>> (_, total), _ = jax.lax.scan(learn, start, xs)
    >>> def loss(params):
    ...     return (cell.unroll(params, jnp.zeros(3), xs)[1] ** 2).sum()
    >>> through_time = jax.grad(loss)(params)
    >>> bool(jnp.allclose(total.w_hh, through_time.w_hh, rtol=1e-4, atol=1e-5))
    True
    """

    def start(place, key):
        return jax.jacrev(place.first)(place.params)

    def advance(place, memory, key):
        by_params, by_state = jax.jacrev(
            lambda params, state: place.move(params, state)[0], (0, 1)
        )(place.params, place.state)
        return jax.tree.map(
            lambda d, s: d + jnp.tensordot(by_state, s, 1), by_params, memory
        )

    def back(place, memory, by_state):
        return jax.tree.map(lambda s: jnp.tensordot(by_state, s, 1), memory)

    return Rule("rtrl()", start, advance, back)


def uoro() -> Rule:
    r"""Unbiased online recurrent optimisation: the influence as one random product.

    .. math::
        S_t \approx s_t \theta_t^T, \qquad
        s_t = \rho_0 J_t s_{t-1} + \rho_1 \nu, \quad
        \theta_t = \theta_{t-1} / \rho_0 + D_t^T \nu / \rho_1

    with independent signs :math:`\nu`, and factors that make both sides of a product
    equally long: :math:`\rho_0^2 = |\theta_{t-1}| / |J_t s_{t-1}|`,
    :math:`\rho_1^2 = |D_t^T \nu| / |\nu|`. The mean over keys is the exact gradient;
    its noise grows with ``n``. It keeps ``n + p`` numbers, and a step costs about three
    times that of the cell. `jax.vmap` over keys and a mean divide the variance.

    Reference: Tallec, Ollivier 2017, Unbiased online recurrent optimization,
    arXiv:1702.05043.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.uoro())
    >>> state = learner.init(params, jnp.ones(2), key=jax.random.key(1))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_hh.shape
    (3, 9)
    """

    def start(place, key):
        first, pull = jax.vjp(place.first, place.params)
        signs = jax.random.rademacher(key, first.shape, first.dtype)
        return signs, pull(signs)[0]

    def advance(place, memory, key):
        s, theta = memory
        after, pull = jax.vjp(lambda p: place.move(p, place.state)[0], place.params)
        pushed = jax.jvp(
            lambda state: place.move(place.params, state)[0], (place.state,), (s,)
        )[1]
        signs = jax.random.rademacher(key, after.shape, after.dtype)
        (direct,) = pull(signs)
        old = ratio(norm(theta), norm(pushed))
        new = ratio(norm(direct), norm(signs))
        return old * pushed + new * signs, jax.tree.map(
            lambda a, b: a / old + b / new, theta, direct
        )

    def back(place, memory, by_state):
        s, theta = memory
        return jax.tree.map(lambda a: (by_state @ s) * a, theta)

    return Rule("uoro()", start, advance, back, draws=True)


def norm(tree: Params) -> Array:
    """Of all numbers in a pytree."""
    return jnp.sqrt(sum(jnp.square(a).sum() for a in jax.tree.leaves(tree)))


def ratio(one: Array, other: Array) -> Array:
    """The root of a quotient, any positive number where a side is zero."""
    least = 1e-7  # the mean is the same for any factor
    return jnp.sqrt((one + least) / (other + least))
