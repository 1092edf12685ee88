"""Names of arrays, sorted into layers and directions."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnjax.interop.arrays import check_dtypes, flatten, some
from rnnjax.interop.report import Report


class Group(NamedTuple):
    """The arrays of one direction of one layer, and what their names begin with."""

    stem: str
    arrays: dict[str, np.ndarray]


def grouped(
    flat: dict[str, np.ndarray], tails: Collection[str], source: str, sep: str = "/"
) -> dict[str, dict[str, np.ndarray]]:
    """Group ``stem/tail`` by stem, for known tails; the stems in their layers' order.

    The order is that of the dictionary, but stems which differ in their numbers only
    stand in numerical order, for sorted dictionaries have ``rnn_10`` before ``rnn_2``.

    Raises:
      ValueError: for names that end in none of the tails.
    """
    longest = sorted(tails, key=len, reverse=True)
    groups: dict[str, dict[str, np.ndarray]] = {}
    unknown = []
    for name, array in flat.items():
        for tail in longest:
            if name == tail or name.endswith(sep + tail):
                stem = name[: len(name) - len(tail)].rstrip(sep)
                groups.setdefault(stem, {})[tail] = array
                break
        else:
            unknown.append(name)
    # A cell has no cell inside: what looks like one is a dense layer around it.
    for stem in list(groups):
        if any(
            other.startswith(f"{stem}{sep}" if stem else "")
            for other in groups
            if other != stem
        ):
            unknown += [f"{stem}{sep}{t}".lstrip(sep) for t in groups.pop(stem)]
    if unknown:
        raise ValueError(
            f"arrays holds {some(unknown)}; expected nothing but weights of recurrent "
            f"layers that {source} has. Pass prefix= with what the layers' names start "
            "with, or a dictionary of theirs alone."
        )
    return dict(sorted(groups.items(), key=_by_number(groups)))


def _by_number(stems: Collection[str]):
    """Sort by numbers where the rest of all names is the same, else not at all."""
    same = len({re.sub(r"_?\d+", "", _one_direction(stem)) for stem in stems}) == 1

    def key(item):
        return [int(n) for n in re.findall(r"\d+", item[0])] if same else []

    return key


_DIRECTIONS = re.compile(r"(^|/)(fw|bw|forward|backward)(?=_|/|$)")


def _one_direction(stem: str) -> str:
    return _DIRECTIONS.sub(r"\1both", stem)


def paired(groups: Collection[str], source: str) -> list[tuple[str, ...]]:
    """Stems by layer, of one or two directions, forward first.

    A part of a stem that begins with ``forward``, ``backward``, ``fw`` or ``bw`` says
    which.

    Raises:
      ValueError: for a direction without the other.
    """
    layers: dict[str, dict[bool, Any]] = {}
    for stem in groups:
        found = _DIRECTIONS.search(stem)
        backwards = found is not None and found[2] in ("bw", "backward")
        layer = layers.setdefault(_one_direction(stem), {})
        layer[backwards] = stem
        if found is not None:
            layer.setdefault(not backwards, None)
    for name, layer in layers.items():
        if None in layer.values():
            raise ValueError(
                f"{source} has one direction of {name!r} only; expected both. For a "
                "single direction pass its arrays with prefix=."
            )
    return [tuple(layer[d] for d in sorted(layer)) for layer in layers.values()]


def layers_in(
    arrays: Mapping[Any, Any],
    tails: Collection[str],
    source: str,
    prefix: str,
    ignored: Collection[str] = (),
) -> tuple[list[tuple[Group, ...]], Report]:
    """The stem and the arrays, by tail, of each layer and direction.

    The report has a note on the order of the layers, which names alone may not tell.

    Raises:
      ValueError: for names that are not understood, and for dtypes that differ.
    """
    flat = flatten(arrays, prefix, ignored)
    groups = grouped(flat, tails, source)
    check_dtypes(flat)
    layers = [
        tuple(Group(stem, groups[stem]) for stem in stems)
        for stems in paired(groups, source)
    ]
    if len(layers) == 1:
        return layers, Report("exact")
    order = f"the layers were taken in this order: {', '.join(groups)}"
    return layers, Report("exact", (order,))
