"""What follows from the measured times: means, ratios and shares."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks import workloads
from benchmarks.peers import ON_GPU, OURS
from benchmarks.workloads import CELLS, CHUNK, DTYPES, GRID, Case

BACKWARD_AIM = {"lstm": 1.4, "gru": 2.5, "elman": 1.5}
NAMES = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman"}
MODES = {"forward": "forward", "backward": "forward and backward"}


class Figure(NamedTuple):
    """One derived number, what it should be, and whether it is."""

    what: str
    value: float
    text: str
    aim: str = ""
    reached: bool | None = None


def case_of(entry: dict[str, Any]) -> Case:
    """The case of an entry in the results."""
    return Case(**entry["case"])


def median(entry: dict[str, Any], peer: str) -> float | None:
    """Seconds of a call, or None where there is no measurement."""
    return entry["peers"].get(peer, {}).get("median")


def geometric_mean(values: Iterable[float]) -> float:
    """The n-th root of the product, for ratios.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    values = list(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def times_faster(entry: dict[str, Any], peer: str) -> float | None:
    """The peer's time over ours: above 1 where we are faster."""
    theirs, ours = median(entry, peer), median(entry, OURS)
    return theirs / ours if theirs and ours else None


def best_jax_peer(entry: dict[str, Any]) -> str | None:
    """The fastest of the JAX libraries, ours left out."""
    timed = {
        peer: answer["median"]
        for peer, answer in entry["peers"].items()
        if peer not in (OURS, "torch", *ON_GPU) and "median" in answer
    }
    return min(timed, key=timed.__getitem__) if timed else None


def of_first_dtype(entries: list[dict]) -> list[dict]:
    """The entries of the dtype that was measured first; tables have the others too."""
    return [e for e in entries if case_of(e).dtype == case_of(entries[0]).dtype]


def derive(results: dict[str, Any]) -> list[Figure]:
    """All figures that the measured cases allow."""
    entries = results["cases"]
    figures = _means(entries)
    entries = of_first_dtype(entries)
    figures += _training(entries) + _rates(entries)
    figures += _bidirectional(entries) + _ragged(entries) + _vmap(entries)
    figures += _streams(entries) + _compile_times(entries) + _memory(entries)
    return figures


def _ratio(what: str, value: float, aim: float | None = None) -> Figure:
    if aim is None:
        return Figure(what, value, f"{value:.2f}")
    return Figure(what, value, f"{value:.2f}", f"≥ {aim:g}", value >= aim)


def _at_most(what: str, value: float, aim: float) -> Figure:
    return Figure(what, value, f"{value:.3f}", f"≤ {aim:g}", value <= aim)


def ratios(
    entries: list[dict],
    cell: str,
    mode: str,
    against: str | None,
    dtype: str = "float32",
) -> dict[str, float]:
    """How many times faster than a peer, or the best JAX one (``None``), in A to H."""
    rows = {}
    for entry in entries:
        case = case_of(entry)
        kind = (case.cell, case.mode, case.dtype)
        if case.workload in GRID and kind == (cell, mode, dtype):
            peer = against or best_jax_peer(entry)
            ratio = times_faster(entry, peer) if peer else None
            if ratio:
                rows[case.workload] = ratio
    return rows


def _means(entries: list[dict]) -> list[Figure]:
    figures = []
    kinds = itertools.product(("torch", None), MODES, CELLS, DTYPES)
    for against, mode, cell, dtype in kinds:
        rows = ratios(entries, cell, mode, against, dtype)
        if not rows:
            continue
        what = f"{against or 'best JAX library'} over ours, {NAMES[cell]} {MODES[mode]}"
        mean_aim, least_aim = 2.0, None
        if against == "torch":
            mean_aim = 1.3 if mode == "forward" else BACKWARD_AIM[cell]
            least_aim = 1.0
        if dtype != "float32":
            what, mean_aim, least_aim = f"{what} in {dtype}", None, None
        mean = geometric_mean(rows.values())
        letters, worst = "".join(rows), min(rows, key=rows.__getitem__)
        figures += [
            _ratio(f"{what}, mean of {letters}", mean, mean_aim),
            _ratio(f"{what}, least ({worst})", rows[worst], least_aim),
        ]
    return figures


def _training(entries: list[dict]) -> list[Figure]:
    return [
        _ratio(f"torch over ours, training step {entry['name']}", ratio, 1.0)
        for entry in entries
        if case_of(entry).mode == "train"
        and (ratio := times_faster(entry, "torch")) is not None
    ]


def _rates(entries: list[dict]) -> list[Figure]:
    """The rate of our forward pass as a share of the best measured product."""
    best = product_rate(entries)
    if best is None:
        return []
    figures = [Figure("float32 product, GFLOP/s", best / 1e9, f"{best / 1e9:.0f}")]
    for entry in entries:
        case, seconds = case_of(entry), median(entry, OURS)
        if case.workload not in GRID or case.mode != "forward" or not seconds:
            continue
        if case.hidden < 128 or case.dtype != "float32":
            continue
        share = workloads.flops(case) / seconds / best
        aim = {128: 0.7}.get(case.hidden, 0.85 if case.hidden >= 256 else None)
        what = f"share of it, {NAMES[case.cell]} forward {case.workload}"
        reached = None if aim is None else share >= aim
        aimed = "" if aim is None else f"≥ {aim:.0%}"
        figures.append(Figure(what, share, f"{share:.0%}", aimed, reached))
    return figures


def product_rate(entries: list[dict]) -> float | None:
    """Operations a second of the square product, in the library that is best at it."""
    rates = [
        workloads.flops(case_of(entry)) / answer["median"]
        for entry in entries
        if case_of(entry).mode == "product"
        for answer in entry["peers"].values()
        if "median" in answer
    ]
    return max(rates, default=None)


def _pairs(entries: list[dict], letter: str, **change: Any) -> Iterable[tuple]:
    """A case and its variant with those fields changed, both measured."""
    by_case = {case_of(entry): entry for entry in entries}
    for case, entry in by_case.items():
        other = case._replace(**change)
        if case.workload == letter and case != other and other in by_case:
            yield case, entry, by_case[other]


def _bidirectional(entries: list[dict]) -> list[Figure]:
    return [
        _ratio(
            f"torch over ours, bidirectional {NAMES[case.cell]} {MODES[case.mode]}",
            ratio,
            1.3,
        )
        for entry in entries
        if (case := case_of(entry)).bidirectional
        and not case.ragged
        and (ratio := times_faster(entry, "torch")) is not None
    ]


def _ragged(entries: list[dict]) -> list[Figure]:
    """What a step that is no padding takes, beside one of full sequences."""
    figures, aims = [], {"forward": 1.05, "backward": 1.15}
    for case, full, ragged in _pairs(entries, "I", ragged=True):
        lengths = workloads.data(case._replace(ragged=True)).lengths
        assert lengths is not None
        useful = int(lengths.sum()) / (case.batch * case.time)
        for peer in (OURS, "torch"):
            one, other = median(full, peer), median(ragged, peer)
            if one and other:
                what = f"ragged over full, per useful step, {peer} {NAMES[case.cell]}"
                what, value = f"{what} {MODES[case.mode]}", other / useful / one
                ours = peer == OURS
                plain = Figure(what, value, f"{value:.3f}")
                aimed = _at_most(what, value, aims[case.mode])
                figures.append(aimed if ours else plain)
    return figures


def _vmap(entries: list[dict]) -> list[Figure]:
    return [
        _at_most(
            f"vmap over explicit batch, {NAMES[case.cell]} {MODES[case.mode]}",
            mapped / explicit,
            1.05,
        )
        for case, batch, singles in _pairs(entries, "J", vmap=True)
        if (explicit := median(batch, OURS)) and (mapped := median(singles, OURS))
    ]


def _streams(entries: list[dict]) -> list[Figure]:
    figures = []
    for entry in entries:
        case, answer = case_of(entry), entry["peers"].get(OURS, {})
        if case.mode != "chunk" or "median" not in answer:
            continue
        what = f"stream in chunks of {CHUNK}, µs a sample, {NAMES[case.cell]}"
        value = answer["median"] / CHUNK * 1e6
        aim = case.hidden == 32
        figures.append(
            Figure(
                f"{what} H = {case.hidden}",
                value,
                f"{value:.2f}",
                "< 1" if aim else "",
                value < 1 if aim else None,
            )
        )
    return figures


def _compile_times(entries: list[dict]) -> list[Figure]:
    compiled = [e for e in entries if case_of(e).mode == "compile"]
    shortest = min((case_of(e).time for e in compiled), default=0)
    longest = max((case_of(e).time for e in compiled), default=0)
    figures = []
    for case, short, long in _pairs(compiled, "L", time=longest):
        few, many = median(short, OURS), median(long, OURS)
        if case.time == shortest and few and many:
            what = f"compile time, {longest} over {shortest} steps"
            what += f", {case.layers} layer" + ("s" if case.layers > 1 else "")
            figures.append(_at_most(what, many / few, 1.2))
    return figures


def _memory(entries: list[dict]) -> list[Figure]:
    figures = []
    for case, plain, saved in _pairs(entries, "M", checkpointed=True):
        whole = plain["peers"].get(OURS, {}).get("peak_bytes")
        less = saved["peers"].get(OURS, {}).get("peak_bytes")
        if whole and less:
            what = f"peak memory, checkpointed over default, {case.time} steps"
            figures.append(Figure(what, less / whole, f"{less / whole:.3f}"))
    return figures
