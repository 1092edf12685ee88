"""Checkpoints: any pytree and some JSON in one file, safely written and read."""

import contextlib
import glob
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_FORMAT = "rnnjax checkpoint 1"
_HEADER = "rnnjax.json"


def save(path: str | os.PathLike[str], state: Any, metadata: Any) -> None:
    """Write a pytree of arrays and some JSON to one file, wholly or not at all.

    The file is an ``.npz`` (``numpy.load`` opens it) with one JSON entry; nothing is
    pickled. All dtypes of JAX are kept, bfloat16 and typed keys too. It is written
    beside ``path``, forced to disk and renamed, so a crash leaves the old file.

    Args:
      path: the file; its folder must exist.
      state: any pytree, such as a `TrainState`.
      metadata: anything that ``json.dumps`` takes, such as the run's configuration.

    >>> import tempfile
    >>> import jax.numpy as jnp, numpy, rnnjax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rnnjax.training.save(f"{folder}/a.npz", {"w": jnp.ones(2)}, {"epoch": 3})
    ...     print(numpy.load(f"{folder}/a.npz").files)
    ['rnnjax.json', "['w']"]
    """
    arrays, leaves = {}, {}
    for name, leaf in _named(state).items():
        leaf = jnp.asarray(leaf)
        leaves[name] = {"type": _type(leaf)}
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[name]["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        arrays[name] = (
            array if _known(array.dtype) else array.view(f"u{array.itemsize}")
        )
    header = {"format": _FORMAT, "metadata": metadata, "leaves": leaves}
    text = json.dumps(header, indent=1)
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_HEADER, text)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def restore(path: str | os.PathLike[str], template: Any) -> tuple[Any, Any]:
    """Read what `save` wrote: ``(state, metadata)``, the state shaped as ``template``.

    Args:
      path: the file; it is only read, whatever is found in it.
      template: a pytree of arrays or `jax.ShapeDtypeStruct`, such as a new state.

    Raises:
      FileNotFoundError: where there is no file.
      ValueError: for a file that is damaged, cut short or of another kind, and for one
        whose names, shapes or dtypes are not those of the template.

    >>> import pathlib, tempfile
    >>> import jax, optax, rnnjax
    >>> cell, optimizer = rnnjax.gru(3, 4), optax.adam(1e-3)
    >>> def start(key):
    ...     return rnnjax.training.init(cell.init(key), optimizer, key)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "checkpoint.npz"
    ...     rnnjax.training.save(path, start(jax.random.key(0)), {"hidden": 4})
    ...     template = jax.eval_shape(start, jax.random.key(1))
    ...     state, metadata = rnnjax.training.restore(path, template)
    >>> state.params.w_hh.shape, metadata
    ((4, 12), {'hidden': 4})
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected a checkpoint that rnnjax.training.save "
            "wrote. Start without resuming, or write the folder of an earlier run."
        )
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        header = json.loads(entries.pop(_HEADER))
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        leaves = header["leaves"]
        arrays = {name: _array(entries[f"{name}.npy"], leaves[name]) for name in leaves}
    except Exception as error:  # a damaged archive raises about anything
        raise ValueError(
            f"{path} cannot be read as a checkpoint of {_FORMAT!r} ({error!r}): it is "
            "damaged or something else. It was left as it is; write another path, or "
            "start without resuming."
        ) from error
    wanted = _named(template)
    advice = "It was left as it is; make the template as the saved state was made."
    lacking, strange = sorted(wanted - arrays.keys()), sorted(arrays.keys() - wanted)
    if lacking or strange:
        raise ValueError(
            f"{path} holds another state: it lacks {lacking[:3] or 'nothing'} and has "
            f"{strange[:3] or 'nothing'} too many. {advice}"
        )
    for name, leaf in wanted.items():
        found, expected = leaves[name]["type"], _type(leaf)
        if found != expected:
            raise ValueError(
                f"{path} holds {name} as {found}; expected {expected}. {advice}"
            )
    structure = jax.tree.structure(template)
    state = jax.tree.unflatten(structure, [arrays[name] for name in wanted])
    return state, header["metadata"]


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}


def _type(leaf: Any) -> str:
    shape = ",".join(map(str, jnp.shape(leaf)))
    return f"{jnp.result_type(leaf)}[{shape}]"


def _known(dtype: np.dtype) -> bool:
    """Whether numpy's files can name it: not bfloat16, nor anything smaller."""
    return dtype.isbuiltin == 1


def _array(content: bytes, leaf: dict[str, str]) -> Array:
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if "key" in leaf:
        return jax.random.wrap_key_data(jnp.array(array), impl=leaf["key"])
    dtype = jnp.dtype(leaf["type"].split("[")[0])
    array = jnp.array(array if _known(dtype) else array.view(dtype))
    if _type(array) != leaf["type"]:
        raise ValueError(f"an array is {_type(array)} and was {leaf['type']}")
    return array


def remove_leftovers(path: Path) -> None:
    """Delete what processes left beside ``path`` that were killed while writing it."""
    if os.name != "posix":
        return  # elsewhere signal 0 is not a question
    for file in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        pid = file.name[len(path.name) + 1 : -len(".tmp")]
        if pid.isdecimal() and not _is_running(int(pid)):
            file.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A file that takes the place of ``path`` once it is complete and on the disk."""
    # The process id keeps two runs with one folder from writing into one file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
