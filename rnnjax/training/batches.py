"""Data as an iterator of batches: one epoch of them, and the place where it ended.

An iterator says where it stands if it has ``get_state()``, and goes there if it has
``set_state(state)``, as those of grain do.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rnnjax.training.loop import TrainState

Train = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]


def take(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """The next ``count`` of them.

    Raises:
      ValueError: if there are fewer.
    """
    for _ in range(count):
        try:
            yield next(batches)
        except StopIteration:
            raise ValueError(
                "data ended before the epoch did; expected an iterator that goes on. "
                "Write itertools.cycle(batches), or .repeat() for a data set of grain."
            ) from None


def read_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each read while the one before it is in use."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, items, end)
        while (item := following.result()) is not end:
            following = reader.submit(next, items, end)
            yield item


def train_over(
    train: Train, state: TrainState, batches: Iterable[Any], tick: Callable[[], Any]
) -> tuple[TrainState, dict[str, float]]:
    """One update after the other, and the means of their metrics.

    A call of ``train`` returns before the device is done, so the next batch is on its
    way there meanwhile. Waiting for the update before the last keeps them to two.
    """
    seen: list[dict[str, float]] = []
    running = None
    for batch in batches:
        state, metrics = train(state, batch)
        if running is not None:
            seen.append(jax.tree.map(float, running))
        running = metrics
        tick()
    seen.append(jax.tree.map(float, running))
    return state, {name: sum(m[name] for m in seen) / len(seen) for name in seen[0]}


def place(batches: Any) -> dict[str, Any] | None:
    """Where an iterator stands, as JSON, or None if it cannot say.

    Raises:
      TypeError: for a state that is neither bytes nor JSON.
    """
    if not hasattr(batches, "get_state"):
        return None
    state = batches.get_state()
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    try:
        if json.loads(json.dumps(state)) == state:
            return {"json": state}
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"data.get_state() returned {state!r}; expected bytes, or what JSON gives back "
        "as it was: numbers, strings, lists, and dicts whose keys are strings. Write "
        "json.dumps(state).encode() there and json.loads(state) in set_state."
    )


def find_place(path: Path, places: list[Any] | None, batches: Any) -> None:
    """Put an iterator where that of a run was, which the checkpoint at ``path`` says.

    Raises:
      TypeError: if it cannot go there.
      ValueError: if there is an iterator and no place, or the other way round.
    """
    if places is None and batches is None:
        return
    if places is None:
        raise ValueError(
            f"{path} was written by a run without an iterator that has a state; this "
            "one has data. Leave data out, and give them to rnnjax.training.fit alone."
        )
    if batches is None:
        raise ValueError(
            f"{path} was written by a run over an iterator, and knows where it was; "
            "expected one to put there. Write rnnjax.training.resume(out, state, "
            "config, data=batches), and the same iterator in rnnjax.training.fit."
        )
    if not hasattr(batches, "set_state"):
        raise TypeError(
            f"data is {batches!r}, which has no set_state; expected an iterator as the "
            "run was trained on. Write iter(loader) for a loader of grain."
        )
    place = place_of_process(places, jax.process_index(), jax.process_count())
    if "bytes" in place:
        batches.set_state(base64.b64decode(place["bytes"]))
    else:
        batches.set_state(place["json"])


def place_of_process(places: list[Any], process: int, processes: int) -> Any:
    """Of the places that were saved, one for each process then, the one for this.

    Raises:
      ValueError: if there is none, as the number of processes is another.
    """
    if len(places) == processes:
        return places[process]
    if all(place == places[0] for place in places):
        return places[0]
    raise ValueError(
        f"data had a different state in each of {len(places)} processes, and this run "
        f"has {processes}; expected as many, or one state for all of them. Resume with "
        f"{len(places)} processes, or write an iterator that counts global batches."
    )
