"""Orbax checkpoints of the training state: arrays divided over devices and processes.

`rnnjax.training.save` needs nothing but NumPy, and `rnnjax.training.fit` uses it, since
its state is whole on every device. Orbax adds what large models need: each process
writes and reads its own part of every array, and the parts may be others when they are
read. It also has asynchronous saving, several versions with a policy, and remote
storage. Only this module imports it; install ``orbax-checkpoint``.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, Sharding

from rnnjax.training import devices
from rnnjax.training.checkpoint import is_key, key_implementation


def save(path: str | os.PathLike[str], state: Any, metadata: Any) -> None:
    """Write a pytree of arrays and some JSON to a new folder, by orbax.

    The folder has the items ``state`` and ``metadata``. Orbax writes it under another
    name and renames it once it is complete. Of several processes all call this, with a
    path that all share, and each writes the parts of the arrays that it has.

    Args:
      path: the folder, which must not exist; number them, or use a
        ``CheckpointManager`` with `without_keys`.
      state: any pytree, such as a `rnnjax.training.TrainState`.
      metadata: a dict of JSON, such as the run's configuration.

    >>> import pathlib, tempfile
    >>> import jax.numpy as jnp, rnnjax.training.orbax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "checkpoint"
    ...     rnnjax.training.orbax.save(path, {"w": jnp.ones(2)}, {"epoch": 3})
    ...     print(sorted(item.name for item in path.iterdir() if item.is_dir()))
    ['metadata', 'state']
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            Path(path).absolute(),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(without_keys(state)),
                metadata=ocp.args.JsonSave(metadata),
            ),
        )


def restore(
    path: str | os.PathLike[str], template: Any, *, mesh: Mesh | None = None
) -> tuple[Any, Any]:
    """Read what `save` wrote: ``(state, metadata)``, the state shaped as ``template``.

    The numbers of devices and of processes may be others than when it was written.

    Args:
      path: the folder.
      template: a pytree of arrays or `jax.ShapeDtypeStruct`, such as a new state. Its
        arrays' shardings become those of the state.
      mesh: where arrays go whose template has no `jax.sharding.NamedSharding`: whole to
        each device. Without it they go to the default device.

    Raises:
      FileNotFoundError: if there is no folder.
      TypeError, ValueError: for a ``mesh`` without an axis ``"data"``.
      ValueError: from orbax, for shapes or names that are not those of the template.

    >>> import pathlib, tempfile
    >>> import jax, optax, rnnjax, rnnjax.training.orbax
    >>> cell, optimizer = rnnjax.gru(3, 4), optax.adam(1e-3)
    >>> def start(key):
    ...     return rnnjax.training.init(cell.init(key), optimizer, key)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "checkpoint"
    ...     rnnjax.training.orbax.save(path, start(jax.random.key(0)), {"hidden": 4})
    ...     template = jax.eval_shape(start, jax.random.key(1))
    ...     state, metadata = rnnjax.training.orbax.restore(path, template)
    >>> state.params.w_hh.shape, state.key.dtype, metadata
    ((4, 12), key<fry>, {'hidden': 4})
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"{path} does not exist; expected a folder that rnnjax.training.orbax.save "
            "wrote. Start without resuming, or write the folder of an earlier run."
        )
    template = _located(template, None if mesh is None else devices.checked(mesh))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(
            Path(path).absolute(),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(without_keys(template)),
                metadata=ocp.args.JsonRestore(),
            ),
        )
    return with_keys(found.state, template), found.metadata


def without_keys(state: Any) -> Any:
    """The state as every version of orbax takes it: typed keys as their integers.

    >>> import jax, rnnjax.training.orbax
    >>> rnnjax.training.orbax.without_keys({"key": jax.random.key(7)})
    {'key': Array([0, 7], dtype=uint32)}
    """

    def one(leaf):
        if not is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return _placed(data, leaf.sharding)
        return jax.random.key_data(leaf)

    return jax.tree.map(one, state)


def with_keys(state: Any, template: Any) -> Any:
    """The inverse of `without_keys`: keys of the kinds that the template has.

    >>> import jax, rnnjax.training.orbax
    >>> template = {"key": jax.random.key(0)}
    >>> state = rnnjax.training.orbax.without_keys({"key": jax.random.key(7)})
    >>> rnnjax.training.orbax.with_keys(state, template)["key"].dtype
    key<fry>
    """

    def one(wanted, leaf):
        if not is_key(wanted):
            return leaf
        return jax.random.wrap_key_data(leaf, impl=key_implementation(wanted))

    return jax.tree.map(one, template, state)


def _located(template: Any, mesh: Mesh | None) -> Any:
    """Shapes that say where arrays go: where the template's are, or to the mesh.

    Of an array that is told no place orbax asks the file, which may name devices that
    are not here.
    """
    default = jnp.zeros(()).sharding if mesh is None else devices.whole(mesh)
    kept = Sharding if mesh is None else NamedSharding

    def one(leaf):
        sharding = getattr(leaf, "sharding", None)
        # A shape that comes from jax.eval_shape may name axes and no devices.
        abstract = isinstance(getattr(sharding, "mesh", None), AbstractMesh)
        if abstract or not isinstance(sharding, kept):
            sharding = default
        return _placed(leaf, sharding)

    return jax.tree.map(one, template)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
