"""What a run says: the environment, the size of a model, its epochs, a bar."""

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from rnnjax.cell import Params
from rnnjax.version import __version__


def parameter_count(params: Params) -> int:
    """How many numbers the params hold.

    >>> import jax, rnnjax
    >>> params = rnnjax.lstm(28, 128).init(jax.random.key(0))
    >>> rnnjax.training.parameter_count(params)
    80384
    """
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def environment() -> str:
    """One line about the device and the versions that a result depends on.

    >>> import rnnjax
    >>> print(rnnjax.training.environment())  # doctest: +ELLIPSIS
    device ... · Python ... · rnnjax ... · jax ... · jaxlib ... · optax ... · numpy ...
    """
    device = jax.devices()[0]
    cores = f" ({os.cpu_count()} cores)" if device.platform == "cpu" else ""
    versions = {
        "Python": platform.python_version(),
        "rnnjax": __version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "optax": optax.__version__,
        "numpy": np.__version__,
    }
    stated = " · ".join(f"{name} {version}" for name, version in versions.items())
    return f"device {device.device_kind}{cores} · {stated}"


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """What is printed for an epoch."""
    number = str(record["epoch"]).rjust(len(str(epochs)))
    values = [
        f"{name} {value:.4f}" if value > 0.01 else f"{name} {value:.2e}"
        for name, value in record.items()
        if name not in ("epoch", "seconds")
    ]
    return "  ".join(
        [f"epoch {number}/{epochs}", *values, f"{record['seconds']:.2f} s"]
    )


@contextlib.contextmanager
def progress(
    epochs: int, steps: int | None, *, shown: bool
) -> Iterator[tuple[Callable[[], Any], Callable[[str], Any]]]:
    """A bar on a terminal with tqdm: what moves it on, and how to print beside it."""
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if not (shown and tqdm and sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda: None, lambda line: print(line, flush=True)
        return
    total, unit = (epochs * steps, "step") if steps else (epochs, "epoch")
    with tqdm(total=total, unit=unit, leave=False) as bar:
        yield bar.update, tqdm.write
