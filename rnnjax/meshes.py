"""What the types of arrays on a mesh of devices ask for.

Under ``jit`` XLA places arrays by itself, and nothing here does anything. Two ways to
write programs for several devices keep a record in the types of arrays. `jax.shard_map`
writes down over which axes of the mesh an array may differ, its *varying* axes, and a
loop's carry or the operands of a primitive must agree in them. Axes that are
``AxisType.Explicit`` write down how each array is sharded.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def varying(tree: Any, *others: Any) -> Any:
    """``tree``, each leaf of which varies over the axes that any leaf given here does.

    The transpose is the sum over the axes that are new to a leaf, so that what is the
    same on all devices, such as params, receives the gradient of all.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> meshes.varying((jnp.zeros(2), 1.0), jnp.ones(3))
    (Array([0., 0.], dtype=float32), 1.0)
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    leaves = jax.tree.leaves((tree, others))
    axes = frozenset[Any]().union(*map(_varying_axes, leaves))

    def cast(leaf):
        more = axes - _varying_axes(leaf)
        return lax.pcast(leaf, tuple(more), to="varying") if more else leaf

    return jax.tree.map(cast, tree)


def _varying_axes(leaf: Any) -> frozenset[Any]:
    return jax.typeof(leaf).manual_axis_type.varying


def mapped(tree: Any, like: Any) -> Any:
    """``tree``, mapped by each `jax.vmap` that maps a floating leaf of ``like``.

    A loop whose condition is mapped broadcasts what it carries, at which JAX loses the
    mesh if its axes are explicit. Where they are not, nothing is done.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> meshes.mapped(0, jnp.ones(3))
    0
    """
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return tree
    ones = [
        a.ravel()[0].astype(jnp.float32)
        for a in jax.tree.leaves(like)
        if jnp.issubdtype(a.dtype, jnp.floating)
    ]
    total = sum(ones)
    # It depends on the total, and is false whatever this is.
    never = (total != total) & (total == total)

    def one(a):
        return jnp.where(never, jnp.zeros_like(a), a)

    return jax.tree.map(one, tree)


def rows_like(a: Any, ndim: int) -> NamedSharding | None:
    """The sharding of an array of ``ndim`` axes whose rows are those of ``a``.

    It is None where the types do not say, and XLA is to decide.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> meshes.rows_like(jnp.ones((2, 3)), 2)
    """
    return _sharding(a, lambda spec: [spec[0], *[None] * (ndim - 1)])


def whole_like(a: Any, ndim: int) -> NamedSharding | None:
    """The same of an array that is whole on every device on which ``a`` has a part.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> meshes.whole_like(jnp.ones((2, 3)), 2)
    """
    return _sharding(a, lambda spec: [None] * ndim)


def rows_alike(arrays: Sequence[Array], but: Collection[int]) -> list[Array]:
    """Arrays of the same rows, sharded as the first one that is sharded at all.

    Those at the places ``but`` stay as they are, and those of one axis, which are
    absent.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> [a.shape for a in meshes.rows_alike([jnp.ones((2, 3)), jnp.ones(0)], ())]
    [(2, 3), (0,)]
    """
    rows = {i: a for i, a in enumerate(arrays) if a.ndim > 1 and i not in but}
    like = next((a for a in rows.values() if rows_like(a, 2)), None)
    if like is None:
        return list(arrays)
    return [
        jax.reshard(a, rows_like(like, a.ndim)) if i in rows else a
        for i, a in enumerate(arrays)
    ]


def whole(a: Array) -> Array:
    """The array on every device.

    >>> import jax.numpy as jnp
    >>> from rnnjax import meshes
    >>> meshes.whole(jnp.ones(3))
    Array([1., 1., 1.], dtype=float32)
    """
    sharding = whole_like(a, a.ndim)
    return a if sharding is None else jax.reshard(a, sharding)


def _sharding(a: Any, spec: Callable[[Any], list[Any]]) -> NamedSharding | None:
    given = jax.typeof(a).sharding
    if all(part is None for part in given.spec):
        return None
    return NamedSharding(given.mesh, PartitionSpec(*spec(given.spec)))
