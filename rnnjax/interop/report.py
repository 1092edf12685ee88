"""What a conversion returns: the result, and how true it is to what came in."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from rnnjax.cell import Cell, Params

Verdict: TypeAlias = Literal["exact", "exact after merging biases", "lossy"]

_WORSE: tuple[Verdict, ...] = ("exact", "exact after merging biases", "lossy")


class Report(NamedTuple):
    """How true a conversion is, and what to know about it.

    ``verdict`` is one of

    - ``"exact"``: the same function of the same weights;
    - ``"exact after merging biases"``: the same function, but two biases that only
      ever occur as their sum became one, which an optimiser moves half as far;
    - ``"lossy"``: something could not be kept; ``notes`` says what, and how much.

    What would be another function is refused by a ``ValueError`` instead. ``notes``
    also tell what weights cannot say, for example an activation to set by hand.
    """

    verdict: Verdict
    notes: tuple[str, ...] = ()


class Imported(NamedTuple):
    """A cell with its params, ready for ``cell.unroll``, and the report."""

    cell: Cell
    params: Params
    report: Report


class Exported(NamedTuple):
    """NumPy arrays under the other library's names, nested as it has them."""

    arrays: dict[str, Any]
    report: Report


def combine(reports: Iterable[Report]) -> Report:
    """The worst verdict of several, and the notes of all of them once."""
    reports = tuple(reports)
    worst = max((_WORSE.index(r.verdict) for r in reports), default=0)
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    return Report(_WORSE[worst], tuple(notes))
