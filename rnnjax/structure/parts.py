"""The parts of a carry, from the program of a step."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnjax.structure.following import NO_UNIT, followed
from rnnjax.structure.rules import AFFINE, CONSTANT, MAX_PLUS, SHIFT

_KINDS = {CONSTANT: "affine", SHIFT: "affine", AFFINE: "affine"}


class Part(NamedTuple):
    """Leaves of a carry that read each other, given the leaves of the parts before.

    Attributes:
      leaves: their places in ``jax.tree.leaves(carry)``.
      kind: ``"affine"``, ``"max-plus"``, which is one leaf whose units become
        ``max(unit + a, b)``, or ``"nonlinear"``.
      apart: the axes along which units see only themselves. All of them have the axes
        of one shape, which all leaves have; it is empty where the shapes differ.
      why: what is not affine, in words, and in the order of the program.
    """

    leaves: tuple[int, ...]
    kind: str
    apart: tuple[int, ...]
    why: tuple[str, ...]


def of(step: Callable[..., Any], carry: Any, *given: Any) -> tuple[Part, ...]:
    """The parts of ``step(carry, *given) -> carry``, each after those that it reads.

    It is traced, not run.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax import structure
    >>> h, decay, x = jnp.zeros(3), jnp.ones(3), jnp.ones(3)
    >>> structure.of(lambda h, decay, x: decay * h + x, h, decay, x)
    (Part(leaves=(0,), kind='affine', apart=(0,), why=()),)
    >>> structure.of(lambda h, w: jnp.tanh(h @ w), h, jnp.ones((3, 3)))
    (Part(leaves=(0,), kind='nonlinear', apart=(), why=('a tanh of the carry',)),)
    """
    closed = jax.make_jaxpr(step)(carry, *given)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(carry)]
    places = range(len(shapes))
    reads = np.array(
        [[bool(bits >> j & 1) for j in places] for bits in _leaves_read(closed, shapes)]
    ).reshape(len(shapes), len(shapes))
    # Each leaf belongs to a part, even if it does not read itself.
    reads = functools.reduce(
        lambda r, _: r | (r @ r), places, reads | np.eye(len(shapes), dtype=bool)
    )
    together = reads & reads.T
    parts = {tuple(map(int, np.flatnonzero(row))) for row in together}
    # A part reads more leaves than the parts that it reads.
    order = sorted(parts, key=lambda leaves: (reads[leaves[0]].sum(), leaves))
    return tuple(_part(closed, shapes, leaves) for leaves in order)


def whole(step: Callable[..., Any], carry: Any, *given: Any) -> Part:
    """The whole carry as one part, though some leaves may read no others.

    >>> import jax.numpy as jnp
    >>> from rnnjax import structure
    >>> def step(carry, x):
    ...     return carry[0] + x, jnp.tanh(carry[0] * carry[1])
    >>> structure.whole(step, (jnp.zeros(3), jnp.zeros(3)), jnp.ones(3)).apart
    (0,)
    """
    closed = jax.make_jaxpr(step)(carry, *given)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(carry)]
    return _part(closed, shapes, tuple(range(len(shapes))))


def name(step: Callable[..., Any]) -> str:
    """What to call the cell that a step belongs to.

    >>> from rnnjax import structure
    >>> def leaky():
    ...     def step(params, h, z):
    ...         return h, h
    ...     return step
    >>> structure.name(leaky())
    'leaky'
    """
    full = getattr(inspect.unwrap(step), "__qualname__", "this step")
    return full.split(".<locals>")[0]


def _leaves_read(closed: Any, shapes: list[tuple[int, ...]]) -> list[int]:
    """For each leaf of the next carry the set of those it reads, as bits."""
    found = followed(closed, shapes, range(len(shapes)))
    return [
        0 if a is None else int(np.bitwise_or.reduce(a.leaves, axis=None, initial=0))
        for a in found
    ]


def _part(closed: Any, shapes: list[tuple[int, ...]], leaves: tuple[int, ...]) -> Part:
    found = followed(closed, shapes, leaves)
    read = [a for a in (found[i] for i in leaves) if a is not None]
    shape = shapes[leaves[0]]
    axes = ()
    if all(shapes[i] == shape for i in leaves):
        own = np.indices(shape, np.int64)
        axes = tuple(
            axis
            for axis in range(len(shape))
            if all(_is_own(a.units[axis], own[axis]) for a in read)
        )
    kind = max((int(a.kind.max(initial=CONSTANT)) for a in read), default=CONSTANT)
    why = tuple(dict.fromkeys(sentence for a in read for sentence in a.why))
    if kind == MAX_PLUS and len(leaves) == 1 and len(axes) == len(shape):
        return Part(leaves, "max-plus", axes, why)
    if kind == MAX_PLUS:
        why = (*why, "a maximum over units of the carry")
    return Part(leaves, _KINDS.get(kind, "nonlinear"), axes, why)


def _is_own(units: np.ndarray, own: np.ndarray) -> bool:
    return bool(np.all((units == own) | (units == NO_UNIT)))
