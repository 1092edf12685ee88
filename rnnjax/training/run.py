"""A run in a folder: epochs printed, logged and saved, and resumed where they ended."""

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax.cell import Params
from rnnjax.training.checkpoint import remove_leftovers, replacing, restore, save
from rnnjax.training.loop import TrainState

_CHECKPOINT, _LOG = "checkpoint.npz", "metrics.jsonl"


def fit(
    train: jax.stages.Wrapped,
    state: TrainState,
    data: Any,
    *,
    epochs: int,
    out: str | os.PathLike[str],
    config: dict[str, Any],
    evaluate: Callable[[Params], dict[str, Any]] = lambda params: {},
    history: Sequence[dict[str, Any]] = (),
    stop: Callable[[list[dict[str, Any]]], bool] = lambda history: False,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """A whole run: a printed line, a logged line and a checkpoint for each epoch.

    Args:
      train: what `epoch` returns.
      state: what `init` or `resume` returns; it is donated.
      data: the examples to train on.
      epochs: how many there are in all, those of ``history`` included.
      out: a folder for ``metrics.jsonl`` and ``checkpoint.npz``.
      config: JSON that says what run this is; `resume` compares it.
      evaluate: numbers to log beside the training metrics, from the params.
      history: what `resume` returns with the state.
      stop: asked after each epoch, and before the first, whether the history so far is
        enough, for example because a score has not improved for three epochs.

    Returns:
      The last state, and the history: one dict for each epoch, as in the log.
      ``"seconds"`` is the time of training alone.

    Raises:
      FloatingPointError: when the loss is not finite; the checkpoint before it stays.
      KeyboardInterrupt: on Ctrl-C, with a note that says how to go on.

    >>> import tempfile
    >>> import jax, jax.numpy as jnp, optax, rnnjax
    >>> def loss(params, batch, key):
    ...     return jnp.mean((batch - params) ** 2), {}
    >>> optimizer, key = optax.adam(0.1), jax.random.key(0)
    >>> train = rnnjax.training.epoch(loss, optimizer, batch_size=8)
    >>> state = rnnjax.training.init(jnp.zeros(()), optimizer, key)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     state, history = rnnjax.training.fit(
    ...         train, state, jnp.ones(80), epochs=2, out=out, config={"lr": 0.1}
    ...     )  # doctest: +ELLIPSIS
    compiled in ... s
    epoch 1/2  loss ...  ... s
    epoch 2/2  loss ...  ... s
    """
    out, history = Path(out), list(history)
    out.mkdir(parents=True, exist_ok=True)
    for name in (_CHECKPOINT, _LOG):
        remove_leftovers(out / name)
    # A run killed between its log and its checkpoint has logged an epoch too many.
    with replacing(out / _LOG) as file:
        file.writelines(_json_line(record) for record in history)
    if len(history) >= epochs or stop(history):
        return state, history
    data = jax.tree.map(jnp.asarray, data)  # once, not at every epoch
    start = time.perf_counter()
    compiled = train.lower(state, data).compile()
    print(f"compiled in {time.perf_counter() - start:.1f} s", flush=True)
    numbers, say = _progress(range(len(history) + 1, epochs + 1))
    try:
        for number in numbers:
            start = time.perf_counter()
            state, metrics = compiled(state, data)
            metrics = jax.tree.map(float, metrics)
            seconds = time.perf_counter() - start
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(
                    f"loss is {metrics['loss']} in epoch {number}; {out / _CHECKPOINT} "
                    "keeps the epoch before. Write a smaller learning rate, or put "
                    "optax.clip_by_global_norm(1.0) before the optimizer."
                )
            scores = jax.tree.map(float, evaluate(state.params))
            first = {"epoch": number, "loss": metrics.pop("loss")}
            record = first | metrics | scores | {"seconds": seconds}
            history.append(record)
            with (out / _LOG).open("ab") as file:
                file.write(_json_line(record))
            metadata = {"config": config, "history": history}
            save(out / _CHECKPOINT, state, metadata)
            say(_epoch_line(record, epochs))
            if stop(history):
                break
    except KeyboardInterrupt as interrupt:
        if history:
            interrupt.add_note(
                f"{out / _CHECKPOINT} has the last full epoch. Go on from there by "
                "rnnjax.training.resume; with a program of ours, by --resume."
            )
        raise
    return state, history


def resume(
    out: str | os.PathLike[str], state: TrainState, config: dict[str, Any]
) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state and history with which a run of `fit` goes on after its last epoch.

    On a CPU the result equals that of an uninterrupted run bit for bit.

    Args:
      out: the folder of the run.
      state: a new state, as the run began with; a template.
      config: as given to `fit`; it must be the same.

    Raises:
      FileNotFoundError, ValueError: from `restore`, and for another ``config``.

    >>> import tempfile
    >>> import jax, jax.numpy as jnp, optax, rnnjax
    >>> def loss(params, batch, key):
    ...     return jnp.mean((batch - params) ** 2), {}
    >>> optimizer, config = optax.adam(0.1), {"lr": 0.1}
    >>> train = rnnjax.training.epoch(loss, optimizer, batch_size=8)
    >>> def start():
    ...     return rnnjax.training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = rnnjax.training.fit(
    ...         train, start(), jnp.ones(80), epochs=1, out=out, config=config)
    ...     state, history = rnnjax.training.resume(out, start(), config)
    ...     _ = rnnjax.training.fit(
    ...         train, state, jnp.ones(80), epochs=2, out=out, config=config,
    ...         history=history)  # doctest: +ELLIPSIS
    compiled in ... s
    epoch 1/1  loss ...  ... s
    compiled in ... s
    epoch 2/2  loss ...  ... s
    """
    path = Path(out) / _CHECKPOINT
    state, metadata = restore(path, state)
    try:
        saved, history = metadata["config"], metadata["history"]
    except (TypeError, KeyError):
        raise ValueError(
            f"{path} has no config and history; expected a checkpoint of rnnjax."
            "training.fit. Read it with rnnjax.training.restore."
        ) from None
    config = json.loads(json.dumps(config))  # as it was read: no tuples
    for name in sorted(saved.keys() | config.keys()):
        if saved.get(name) != config.get(name):
            raise ValueError(
                f"{path} was written by a run with {name}={saved.get(name)!r}; this "
                f"one has {name}={config.get(name)!r}. Resume with the same options, "
                "or start without resuming."
            )
    return state, history


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
    import rnnjax  # the package imports this module before it has a version

    device = jax.devices()[0]
    cores = f" ({os.cpu_count()} cores)" if device.platform == "cpu" else ""
    versions = {
        "Python": platform.python_version(),
        "rnnjax": rnnjax.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "optax": optax.__version__,
        "numpy": np.__version__,
    }
    stated = " · ".join(f"{name} {version}" for name, version in versions.items())
    return f"device {device.device_kind}{cores} · {stated}"


def _json_line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _epoch_line(record: dict[str, Any], epochs: int) -> str:
    number = str(record["epoch"]).rjust(len(str(epochs)))
    values = [
        f"{name} {value:.4f}" if value > 0.01 else f"{name} {value:.2e}"
        for name, value in record.items()
        if name not in ("epoch", "seconds")
    ]
    return "  ".join(
        [f"epoch {number}/{epochs}", *values, f"{record['seconds']:.2f} s"]
    )


def _progress(epochs: Iterable[int]) -> tuple[Iterable[int], Callable[[str], None]]:
    """The epochs with a bar, on a terminal with tqdm, and how to print beside it."""
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return epochs, lambda line: print(line, flush=True)
    return tqdm(epochs, unit="epoch", leave=False), tqdm.write
