"""A cell as StableHLO, for a process that has JAX but not this library.

The programs are compiled for CPU, CUDA, ROCm and TPU, from XLA's own operations: where
`jax.export` asks for a lowering, the kernels are the reference loop (see
`rnnjax.kernels.native.lowering`), since the process that loads the file does not have
the native library.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.batch import unroll as unroll_batch
from rnnjax.cell import Cell, Params

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def unroll(
    cell: Cell, params: Params, x: Any, *, bake: bool = True
) -> jax.export.Exported:
    """`rnnjax.unroll` of a cell for any batch and any number of steps.

    The program is ``(carry, xs, lengths) -> (carry, ys)``: ``xs: (b, t, ...)``,
    ``lengths: (b,)`` int32 (all t where nothing is padded), each leaf of the carry
    ``(b, ...)``. Cells that draw random numbers are exported as they run without a key.

    Its pytrees are plain: named tuples become dictionaries, so that loading it takes
    nothing but JAX: ``jax.export.deserialize(content).call(carry, xs, lengths)``. It
    can be differentiated if it was serialized with a ``vjp_order``.

    Args:
      cell: any cell whose traversal does not count the steps, as `rnnjax.scan.static`
        and `rnnjax.scan.checkpointed` do.
      params: its params, which fix the dtype; shapes are enough with ``bake=False``.
      x: one input of one step, or a `jax.ShapeDtypeStruct` in its place.
      bake: whether the file holds the values of the params. If not, they are the first
        argument, ``plain(params)``: one program for all trained versions of a model.

    Raises:
      TypeError: if params that are to be baked in are only shapes.

    Reference: StableHLO, https://openxla.org/stablehlo.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.lstm(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> program = rnnjax.export.unroll(cell, params, jnp.zeros(3))
    >>> carry = {"c": jnp.zeros((2, 4)), "h": jnp.zeros((2, 4))}
    >>> carry, ys = program.call(carry, jnp.ones((2, 7, 3)), jnp.array([7, 5]))
    >>> carry["h"].shape, ys.shape, bool((ys[1, 5:] == 0).all())
    ((2, 4), (2, 7, 4), True)
    """
    batch, time = jax.export.symbolic_shape("b, t")
    checks.model(cell, params)
    template = jax.eval_shape(cell.initial_carry, params)

    def run(params, carry, xs, lengths):
        carry = _like(template, carry)
        after, ys = unroll_batch(cell, params, xs, carry=carry, lengths=lengths)
        return plain(after), plain(ys)

    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    given = (_spec(plain(template), batch), _spec(x, batch, time), lengths)
    return _export(run, params, bake, given)


def step(
    cell: Cell, params: Params, x: Any, *, bake: bool = True
) -> jax.export.Exported:
    """One step of a cell for any batch: ``(carry, x) -> (carry, y)``.

    ``x: (b, ...)``; arguments and pytrees are those of `unroll`. Keep the carry on the
    device and call the program for each sample that arrives.

    Raises:
      NoStepError: for a cell that needs the whole sequence.
      TypeError: if params that are to be baked in are only shapes.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> program = rnnjax.export.step(cell, params, jnp.zeros(3))
    >>> carry, y = program.call(jnp.zeros((2, 4)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """
    (batch,) = jax.export.symbolic_shape("b")
    checks.model(cell, params)
    template = jax.eval_shape(cell.initial_carry, params)

    def run(params, carry, x):
        carry = _like(template, carry)
        after, y = jax.vmap(cell.step, in_axes=(None, 0, 0))(params, carry, x)
        return plain(after), plain(y)

    return _export(run, params, bake, (_spec(plain(template), batch), _spec(x, batch)))


def initial_carry(
    cell: Cell, params: Params, *, bake: bool = True
) -> jax.export.Exported:
    """The carry that one example starts with: ``() -> carry``.

    Most cells start from zeros of the shapes in ``program.in_avals``; this is for those
    whose first carry is learned. Arguments and pytrees are those of `unroll`.

    >>> import jax, rnnjax
    >>> cell = rnnjax.learned_carry(rnnjax.lstm(3, 4))
    >>> program = rnnjax.export.initial_carry(cell, cell.init(jax.random.key(0)))
    >>> sorted(program.call())
    ['c', 'h']
    """
    checks.model(cell, params)
    return _export(lambda params: plain(cell.initial_carry(params)), params, bake, ())


def plain(tree: Any) -> Any:
    """A pytree of dictionaries, tuples and lists: named tuples become dictionaries.

    >>> import jax, rnnjax
    >>> cell = rnnjax.stack(rnnjax.elman(3, 4), rnnjax.dense(4, 1))
    >>> params = rnnjax.export.plain(cell.init(jax.random.key(0)))
    >>> [sorted(part) for part in params]
    [['b', 'w_hh', 'w_ih'], ['b', 'w']]
    """
    if isinstance(tree, dict):
        return {name: plain(part) for name, part in tree.items()}
    if _is_named_tuple(tree):
        return {name: plain(getattr(tree, name)) for name in tree._fields}
    if isinstance(tree, tuple | list):
        return type(tree)(map(plain, tree))
    return tree


def _like(template: Any, tree: Any) -> Any:
    """What `plain` was given, from what it returned."""
    if isinstance(template, dict):
        return {name: _like(part, tree[name]) for name, part in template.items()}
    if _is_named_tuple(template):
        parts = (
            _like(getattr(template, name), tree[name]) for name in template._fields
        )
        return type(template)(*parts)
    if isinstance(template, tuple | list):
        return type(template)(map(_like, template, tree))
    return tree


def _is_named_tuple(tree: Any) -> bool:
    return isinstance(tree, tuple) and hasattr(tree, "_fields")


def _spec(tree: Any, *leading: Any) -> Any:
    """Shapes and dtypes, with the open axes in front."""

    def one(leaf):
        return jax.ShapeDtypeStruct((*leading, *jnp.shape(leaf)), jnp.result_type(leaf))

    return jax.tree.map(one, tree)


def _export(
    run: Callable[..., Any], params: Params, bake: bool, given: tuple[Any, ...]
) -> jax.export.Exported:
    """``run(params, *given)``, the first argument baked in or not."""
    if bake and any(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)
    ):
        raise TypeError(
            "params holds shapes without values; expected the arrays to put into the "
            "file. Write bake=False, and they become an argument of the program."
        )

    def function(*given):
        if bake:
            return run(params, *given)
        return run(_like(params, given[0]), *given[1:])

    function.__name__ = run.__qualname__.split(".")[0]
    if not bake:
        given = (_spec(plain(params)), *given)
    try:
        return jax.export.export(jax.jit(function), platforms=_PLATFORMS)(*given)
    except Exception as error:
        error.add_note(
            "This was in rnnjax.export, which leaves batch and time open. If the "
            "message is about the dimensions b or t, the cell counts them: make it "
            "without traversal=rnnjax.scan.static or checkpointed, from the same "
            "params."
        )
        raise
