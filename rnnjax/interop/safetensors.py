"""Weights in a safetensors file, under torch's names."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.cell import Cell, Params
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
    exported = to_torch(cell, params)
    # Torch's loaders want "format"; the rest is what no weight tells.
    metadata = {"format": "pt", "rnnjax": repr(cell)}
    if any("nonlinearity='relu'" in note for note in exported.report.notes):
        metadata["nonlinearity"] = "relu"
    _package().numpy.save_file(exported.arrays, os.fspath(path), metadata)
    return exported.report


def load_safetensors(path: str | os.PathLike[str], *, prefix: str = "") -> Imported:
    """The cell in a safetensors file with torch's names, see `from_torch`.

    Args:
      path: a file of `save_safetensors`, or one that torch wrote.
      prefix: what the names start with in the file of a whole model, for example
        ``"encoder.lstm."``.

    Raises:
      ValueError: for names and shapes that are no torch RNN's, LSTM's or GRU's.
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
    package = _package()
    with package.safe_open(os.fspath(path), framework="numpy") as file:
        names = [*file.keys()]
        # Without any of that prefix all are read, for the error to name them.
        wanted = [name for name in names if name.startswith(prefix)] or names
        arrays = {name: file.get_tensor(name) for name in wanted}
        metadata = file.metadata() or {}
    relu = metadata.get("nonlinearity") == "relu"
    activation = jax.nn.relu if relu else jnp.tanh
    return from_torch(arrays, prefix=prefix, activation=activation)


def _package() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        error.add_note(
            "safetensors files need it. Write pip install 'rnnjax[interop]'."
        )
        raise
    return safetensors
