"""A run in a folder: epochs printed, logged and saved, and resumed where they ended."""

import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnnjax import checks
from rnnjax.cell import Params
from rnnjax.training import batches, devices
from rnnjax.training.checkpoint import read_metadata, restore, save
from rnnjax.training.files import destination, remove_leftovers, replacing
from rnnjax.training.loop import TrainState, count_examples
from rnnjax.training.report import epoch_line, progress

_CHECKPOINT, _LOG = "checkpoint.npz", "metrics.jsonl"


def fit(
    train: jax.stages.Wrapped,
    state: TrainState,
    data: Any,
    *,
    epochs: int,
    out: str | os.PathLike[str],
    config: dict[str, Any],
    steps: int | None = None,
    evaluate: Callable[[Params], dict[str, Any]] = lambda params: {},
    history: Sequence[dict[str, Any]] = (),
    stop: Callable[[list[dict[str, Any]]], bool] = lambda history: False,
    on_epoch: Callable[[dict[str, Any]], Any] = lambda record: None,
    overwrite: bool = False,
    mesh: Mesh | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """A whole run: a checkpoint, a logged line and a printed line for each epoch.

    With a mesh over the devices of several processes, all of them call this with the
    same arguments, except that each hands in its own part of the data. Process 0 alone
    prints, logs and saves; the others read ``out`` too, so it is a folder that all
    share. Every process gets the history of process 0.

    Data that do not fit into memory come as an iterator. Each of its items is what one
    call of ``train`` gets: one batch or several. It is read while the one before it is
    computed. If the iterator has ``get_state`` and ``set_state``, as those of grain do,
    its state is saved too, and `resume` puts a new one where it was.

    Args:
      train: what `epoch` returns, made with the same mesh.
      state: what `init` or `resume` returns, the same in every process; it is donated.
      data: the examples to train on, as many in every process; or an iterator.
      epochs: the number of epochs in the whole run, including those of ``history``.
      out: a folder for ``checkpoint.npz`` and ``metrics.jsonl``.
      config: a dict of JSON that says what run this is; `resume` compares it.
      steps: of an iterator, how many items make an epoch.
      evaluate: numbers to log beside the training metrics, from the params.
      history: what `resume` returns with the state.
      stop: asked before the first epoch and after each whether the history so far is
        enough, for example because a score has not improved for three epochs.
      on_epoch: called with a copy of the record of each epoch once that is saved and
        logged, by the process that logs; for loggers such as TensorBoard.
      overwrite: replace the run that ``out`` holds, if there is one.
      mesh: a `jax.sharding.Mesh` with an axis ``"data"``, over which the data are
        divided.

    Returns:
      The last state, and the history: one dict for each epoch, as in the log.
      ``"seconds"`` is the time of training alone.

    Raises:
      FileExistsError: if ``out`` holds another run, which would be lost.
      TypeError, ValueError: for a ``config`` that is not JSON, or has NaN in it.
      TypeError, ValueError: for a ``mesh`` without an axis ``"data"``, and for data
        that its devices cannot share equally.
      ValueError: for an iterator without ``steps``, or that ends within an epoch.
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
    mesh = None if mesh is None else devices.checked(mesh)
    writes = mesh is None or jax.process_index() == 0
    _check_steps(steps, data)
    out, history = Path(out), list(history)
    out.mkdir(parents=True, exist_ok=True)
    for name in (_CHECKPOINT, _LOG):
        destination(out / name)
    if not overwrite:
        _check_nothing_is_lost(out, history)
    if mesh is not None:
        devices.wait("all have seen what the folder holds, before one writes to it")
    if writes:
        for name in (_CHECKPOINT, _LOG):
            remove_leftovers(out / name)
        # A run killed between its checkpoint and its log has logged an epoch too few.
        with replacing(out / _LOG) as file:
            file.writelines(_json_line(record) for record in history)
    if len(history) >= epochs or stop(history):
        return state, history
    on_device = functools.partial(_on_device, mesh=mesh)
    first = next(batches.take(data, 1)) if steps else data
    if mesh is not None:
        devices.check_shares(count_examples(first), mesh)
        state = devices.replicate(state, mesh)
    # Data that are no iterator are one item, which each epoch takes again.
    read = [on_device(first)]
    start = time.perf_counter()
    compiled = train.lower(state, *read).compile()
    if writes:
        print(f"compiled in {time.perf_counter() - start:.1f} s", flush=True)
    numbers = range(len(history) + 1, epochs + 1)
    try:
        with progress(len(numbers), steps, shown=writes) as (tick, say):
            for number in numbers:
                start = time.perf_counter()
                rest = batches.take(data, (steps or 1) - len(read))
                items = batches.read_ahead(itertools.chain(read, rest))
                state, metrics = batches.train_over(
                    compiled, state, map(on_device, items), tick
                )
                seconds = time.perf_counter() - start
                if steps:
                    read = []
                if not math.isfinite(metrics["loss"]):
                    kept = f"{out / _CHECKPOINT} has the epoch before"
                    raise FloatingPointError(
                        f"loss is {metrics['loss']} in epoch {number}; "
                        f"{kept if history else 'nothing is saved yet'}. Write a "
                        "smaller learning rate, or put optax.clip_by_global_norm(1.0) "
                        "before the optimizer."
                    )
                scores = jax.tree.map(float, evaluate(state.params))
                loss = metrics.pop("loss")
                record = {"epoch": number, "loss": loss} | metrics | scores
                record["seconds"] = seconds
                places = [batches.place(data)]
                if mesh is not None:
                    # stop must not answer differently for the seconds.
                    record = devices.everywhere(record)[0]
                    places = devices.everywhere(*places)
                history.append(record)
                if writes:
                    metadata = {"config": config, "history": history}
                    if None not in places:
                        metadata["data"] = places
                    whole = state if mesh is None else devices.local(state)
                    save(out / _CHECKPOINT, whole, metadata)
                    with (out / _LOG).open("ab") as file:
                        file.write(_json_line(record))
                    say(epoch_line(record, epochs))
                    on_epoch(dict(record))
                if stop(history):
                    break
    except KeyboardInterrupt as interrupt:
        if history:
            interrupt.add_note(
                f"{out / _CHECKPOINT} has the last full epoch. Go on from there with "
                "rnnjax.training.resume."
            )
        raise
    if mesh is not None:
        devices.wait("the last checkpoint is there for all")
    return state, history


def resume(
    out: str | os.PathLike[str],
    state: TrainState,
    config: dict[str, Any],
    *,
    data: Iterator[Any] | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state and history with which a run of `fit` goes on after its last epoch.

    On a CPU the result equals that of an uninterrupted run bit for bit. With a mesh the
    run may have begun on another number of devices and processes, or without one; then
    it is equal but for rounding, if both had one.

    A run can be given more epochs if its schedule allows it. One that spans the whole
    run, such as one cycle, does not: its rate has fallen by the end, and the curve for
    more epochs differs from the first update on. So let ``config`` hold the number of
    epochs where the schedule depends on it, and leave it out where the rate does not.

    Args:
      out: the folder of the run.
      state: a new state, as the run began with; a template.
      config: as given to `fit`; it must be the same.
      data: a new iterator, if the run was trained on one that has a state; it is put
        where that one was.
      mesh: as given to `fit`; the state is put on all its devices.

    Raises:
      FileNotFoundError, ValueError: from `restore`, and for another ``config``.
      TypeError, ValueError: for ``data`` that cannot be put where the run's were.
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
    mesh = None if mesh is None else devices.checked(mesh)
    state, metadata = restore(path, state)
    if mesh is not None:
        state = devices.replicate(state, mesh)
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
    batches.find_place(path, metadata.get("data"), data)
    return state, history


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


def _check_steps(steps: int | None, data: Any) -> None:
    if steps is None:
        if isinstance(data, Iterator):
            raise ValueError(
                "steps is None, and data is an iterator, which does not say where an "
                "epoch ends; expected a number of its items. Write steps=100."
            )
        return
    checks.size("steps", steps)
    if not isinstance(data, Iterator):
        raise TypeError(
            f"data is a {type(data).__name__}, and steps={steps} is for an iterator. "
            "Write iter(data) for a loader, or leave steps out for arrays."
        )


def _on_device(data: Any, mesh: Mesh | None) -> Any:
    if mesh is None:
        return jax.tree.map(jnp.asarray, data)
    return devices.divide(data, mesh)


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
