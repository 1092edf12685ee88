"""Weights in a safetensors file, under torch's names."""

import errno
import os
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_prefix
from rnnjax.interop.report import Imported, Report
from rnnjax.interop.torch import from_torch, to_torch


def save_safetensors(
    path: str | os.PathLike[str], cell: Cell, params: Params
) -> Report:
    """Write a cell's weights to a file that torch loads as a ``state_dict``.

    The names are those of `to_torch`, ``weight_ih_l0`` and so on, and what it refuses
    is refused here. In torch: ``module.load_state_dict(
    safetensors.torch.load_file(path))``.

    Args:
      path: the file; one that is there is replaced.
      cell: `lstm`, `full_lstm` with a projection, `gru`, `elman`, or `stack` and
        `bidirectional` of one of them.
      params: its params.

    Returns:
      The report of `to_torch`.

    Raises:
      ValueError: for cells that no torch module is.
      OSError: where the file cannot be written.
      ImportError: without the package safetensors, which the extra ``interop`` brings.

    >>> import os, tempfile, jax, rnnjax
    >>> cell = rnnjax.bidirectional(rnnjax.lstm(3, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "lstm.safetensors")
    ...     report = rnnjax.interop.save_safetensors(
    ...         path, cell, cell.init(jax.random.key(0)))
    ...     rnnjax.interop.load_safetensors(path).cell
    bidirectional(lstm(3, 5))
    """
    package, place = _package(), _checked(path)
    exported = to_torch(cell, params)
    # Torch's loaders want "format"; the rest is what no weight tells.
    metadata = {"format": "pt", "rnnjax": repr(cell)}
    if any("nonlinearity='relu'" in note for note in exported.report.notes):
        metadata["nonlinearity"] = "relu"
    if not os.path.isdir(os.path.dirname(place) or "."):
        raise FileNotFoundError(errno.ENOENT, "No such folder for the file", place)
    try:
        package.numpy.save_file(exported.arrays, place, metadata)
    except package.SafetensorError as error:  # it tells the path of a temporary file
        raise OSError(f"{place!r} could not be written: {error}") from None
    return exported.report


def load_safetensors(path: str | os.PathLike[str], *, prefix: str = "") -> Imported:
    """The cell in a safetensors file with torch's names, see `from_torch`.

    Args:
      path: a file of `save_safetensors`, or one that torch wrote.
      prefix: what the names start with in the file of a whole model, for example
        ``"encoder.lstm."``.

    Raises:
      ValueError: for names and shapes that are no torch RNN's, LSTM's or GRU's, and
        for a file that is damaged or of another format.
      FileNotFoundError: where there is none.
      ImportError: without the package safetensors, which the extra ``interop`` brings.

    >>> import os, tempfile, numpy as np, rnnjax, safetensors.numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     safetensors.numpy.save_file({
    ...         "encoder.weight_ih_l0": np.ones((15, 3), np.float32),
    ...         "encoder.weight_hh_l0": np.ones((15, 5), np.float32),
    ...         "decoder.weight": np.ones((2, 5), np.float32)}, path)
    ...     rnnjax.interop.load_safetensors(path, prefix="encoder.").cell
    gru(3, 5)
    """
    package, place = _package(), _checked(path)
    check_prefix(prefix)
    with open(place, "rb"):
        pass  # the package's own exceptions do not say what a path is
    try:
        with package.safe_open(place, framework="numpy") as file:
            names = [*file.keys()]
            # Without any of that prefix all are read, for the error to name them.
            wanted = [name for name in names if name.startswith(prefix)] or names
            arrays = {name: file.get_tensor(name) for name in wanted}
            metadata = file.metadata() or {}
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise ValueError(
            f"path is {place!r}, a file that safetensors cannot read ({reason[:200]}); "
            "expected one that save_safetensors or torch wrote. Write it again, it may "
            "be cut off or of another format."
        ) from None
    nonlinearity = metadata.get("nonlinearity", "tanh")
    if nonlinearity not in _ACTIVATIONS:
        raise ValueError(
            f"path is {place!r}, whose metadata has nonlinearity={nonlinearity[:40]!r};"
            " expected 'tanh' or 'relu', those of torch. Write its weights again, or "
            "convert its arrays by from_torch."
        )
    return from_torch(arrays, prefix=prefix, activation=_ACTIVATIONS[nonlinearity])


_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def _checked(path: Any) -> str:
    """The path as text, of a file or of nothing yet.

    Raises:
      TypeError, ValueError: for what names no file.
    """
    write = "Write path='lstm.safetensors'."
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(
            f"path is of type {type(path).__name__}; expected a text or pathlib.Path. "
            f"{write}"
        )
    place = os.fspath(path)
    if not place or "\0" in place or os.path.isdir(place):
        came = "is a folder" if os.path.isdir(place) else "names no file"
        raise ValueError(
            f"path is {place!r}, which {came}; expected the path of a file. {write}"
        )
    return place


def _package() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        error.add_note(
            "safetensors files need it. Write pip install 'rnnjax[interop]'."
        )
        raise
    return safetensors
