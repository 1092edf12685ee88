"""A random rule that keeps the influence of a matrix as one product of two factors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax.online.generic import of_rank_one
from rnnjax.online.learning import Rule
from rnnjax.online.rules import norm, ratio
from rnnjax.online.stepping import Place


class Factors(NamedTuple):
    """Of a matrix ``(i, k)`` in the params: ``left: (i,)`` and ``right: (n, k)``.

    The influence on state ``s`` is ``left ⊗ right[s]``. Of vectors and numbers
    ``left`` is ``()``, and ``right`` the whole influence.
    """

    left: Array
    right: Array


def kf_rtrl() -> Rule:
    r"""Kronecker-factored real-time recurrent learning: exact for vectors, random else.

    A matrix that multiplies one vector in a step, :math:`u_t W`, has the direct
    influence :math:`u_t \otimes B_t`. The sum of this and of what was before is again
    one product, with two random signs:

    .. math::
        l_t \otimes r_t, \qquad
        l_t = s_1 \rho\, l_{t-1} + s_2 \sigma\, u_t, \quad
        r_t = s_1 J_t r_{t-1} / \rho + s_2 B_t / \sigma

    The mean over keys is the exact gradient, with less noise than that of `uoro`. Each
    matrix of the params has its own factors; the influence of biases is kept whole. It
    keeps ``n k`` numbers for a matrix of ``k`` columns, and a step costs ``k`` tangents
    of the cell.

    Raises:
      ValueError: where it runs, for a matrix that multiplies several vectors in a step,
        such as that of `rnnjax.gru` with ``reset_after=False``, and for params with
        more than two axes.

    Reference: Mujika, Meier, Steger 2018, Approximating real-time recurrent learning
    with random Kronecker factors, arXiv:1805.10842.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> learner = rnnjax.online.learner(cell, rnnjax.online.kf_rtrl())
    >>> state = learner.init(params, jnp.ones(2), key=jax.random.key(1))
    >>> y, pull, state = learner.step(params, state, jnp.ones(2))
    >>> pull(jnp.ones(3)).w_hh.shape
    (3, 3)
    """

    def start(place, key):
        of_rank_one(place)
        influence = jax.jacrev(place.first)(place.params)

        def factors(s):
            if s.ndim < 3:
                return Factors(jnp.ones((), s.dtype), s)
            # The initial carry reads no matrix, or of_rank_one had refused it.
            return Factors(jnp.zeros(s.shape[1], s.dtype), jnp.zeros_like(s[:, 0]))

        return jax.tree.map(factors, influence)

    def advance(place, memory, key):
        leaves, structure = jax.tree.flatten(place.params)
        kept = structure.flatten_up_to(memory)
        _, push = jax.linearize(lambda s: place.move(place.params, s)[0], place.state)
        later = [
            _advanced(place, structure, number, factors, push, draw)
            for number, (factors, draw) in enumerate(
                zip(kept, jax.random.split(key, len(leaves)), strict=True)
            )
        ]
        return structure.unflatten(later)

    def back(place, memory, by_state):
        def whole(factors):
            right = jnp.tensordot(by_state, factors.right, 1)
            return factors.left[:, None] * right if factors.left.ndim else right

        is_pair = {"is_leaf": lambda a: isinstance(a, Factors)}
        return jax.tree.map(whole, memory, **is_pair)

    return Rule("kf_rtrl()", start, advance, back, draws=True)


def _advanced(
    place: Place, structure: Any, number: int, factors: Factors, push: Any, key: Array
) -> Factors:
    leaves = jax.tree.leaves(place.params)

    def after(leaf):
        changed = [*leaves[:number], leaf, *leaves[number + 1 :]]
        return place.move(structure.unflatten(changed), place.state)[0]

    leaf, (left, right) = leaves[number], factors
    pushed = right
    if right.ndim > 1:
        pushed = jax.vmap(push, 1, 1)(right)
    elif right.ndim:
        pushed = push(right)
    if leaf.ndim < 2:
        return Factors(left, pushed + jax.jacrev(after)(leaf))
    out, pull = jax.vjp(after, leaf)
    key_probe, key_signs = jax.random.split(key)
    # Any cotangent gives u ⊗ b; its longest column has the direction of u.
    (probed,) = pull(jax.random.normal(key_probe, out.shape, out.dtype))
    lengths = jnp.square(probed).sum(0)
    u = probed[:, jnp.argmax(lengths)]
    length = jnp.sqrt(lengths.max())
    u = jnp.where(length > 0, u / jnp.where(length > 0, length, 1), jnp.zeros_like(u))
    _, push_leaf = jax.linearize(after, leaf)

    def column(unit):
        return push_leaf(u[:, None] * unit)

    direct = jax.vmap(column, out_axes=1)(jnp.eye(leaf.shape[1], dtype=leaf.dtype))
    first, second = jax.random.rademacher(key_signs, (2,), leaf.dtype)
    old = first * ratio(norm(pushed), norm(left))
    new = second * ratio(norm(direct), norm(u))
    return Factors(old * left + new * u, pushed / old + direct / new)
