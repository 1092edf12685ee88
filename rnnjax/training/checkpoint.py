"""Checkpoints: any pytree and some JSON in one file, safely written and read."""

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rnnjax.training.files import replacing

_FORMAT = "rnnjax checkpoint 1"
_HEADER = "rnnjax.json"


def save(path: str | os.PathLike[str], state: Any, metadata: Any) -> None:
    """Write a pytree of arrays and some JSON to one file, wholly or not at all.

    The file is an ``.npz`` (``numpy.load`` opens it) with one JSON entry; nothing is
    pickled. All dtypes of JAX are kept, including bfloat16 and typed keys. It is
    written beside ``path``, forced to disk and renamed, so a crash leaves the old file.
    A symbolic link stays a link: the file that it leads to is replaced.

    Args:
      path: the file; its folder must exist.
      state: any pytree of arrays, such as a `TrainState`.
      metadata: anything that ``json.dumps`` takes, such as the run's configuration.

    Raises:
      FileNotFoundError: if the folder does not exist.
      TypeError: for a leaf that is not an array, and metadata that is not JSON.
      ValueError: if ``path`` is a folder or a device, if there is no array to save, for
        two leaves or two entries of the metadata with the same name, and for an array
        that is divided over processes.

    >>> import tempfile
    >>> import jax.numpy as jnp, numpy, rnnjax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rnnjax.training.save(f"{folder}/a.npz", {"w": jnp.ones(2)}, {"epoch": 3})
    ...     print(numpy.load(f"{folder}/a.npz").files)
    ['rnnjax.json', "['w']"]
    """
    arrays, leaves = {}, {}
    for name, leaf in _named(state).items():
        leaf = _as_array(name, leaf)
        leaves[name] = {"type": _type(leaf)}
        if is_key(leaf):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        arrays[name] = array.view(_stored(array.dtype))
    if not arrays:
        raise ValueError(
            f"state is {state!r}, which has no array in it; expected a pytree of "
            "arrays. Write rnnjax.training.save(path, params, metadata)."
        )
    header = {"format": _FORMAT, "metadata": metadata, "leaves": leaves}
    text = json.dumps(header, indent=1)
    _parsed(text, name="metadata")
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_HEADER, text)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def restore(path: str | os.PathLike[str], template: Any) -> tuple[Any, Any]:
    """Read what `save` wrote: ``(state, metadata)``, the state shaped as ``template``.

    Only the arrays that the template names are read, and no more bytes of each than the
    template says.

    Args:
      path: the file; it is only read, whatever is found in it.
      template: a pytree of arrays or `jax.ShapeDtypeStruct`, such as a new state.

    Raises:
      FileNotFoundError: if there is no file.
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
    wanted = _named(template)
    with _opened(path) as archive:
        with _damage(path):
            metadata, leaves = _header(archive)
        _check_fit(path, leaves, wanted)
        with _damage(path):
            arrays = [_read(archive, name, leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), arrays), metadata


def read_metadata(path: str | os.PathLike[str]) -> Any:
    """The metadata of a file that `save` wrote; raises as `restore` does."""
    with _opened(path) as archive, _damage(path):
        return _header(archive)[0]


def is_key(leaf: Any) -> bool:
    """Whether an array, or its shape, is one of typed keys."""
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def key_implementation(key: Any) -> Any:
    """Of keys or of their shape alone: JAX answers for traced keys, not for shapes."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]


# Names and types.


def _named(tree: Any) -> dict[str, Any]:
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path).lstrip(".")
        if name in named:
            raise ValueError(
                f"two leaves of the state are called {name}; expected a name for each. "
                "Write keys of dicts that print differently."
            )
        named[name] = leaf
    return named


def _as_array(name: str, leaf: Any) -> Array:
    if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
        raise ValueError(
            f"state has the leaf {name}, which is divided over processes as "
            f"{leaf.sharding}; expected arrays that this process has as a whole. Write "
            "rnnjax.training.orbax.save(path, state, metadata), on every process."
        )
    try:
        if not isinstance(leaf, str):  # JAX would take it for the name of a dtype
            return jnp.asarray(leaf)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"state has {leaf!r} as its leaf {name}; expected arrays and numbers. Write "
        "text and settings into metadata."
    )


def _type(leaf: Any) -> str:
    shape = ",".join(map(str, jnp.shape(leaf)))
    return f"{jnp.result_type(leaf)}[{shape}]"


def _stored(dtype: np.dtype) -> np.dtype:
    """The dtype in the file: NumPy's format has no name for bfloat16 and below."""
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


# Reading.


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} {'is not a file' if Path(path).exists() else 'does not exist'}; "
            "expected a checkpoint that rnnjax.training.save wrote. Start without "
            "resuming, or write the folder of an earlier run."
        )
    with Path(path).open("rb") as file:
        with _damage(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive


@contextlib.contextmanager
def _damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a damaged archive raises, which is about anything, into a sentence."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint of {_FORMAT!r} ({error!r}): it is "
            "damaged or something else. It was left as it is; write another path, or "
            "start without resuming."
        ) from error


def _header(archive: zipfile.ZipFile) -> tuple[Any, dict[str, str]]:
    """The metadata, and the type of each leaf by its name."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("two entries have one name")
    with _entry(archive, _HEADER) as file:
        header = _parsed(file.read(), name="its header")
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    leaves = {name: leaf["type"] for name, leaf in header["leaves"].items()}
    return header["metadata"], leaves


def _check_fit(
    path: str | os.PathLike[str], leaves: dict[str, str], wanted: dict[str, Any]
) -> None:
    advice = "It was left as it is; make the template as the saved state was made."
    lacking, strange = sorted(wanted.keys() - leaves), sorted(leaves.keys() - wanted)
    if lacking or strange:
        raise ValueError(
            f"{path} holds another state: it lacks {lacking[:3] or 'nothing'} and has "
            f"{strange[:3] or 'nothing'} too many. {advice}"
        )
    for name, leaf in wanted.items():
        if leaves[name] != _type(leaf):
            raise ValueError(
                f"{path} holds {name} as {leaves[name]}; expected {_type(leaf)}. "
                f"{advice}"
            )


def _read(archive: zipfile.ZipFile, name: str, wanted: Any) -> Array:
    """One array; its header is compared before any memory is asked for."""
    if is_key(wanted):
        data = jax.eval_shape(jax.random.key_data, wanted)
        integers = _read(archive, name, data)
        return jax.random.wrap_key_data(integers, impl=key_implementation(wanted))
    shape, dtype = jnp.shape(wanted), np.dtype(jnp.result_type(wanted))
    with _entry(archive, f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"the array {name} has a header of another version")
        found, by_columns, stored = np.lib.format.read_array_header_1_0(file)
        if (found, stored) != (shape, _stored(dtype)):
            raise ValueError(f"the array {name} is {stored}{list(found)}")
        size = dtype.itemsize * math.prod(shape)
        content = file.read(size + 1)  # one more, or the checksum would not be asked
    if len(content) != size:
        raise ValueError(f"the array {name} has another length")
    order = "F" if by_columns else "C"
    return jnp.array(np.frombuffer(content, dtype).reshape(shape, order=order))


def _entry(archive: zipfile.ZipFile, name: str) -> Any:
    """An entry as it was written: a compressed one may be far larger than its file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.open(info)


def _parsed(text: str | bytes, *, name: str) -> Any:
    """JSON in which no name stands twice, which Python would pass over."""

    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise ValueError(
                f"{name} has the name {twice!r} twice; expected different ones, also "
                "when written as JSON. Write strings as the keys of a dict."
            )
        return found

    return json.loads(text, object_pairs_hook=unique)
