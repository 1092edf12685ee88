"""Run a group of cases: prepare every library, compare them, time them in turn."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import agree, machine, processes
from benchmarks.peers import OURS
from benchmarks.workloads import WORKLOADS, Case, Group, name

REFERENCES = ("torch", "scan", OURS)
BUSY = 0.05
# Calls so long need no more rounds, and calls so short need one to warm up.
SLOW_CALL, SLOW_ROUNDS = 0.5, 3
QUICK_CALL = 0.05


class Mismatch(RuntimeError):
    """Two libraries do not compute the same."""


class Effort(NamedTuple):
    """How often to measure: ``rounds`` turns, ``seconds`` for each library and case.

    ``warm``: the first call of a turn is not counted, however long it is. ``slack``
    multiplies what the libraries may differ by.
    """

    rounds: int
    seconds: float
    warm: bool = False
    slack: float = 1.0


Workers = dict[str, processes.Worker]


def run(group: Group, workers: Workers, effort: Effort, arrays: Path) -> list[dict]:
    """Measure the cases of a group together; returns an entry for each."""
    entries = [_prepare(case, workers, arrays) for case in group]
    _compare(group, entries, arrays, effort.slack)
    before, own = machine.load(), _own_ticks(workers)
    times = _time(entries, workers, effort)
    after = machine.load()
    shares = {}
    if before and after:
        shares = machine.foreign_share(before, after, _own_ticks(workers) - own)
    for entry in entries:
        entry["others"] = shares
        for peer, answer in entry["peers"].items():
            if times.get((entry["name"], peer)):
                answer |= _summary(times[entry["name"], peer])
    for peer in workers:
        _ask(workers, peer, "release")
    return entries


def _prepare(case: Case, workers: Workers, arrays: Path) -> dict[str, Any]:
    answers = {}
    for peer in workers:
        if peer not in (WORKLOADS[case.workload].peers or workers):
            continue
        answers[peer] = _ask(
            workers,
            peer,
            "prepare",
            name=name(case),
            case=case._asdict(),
            arrays=str(_file(arrays, case, peer)),
        )
    return {"name": name(case), "case": case._asdict(), "peers": answers}


def _ask(workers: Workers, peer: str, action: str, **request: Any) -> dict[str, Any]:
    try:
        answer = processes.ask(workers[peer], action=action, **request)
    except processes.Crashed as crash:
        workers[peer] = processes.restart(workers[peer])
        return {"failed": str(crash)}
    if "error" in answer:
        return {"failed": answer["error"].strip().splitlines()[-1]}
    return answer


def _file(arrays: Path, case: Case, peer: str) -> Path:
    return arrays / f"{name(case).replace(' ', '-')}-{peer}.npz"


def _compare(group: Group, entries: list[dict], arrays: Path, slack: float) -> None:
    """Every result against torch's; where torch has none, against the next reference's.

    A vmap and a recomputation change no number, so the plain case's reference serves.
    """
    expected: dict[Case, tuple[str, dict[str, np.ndarray]]] = {}
    wrong = []
    for case, entry in zip(group, entries, strict=True):
        plain = case._replace(vmap=False, checkpointed=False)
        for peer in sorted(entry["peers"], key=_rank):
            path = _file(arrays, case, peer)
            if not path.exists():
                continue
            with np.load(path) as stored:
                got = dict(stored)
            path.unlink()
            reference, values = expected.setdefault(plain, (peer, got))
            wrong += [
                f"{name(case)}: {peer} against {reference}: {line}"
                for line in agree.differences(values, got, slack)
            ]
    if wrong:
        raise Mismatch("\n".join(wrong))


def _rank(peer: str) -> int:
    return REFERENCES.index(peer) if peer in REFERENCES else len(REFERENCES)


def _time(
    entries: list[dict], workers: Workers, effort: Effort
) -> dict[tuple[str, str], list[float]]:
    times: dict[tuple[str, str], list[float]] = {}
    peers = list(workers)
    for turn in range(effort.rounds):
        # Nobody always comes after the same neighbour, whose caches it would inherit.
        start = turn % len(peers)
        for peer in peers[start:] + peers[:start]:
            for entry in entries:
                answer = entry["peers"].get(peer, {})
                first = answer.get("first_seconds")
                if first is None or "failed" in answer:
                    continue
                # A library's very first call may set up more than its later ones.
                known = times.setdefault((entry["name"], peer), [])
                typical = min([first, *known])
                if typical > SLOW_CALL and turn >= SLOW_ROUNDS:
                    continue
                reply = _ask(
                    workers,
                    peer,
                    "time",
                    name=entry["name"],
                    seconds=effort.seconds / effort.rounds,
                    warm_up=effort.warm or typical < QUICK_CALL,
                )
                if "failed" in reply:
                    answer |= reply
                else:
                    known += reply["seconds"]
    return times


def _own_ticks(workers: Workers) -> int:
    return machine.process_ticks([w.process.pid for w in workers.values()])


def _summary(seconds: list[float]) -> dict[str, float]:
    low, q1, median, q3, p99 = np.percentile(seconds, [0, 25, 50, 75, 99]).tolist()
    return {
        "calls": len(seconds),
        "best": low,
        "q1": q1,
        "median": median,
        "q3": q3,
        "p99": p99,
    }
