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
from rnnjax.training.checkpoint import read_metadata, restore, save
from rnnjax.training.files import remove_leftovers, replacing
from rnnjax.training.loop import TrainState
from rnnjax.version import __version__

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
    overwrite: bool = False,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """A whole run: a checkpoint, a logged line and a printed line for each epoch.

    Args:
      train: what `epoch` returns.
      state: what `init` or `resume` returns; it is donated.
      data: the examples to train on.
      epochs: the number of epochs in the whole run, including those of ``history``.
      out: a folder for ``checkpoint.npz`` and ``metrics.jsonl``.
      config: a dict of JSON that says what run this is; `resume` compares it.
      evaluate: numbers to log beside the training metrics, from the params.
      history: what `resume` returns with the state.
      stop: asked before the first epoch and after each whether the history so far is
        enough, for example because a score has not improved for three epochs.
      overwrite: replace the run that ``out`` holds, if there is one.

    Returns:
      The last state, and the history: one dict for each epoch, as in the log.
      ``"seconds"`` is the time of training alone.

    Raises:
      FileExistsError: if ``out`` holds another run, which would be lost.
      TypeError, ValueError: for a ``config`` that is not JSON, or has NaN in it.
      FloatingPointError: if the loss is not finite; the checkpoint before it stays.
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
    _check_config(config)
    out, history = Path(out), list(history)
    out.mkdir(parents=True, exist_ok=True)
    for name in (_CHECKPOINT, _LOG):
        remove_leftovers(out / name)
    if not overwrite:
        _check_nothing_is_lost(out, history)
    # A run killed between its checkpoint and its log has logged an epoch too few.
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
                kept = f"{out / _CHECKPOINT} has the epoch before"
                raise FloatingPointError(
                    f"loss is {metrics['loss']} in epoch {number}; "
                    f"{kept if history else 'nothing is saved yet'}. Write a smaller "
                    "learning rate, or put optax.clip_by_global_norm(1.0) before the "
                    "optimizer."
                )
            scores = jax.tree.map(float, evaluate(state.params))
            first = {"epoch": number, "loss": metrics.pop("loss")}
            record = first | metrics | scores | {"seconds": seconds}
            history.append(record)
            metadata = {"config": config, "history": history}
            save(out / _CHECKPOINT, state, metadata)
            with (out / _LOG).open("ab") as file:
                file.write(_json_line(record))
            say(_epoch_line(record, epochs))
            if stop(history):
                break
    except KeyboardInterrupt as interrupt:
        if history:
            interrupt.add_note(
                f"{out / _CHECKPOINT} has the last full epoch. Go on from there with "
                "rnnjax.training.resume."
            )
        raise
    return state, history


def resume(
    out: str | os.PathLike[str], state: TrainState, config: dict[str, Any]
) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state and history with which a run of `fit` goes on after its last epoch.

    On a CPU the result equals that of an uninterrupted run bit for bit.

    A run can be given more epochs if its schedule allows it. One that spans the whole
    run, such as one cycle, does not: its rate has fallen by the end, and the curve for
    more epochs differs from the first update on. So let ``config`` hold the number of
    epochs where the schedule depends on it, and leave it out where the rate does not.

    Args:
      out: the folder of the run.
      state: a new state, as the run began with; a template.
      config: as given to `fit`; it must be the same.

    Raises:
      FileNotFoundError, ValueError: from `restore`, and for another ``config``.
      TypeError, ValueError: for a ``config`` that is not JSON, or has NaN in it.

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
    _check_config(config)
    path = Path(out) / _CHECKPOINT
    state, metadata = restore(path, state)
    try:
        saved, history = dict(metadata["config"]), list(metadata["history"])
    except (TypeError, ValueError, KeyError):
        raise ValueError(
            f"{path} has no config and history; expected a checkpoint of rnnjax."
            "training.fit. Read it with rnnjax.training.restore."
        ) from None
    config = json.loads(json.dumps(config))  # as it was read: no tuples
    for name in sorted(saved.keys() | config.keys()):
        before, now = saved.get(name), config.get(name)
        if before == now:
            continue
        why = "Resume with the same options"
        if name == "epochs":
            why = (
                "A learning rate that falls over the whole run, such as one cycle, has "
                f"another curve for {now} epochs from the first update on, so such a "
                f"run cannot be extended. Resume with epochs={before}"
            )
        raise ValueError(
            f"{path} was written by a run with {name}={before!r}; this one has "
            f"{name}={now!r}. {why}, or start a new run in another folder."
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


def _check_config(config: Any) -> None:
    """Every value of a dict of JSON, NaN excluded: it is never equal to itself."""
    if not isinstance(config, dict):
        raise TypeError(
            f"config is {config!r}; expected a dict of JSON. Write "
            'config={"hidden": 128, "seed": 0}.'
        )
    for name, value in config.items():
        if not isinstance(name, str):
            raise TypeError(
                f"config has the key {name!r}; expected strings. Write {str(name)!r}."
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise TypeError(
                f"config[{name!r}] is {value!r}; expected JSON: finite numbers, "
                "strings, booleans, None, and lists and dicts of them. Write float(x) "
                "for a number of NumPy or JAX, str(x) for a path."
            ) from None


def _check_nothing_is_lost(out: Path, history: list[dict[str, Any]]) -> None:
    """The run in the folder must be the beginning of the one that goes on."""
    path, log = out / _CHECKPOINT, out / _LOG
    if path.exists():
        try:
            held = read_metadata(path)["history"]
            what = f"{len(held)} epoch{'s' * (len(held) != 1)} of another run"
            # As text: a score may be NaN, which differs from itself.
            if json.dumps(held) == json.dumps(history[: len(held)]):
                return
        except (ValueError, TypeError, KeyError):
            what = "something other than a run"
    elif log.exists() and log.stat().st_size:
        path, what = log, "the log of another run"
    else:
        return
    raise FileExistsError(
        f"{path} holds {what}, which would be lost. Go on with that run by "
        "rnnjax.training.resume, write another folder, or overwrite=True to replace it."
    )


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
