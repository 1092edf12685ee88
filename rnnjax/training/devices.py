"""A mesh in training: examples divided over its devices, the state whole on each.

There may be several processes, each with some of the devices. All of them run the same
program on global arrays; JAX's runtime does the rest.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnjax.training.checkpoint import is_key, key_implementation

AXIS = "data"


def checked(mesh: Any) -> Mesh:
    """The mesh with axes along which XLA divides a program by itself.

    The loss is the user's and names no sharding, so axes that a mesh makes explicit,
    as `jax.make_mesh` does, would fail in it.
    """
    advice = "Write jax.make_mesh((jax.device_count(),), ('data',))."
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh is {mesh!r}; expected a jax.sharding.Mesh. {advice}")
    if AXIS not in mesh.axis_names:
        raise ValueError(
            f"mesh has the axes {mesh.axis_names}; expected one called 'data', over "
            f"which examples are divided. {advice}"
        )
    types = (AxisType.Auto,) * len(mesh.axis_names)
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=types)
    if local_devices(mesh) * jax.process_count() != mesh.shape[AXIS]:
        raise ValueError(
            f"mesh has {mesh.shape[AXIS]} devices along its axis 'data', of which "
            f"this process has {local_devices(mesh)}; expected an equal part of them "
            f"in each of the {jax.process_count()} processes. {advice}"
        )
    return mesh


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Each update needs as many examples on every device."""
    devices = mesh.shape[AXIS]
    if batch_size % devices:
        raise ValueError(
            f"batch_size is {batch_size}, which {devices} devices along the mesh's "
            f"axis 'data' cannot share equally. Write batch_size="
            f"{max(batch_size // devices, 1) * devices}."
        )


def divided(mesh: Mesh) -> NamedSharding:
    """Examples over the axis for data."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def whole(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_devices(mesh: Mesh) -> int:
    """How many parts of the data this process has."""
    return mesh.local_mesh.shape[AXIS]


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has with the same values, as global ones.

    Raises:
      AssertionError: from JAX, if their values differ between processes.
    """

    def one(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, whole(mesh))
        if is_key(leaf):
            integers = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(integers, impl=key_implementation(leaf))
        if jax.process_count() > 1:  # JAX takes no array that sits on one device here
            leaf = np.asarray(leaf)
        return jax.device_put(leaf, whole(mesh))

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """What `replicate` made, as arrays of this process alone.

    An operation on a global array is one of all processes, and only one of them saves.
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def check_shares(examples: int, mesh: Mesh) -> None:
    """Each process must have as many examples, and each of its devices too.

    Raises:
      ValueError: on every process, if that is not so.
    """
    counts = everywhere(examples)
    if len(set(counts)) > 1:
        raise ValueError(
            f"data has {examples} examples in process {jax.process_index()}, and the "
            f"processes have {counts}; expected as many in each. Write "
            f"data[:{min(counts)}] in all of them."
        )
    parts = local_devices(mesh)
    if examples % parts:
        raise ValueError(
            f"data has {examples} examples, which {parts} devices along the mesh's "
            f"axis 'data' cannot share equally. Write data[:{examples // parts * parts}"
            "], or another mesh."
        )


def divide(data: Any, mesh: Mesh) -> Any:
    """The examples of all processes, in the order of these, as global arrays."""

    def one(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, divided(mesh))
        if jax.process_count() > 1:
            dtype = jax.dtypes.canonicalize_dtype(np.result_type(leaf))
            leaf = np.asarray(leaf, dtype)
        return jax.make_array_from_process_local_data(divided(mesh), leaf)

    return jax.tree.map(one, data)


def everywhere(value: Any) -> list[Any]:
    """What each process has here, which is JSON, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(text), np.int32))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [
        json.loads(row[:size].tobytes())
        for row, size in zip(gathered, sizes, strict=True)
    ]


def wait(what: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
